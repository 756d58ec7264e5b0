"""The tables of a report: on the terminal, and as CSV."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from litengine.files import csv_cell, visible
from litengine.report.metrics import ClassScores, Results

ROWS = 20
PAIRS = 10
NAME = 40  # characters


def for_terminal(results: Results, metrics: Mapping[str, float], rest: str) -> RenderableType:
    """The metrics, the scores of the classes and the most confused pairs.

    Args:
        results: of the test.
        metrics: by name, in the order in which they are shown.
        rest: the file with the classes that the table leaves out.
    """
    shown: list[RenderableType] = [_metrics(results, metrics), _classes(results, rest)]
    if pairs := results.most_confused(PAIRS):
        table = Table("true", "predicted", title="most confused")
        table.add_column("images", justify="right")
        for pair in pairs:
            names = (results.class_names[pair.label], results.class_names[pair.prediction])
            table.add_row(*map(_text, names), f"{pair.images:,}")
        shown.append(table)
    return Group(*shown)


def per_class_csv(results: Results) -> str:
    """A row a class, by label; empty where a score has no meaning."""
    rows = ([row.name, *map(_cell, (row.precision, row.recall, row.f1)), row.support] for row in results.per_class)
    return _csv(["class", "precision", "recall", "f1", "support"], rows)


def predictions_csv(results: Results, images: Sequence[str]) -> str:
    """A row an image: what it is called, its true class, the predicted one, and its probability."""
    names = results.class_names
    columns = (results.labels.tolist(), results.predictions.tolist(), results.confidences.tolist())
    rows = (
        [image, names[label], names[prediction], f"{confidence:.6f}"]
        for image, label, prediction, confidence in zip(images, *columns, strict=True)
    )
    return _csv(["image", "label", "prediction", "confidence"], rows)


def _csv(header: list[str], rows: Iterable[list[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(map(csv_cell, row) for row in rows)
    return text.getvalue()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def _metrics(results: Results, metrics: Mapping[str, float]) -> Table:
    table = Table("metric", title=f"test images: {len(results.labels):,}")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    return table


def _classes(results: Results, rest: str) -> Table:
    classes = len(results.class_names)
    few = classes <= ROWS
    chosen: Sequence[ClassScores] = results.per_class if few else results.worst_classes(ROWS)
    table = Table("class", title=None if few else f"lowest F1 of {classes:,} classes; all: {rest}")
    for name in ("precision", "recall", "F1", "images"):
        table.add_column(name, justify="right")
    for row in chosen:
        table.add_row(_text(row.name), *map(_number, (row.precision, row.recall, row.f1)), f"{row.support:,}")
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _text(name: str) -> Text:
    """A name as it is: brackets are no markup."""
    text = Text(visible(name), no_wrap=True)
    text.truncate(NAME, overflow="ellipsis")
    return text
