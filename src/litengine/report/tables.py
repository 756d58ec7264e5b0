"""The tables of a report: on the terminal, and as CSV."""

import math
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from litengine.files import csv_text, visible
from litengine.report.metrics import Results

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
    numbers = _table(["metric"], ["value"], f"test images: {len(results.labels):,}")
    for name, value in metrics.items():
        numbers.add_row(name, f"{value:.4f}")

    names = results.class_names
    few = len(names) <= ROWS
    title = None if few else f"lowest F1 of {len(names):,} classes; all: {rest}"
    classes = _table(["class"], ["precision", "recall", "F1", "images"], title)
    for row in results.per_class if few else results.worst_classes(ROWS):
        scores = (_number(score, "–", 4) for score in (row.precision, row.recall, row.f1))
        classes.add_row(_text(row.name), *scores, f"{row.support:,}")

    confused = _table(["true", "predicted"], ["images"], "most confused")
    for pair in results.most_confused(PAIRS):
        confused.add_row(_text(names[pair.label]), _text(names[pair.prediction]), f"{pair.images:,}")
    return Group(numbers, classes, *([confused] if confused.row_count else []))


def per_class_csv(results: Results) -> str:
    """A row for each class, by label; empty where a score has no meaning."""
    rows = (
        [row.name, *(_number(score, "", 6) for score in (row.precision, row.recall, row.f1)), row.support]
        for row in results.per_class
    )
    return csv_text(["class", "precision", "recall", "f1", "support"], rows)


def predictions_csv(results: Results, images: Sequence[str]) -> str:
    """A row for each image: its name, its true class, the predicted one, and its probability."""
    names = results.class_names
    columns = (results.labels.tolist(), results.predictions.tolist(), results.confidences.tolist())
    rows = (
        [image, names[label], names[prediction], f"{confidence:.6f}"]
        for image, label, prediction, confidence in zip(images, *columns, strict=True)
    )
    return csv_text(["image", "label", "prediction", "confidence"], rows)


def _table(texts: list[str], numbers: list[str], title: str | None) -> Table:
    table = Table(*texts, title=title)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _number(value: float, missing: str, digits: int) -> str:
    return missing if math.isnan(value) else f"{value:.{digits}f}"


def _text(name: str) -> Text:
    """A name as it is: brackets are not markup."""
    text = Text(visible(name), no_wrap=True)
    text.truncate(NAME, overflow="ellipsis")
    return text
