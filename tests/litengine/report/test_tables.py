"""Tables on the terminal and as CSV."""

import csv
import io

import pytest
import torch
from report_examples import ODD, named, results
from rich.console import Console

from litengine.files import visible
from litengine.report import Results, tables


def printed(ours: Results, metrics: dict[str, float], width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(tables.for_terminal(ours, metrics, "runs/per_class.csv"), highlight=False, soft_wrap=True)
    return console.file.getvalue()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│ \n").split("│")]


def test_the_terminal_shows_metrics_classes_and_the_most_confused():
    ours = results(10)
    shown = printed(ours, {"test/acc": 0.25, "test/loss": 0.5, "test/ece": 0.125})
    rows = [cells(line) for line in shown.splitlines() if "│" in line]
    assert "test images: 600" in shown
    assert rows[:3] == [["test/acc", "0.2500"], ["test/loss", "0.5000"], ["test/ece", "0.1250"]]
    row = ours.per_class[4]
    assert ["class 4", *(f"{value:.4f}" for value in (row.precision, row.recall, row.f1)), str(row.support)] in rows
    assert ["class 1", "–", "0.0000", "0.0000", str(ours.per_class[1].support)] in rows
    assert [row[0] for row in rows[3:13]] == [f"class {label}" for label in range(10)]
    pairs = [[f"class {pair.label}", f"class {pair.prediction}", str(pair.images)] for pair in ours.most_confused(10)]
    assert rows[13:] == pairs


def test_of_many_classes_the_terminal_shows_the_twenty_worst():
    ours = results(100, 3000)
    shown = printed(ours, {})
    rows = [cells(line) for line in shown.splitlines() if "│" in line]
    assert [row[0] for row in rows[:20]] == [row.name for row in ours.worst_classes(20)]
    assert len(rows) == 20 + 10 and "lowest F1 of 100 classes; all: runs/per_class.csv" in shown


def test_names_are_no_markup_and_no_longer_than_the_screen():
    shown = printed(named(["[bold]x[/bold]", "[/]", *ODD]), {})
    assert "[bold]x[/bold]" in shown and "[/]" in shown and max(len(line) for line in shown.splitlines()) <= 100
    perfect = Results.of(torch.eye(3), torch.arange(3), list("abc"))
    assert "confused" not in printed(perfect, {})


def test_per_class_csv_holds_every_score():
    ours = results(10)
    rows = list(csv.DictReader(io.StringIO(tables.per_class_csv(ours))))
    assert [row["class"] for row in rows] == list(ours.class_names)
    assert [int(row["support"]) for row in rows] == [row.support for row in ours.per_class]
    assert [float(row["f1"]) for row in rows[:1]] == pytest.approx([row.f1 for row in ours.per_class[:1]], abs=1e-6)
    assert rows[1]["precision"] == "" and float(rows[1]["recall"]) == 0


def test_predictions_csv_holds_every_image():
    ours = named([*ODD, 'comma, "quote"'])
    images = [f'odd, "name"\n{number}\udcff.png' for number in range(len(ours.labels))]
    rows = list(csv.DictReader(io.StringIO(tables.predictions_csv(ours, images), newline="")))
    assert [row["image"] for row in rows] == [f'odd, "name"\\n{number}\\xff.png' for number in range(len(images))]
    assert [row["label"] for row in rows] == [visible(ours.class_names[label]) for label in ours.labels.tolist()]
    predicted = [visible(ours.class_names[label]) for label in ours.predictions.tolist()]
    assert [row["prediction"] for row in rows] == predicted
    assert [float(row["confidence"]) for row in rows] == pytest.approx(ours.confidences.tolist(), abs=1e-6)
