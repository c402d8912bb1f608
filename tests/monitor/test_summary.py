import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.monitor.plot import curve_plot
from pipeline.monitor.summary import Measured, Promoted, Summary, render

SUMMARY = Summary(
    run="quickstart",
    headline="245 steps, 2,007,040 tokens, in 4:05",
    sources=[
        {"source": "prose", "read": 12345, "dropped": {"too_short": 700, "exact_duplicate": 534, "not_utf8": 0},
         "heldout": 62, "kept": 11049, "tokens": 1234567},
        {"source": "code", "read": 1802, "dropped": 102, "heldout": 9, "kept": 1691, "tokens": 2345678},
    ],
    losses=[(step, 3 + 5 * math.exp(-step / 30)) for step in range(1, 246)],
    before=Measured(step=0, value=4.0, standard_error=0.0123),
    after=Measured(step=245, value=2.0, standard_error=None),
    promoted=Promoted(
        alias="quickstart@production", step=245, checkpoint="workspace/runs/quickstart/checkpoints/step-00000245",
        digest="9f1c2ab3d4e5f60718", generation=4, why="better: 2.0 against 2.1",
    ),
    sample="def f():\n\treturn \x1b[31m1",
    next_commands=[("headrace verify configs/quickstart.yaml", "replay the proof")],
)  # fmt: skip


def test_says_all_that_a_newcomer_wants_to_know() -> None:
    text = render(SUMMARY)
    for expected in (
        r"prose +12,345 +1,234 +62 +11,049 +1,234,567",
        r"total +14,147 +1,336 +71 +12,740 +3,580,245",
        r"dropped from prose: +too short 700, exact duplicate 534$",
        r"step 0 +4\.0000 ± 0\.0123",
        r"step 245 +2\.0000 +-50\.0%",
        r"quickstart@production -> step 245, generation 4",
        r"checkpoints/step-00000245  \(sha256 9f1c2ab3d4e5\)",
        r"│     return ·\[31m1",
        r"  # replay the proof\n  headrace verify configs/quickstart.yaml",
    ):
        assert re.search(expected, text, re.MULTILINE), expected


def test_fits_the_screen_and_has_no_colours_in_a_file() -> None:
    long = replace(SUMMARY, sample="x" * 500 + "\n" * 100, headline="word " * 40)
    text = render(long)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) < 70
    assert "\x1b[" in render(SUMMARY, colour=True)


def test_leaves_out_what_is_not_known() -> None:
    assert render(Summary(run="tiny")) == "headrace  run tiny"
    assert "step 0" not in render(replace(SUMMARY, before=None))


def test_output_is_a_pure_function() -> None:
    assert render(SUMMARY) == render(SUMMARY)


def test_curve_falls_from_the_upper_left_to_the_lower_right() -> None:
    lines = curve_plot([(x, 10.0 - x) for x in range(11)], width=40, height=8, x_name="step").splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("10.00 ┤")
    assert lines[7].startswith(" 0.00 ┤")
    assert lines[9].split() == ["0", "step", "10"]
    drawn = [len(line.rstrip()) for line in lines[:8]]
    assert drawn == sorted(drawn), "each line of a falling curve reaches further right"
    assert drawn[-1] == 40


points = st.lists(
    st.tuples(st.integers(0, 10**7), st.floats(-1e4, 1e4)), min_size=1, max_size=60, unique_by=lambda point: point[0]
).map(sorted)


@given(points, st.integers(40, 120), st.integers(3, 15))
def test_any_curve_fits_its_frame(points: list[tuple[float, float]], width: int, height: int) -> None:
    lines = curve_plot(points, width, height, x_name="step").splitlines()
    assert len(lines) == height + 2
    assert max(map(len, lines)) <= width
    assert any(0x2800 < ord(char) <= 0x28FF for line in lines for char in line)


def test_no_points_no_plot() -> None:
    assert curve_plot([]) == ""


def test_noise_is_averaged_where_columns_hold_many_points() -> None:
    noisy = [(float(step), 5.0 + (3.0 if step % 2 else -3.0)) for step in range(4000)]
    top = float(curve_plot(noisy, width=40, height=5).split()[0])
    assert top == pytest.approx(5.0, abs=0.2)


def test_render_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    render(SUMMARY)
    assert capsys.readouterr() == ("", "")


def test_what_another_run_has_promoted_is_not_taken_for_ours() -> None:
    assert SUMMARY.promoted is not None
    text = render(replace(SUMMARY, promoted=replace(SUMMARY.promoted, run="older")))
    assert "promoted: nothing of this run, so it stays" in text
    assert "quickstart@production -> step 245 of older, generation 4" in text
    assert "nothing of this run" not in render(SUMMARY)
