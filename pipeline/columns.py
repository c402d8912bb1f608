"""Rows as aligned columns of plain text, which `grep` and `cut` can take apart."""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns, the figures to the right, the last column as it is."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            [
                *(
                    cell.rjust(width) if rows and rows[0][at].isdigit() else cell.ljust(width)
                    for at, (cell, width) in enumerate(zip(row[:-1], widths[:-1], strict=True))
                ),
                row[-1],
            ]
        )
        for row in (head, *rows)
    ]
