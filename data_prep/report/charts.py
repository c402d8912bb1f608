"""Tables and bars of a report.

Drawings are SVG in percent of their width and carry no text but axis labels, so type has the same size on a phone as
on a screen; every figure in them also stands in a table.
"""

from collections.abc import Iterable, Sequence

from data_prep.report.markup import Html, element, joined

CHART_HEIGHT = 120
LABEL_HEIGHT = 20
LABELS = 6
"""Labels that fit below a histogram on a phone."""


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], foot: Sequence[str] = ()) -> Html:
    """A first column of names, the others of numbers."""
    first, *others = head
    columns = joined(element("th", first, scope="col"), *(element("th", one, scope="col") for one in others))
    content = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", columns)),
        element("tbody", *map(_row, rows)),
        element("tfoot", _row(foot)) if foot else None,
    )
    # What is wider than a phone is scrolled in its own box, by keyboard too.
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _row(cells: Sequence[str]) -> Html:
    first, *others = cells
    return element("tr", element("th", first, scope="row"), *(element("td", one) for one in others))


def named_bar(name: str, kept: float, lost: float = 0.0) -> Html:
    """A name with a bar beside it. `kept` and behind it `lost` are shares of the bar's width."""
    return element("div", element("span", name), bar(kept, lost), class_="named")


def bar(kept: float, lost: float = 0.0) -> Html:
    parts = [_rect(0, kept, "kept"), _rect(kept, lost, "lost")]
    return element("svg", *parts, class_="bar", aria_hidden="true", focusable="false")


def _rect(start: float, width: float, kind: str) -> Html | None:
    if width <= 0:
        return None
    return element("rect", x=_percent(start), width=_percent(width), height="100%", class_=kind)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}%"


def histogram(label: str, kept: dict[int, int], lost: dict[int, int]) -> Html:
    """Log2 bins of byte lengths, kept below and dropped above; see `Outcome.lengths` for the bins."""
    bins = range(min((*kept, *lost)), max((*kept, *lost)) + 1)
    highest = max(kept.get(one, 0) + lost.get(one, 0) for one in bins)
    step = 1 / len(bins)
    drawn: list[Html] = []
    for place, one in enumerate(bins):
        top = float(CHART_HEIGHT)
        for kind, counts in (("kept", kept), ("lost", lost)):
            if counts.get(one):
                # One document in a million still leaves a trace.
                height = max(1.0, (CHART_HEIGHT - 1) * counts[one] / highest)
                top -= height
                drawn.append(
                    element(
                        "rect",
                        x=_percent((place + 0.08) * step),
                        y=f"{top:.2f}",
                        width=_percent(0.84 * step),
                        height=f"{height:.2f}",
                        class_=kind,
                    )
                )
        if place % -(-len(bins) // LABELS) == 0:
            drawn.append(
                element("text", power(one), x=_percent((place + 0.5) * step), y=CHART_HEIGHT + 14, text_anchor="middle")
            )
    return element("svg", *drawn, class_="histogram", height=CHART_HEIGHT + LABEL_HEIGHT, role="img", aria_label=label)


def power(width: int) -> str:
    """The least length of a bin, in binary units: `512 B`, `1 KiB`."""
    least = 2 ** (width - 1) if width else 0
    for unit in ("B", "KiB", "MiB", "GiB"):
        if least < 1024:
            return f"{least} {unit}"
        least //= 1024
    return f"{least} TiB"
