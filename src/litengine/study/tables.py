"""The results of a study as a CSV file and as a table on the terminal."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litengine.files import write_whole

Row = dict[str, Any]  # column -> value; a missing value, None and NaN give an empty cell


def print_text(text: str) -> None:
    """Prints plain text above the progress bars."""
    import rich

    rich.get_console().print(text, highlight=False, soft_wrap=True, markup=False)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if _is_missing(row.get(column)) else row[column] for column in columns] for row in rows])
    write_whole(path, text.getvalue())


def print_table(title: str, columns: dict[str, str], rows: Sequence[Row]) -> None:
    """Prints a table; `columns` maps the keys of the rows to headings. Metrics have four decimals."""
    import rich
    from rich.table import Table

    console = rich.get_console()
    table = Table(title=title)
    for index, heading in enumerate(columns.values()):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(column, row.get(column)) for column in columns))
    if not console.is_terminal:  # a file has no edge
        table.width = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.print(table, crop=False)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Maps each dotted key to its last part, or to itself if two keys end alike."""
    ends = [key.rpartition(".")[2] for key in keys]
    return {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cell(column: str, value: Any) -> str:
    if _is_missing(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if "/" in column else f"{value:.3g}"
    return str(value)
