"""What a test leaves in the run directory, on the terminal and with the tracker."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FakeSource, trainer
from lightning.pytorch.loggers import CSVLogger
from project_for_tests import ImageClassifier, ImageData
from sklearn.metrics import accuracy_score, f1_score, recall_score
from torch import nn
from wandb_file import WandbFile, find

from litengine.data import Arrays
from litengine.loggers import CSVMetrics, Wandb
from litengine.loggers.csv import read_rows
from litengine.report import page
from litengine.training import Console, WriteReport

REPORT = Path("report")


class Named(FakeSource):
    """Test images that have files."""

    def load(self, split):
        arrays = super().load(split)
        return Arrays(arrays.images, arrays.labels, [f"images/{place}, ü.png" for place in range(len(arrays.labels))])


def classifier(classes: int = 7, inputs: int = 3 * 8 * 8) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes)), lr_scheduler=None)


def data(source: type[FakeSource] = FakeSource, **options: Any) -> ImageData:
    """Seven classes, 48 test images in batches of 9."""
    return ImageData(source(train=[4] * 7, test=[5, 9, 7, 6, 10, 8, 3], **options), batch_size=9, val_fraction=0)


def measure(images: ImageData | None = None, **settings: Any) -> dict[str, float]:
    images = images or data()
    made = trainer(WriteReport(["python", "main.py", "test", "--x", "a b"]), **settings)
    (metrics,) = made.test(classifier(len(images.class_names)), images, verbose=False)
    return metrics


def predictions() -> list[dict[str, str]]:
    with (REPORT / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def no_page(monkeypatch):
    monkeypatch.setattr(page, "render", lambda *_: "")


def test_the_report_is_that_of_the_test():
    images = data()
    logged = measure(images)
    metrics = json.loads((REPORT / "metrics.json").read_text())
    assert metrics == pytest.approx(logged)
    rows = predictions()
    labels, predicted = ([row[column] for row in rows] for column in ("label", "prediction"))
    arrays, _ = images.subset("test")
    assert labels == [images.class_names[label] for label in arrays.labels]
    assert [row["image"] for row in rows] == [str(place) for place in range(48)]
    assert metrics["test/acc"] == pytest.approx(accuracy_score(labels, predicted))
    assert metrics["test/f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    recall = recall_score(labels, predicted, average=None)
    assert [metrics[f"test/acc/{name}"] for name in "abcdefg"] == pytest.approx(recall.tolist())
    assert set(metrics) == {"test/loss", "test/acc", "test/acc_top5", "test/ece", "test/f1"} | {
        f"test/acc/{name}" for name in "abcdefg"
    }
    with (REPORT / "per_class.csv").open(newline="") as file:
        per_class = list(csv.DictReader(file))
    assert [float(row["recall"]) for row in per_class] == pytest.approx(recall.tolist(), abs=1e-6)
    # by a way of its own: all images at once through the network
    model = classifier().eval()
    model.normalize.set([0.0] * 3, [1.0] * 3)
    probabilities = model(arrays.images).softmax(1)
    assert [float(row["confidence"]) for row in rows] == pytest.approx(probabilities.max(1).values.tolist(), abs=1e-5)
    assert predicted == [images.class_names[label] for label in probabilities.argmax(1)]
    assert sorted(path.name for path in REPORT.iterdir()) == [
        "index.html", "metrics.json", "per_class.csv", "predictions.csv",
    ]  # fmt: skip


def test_the_terminal_and_the_page_say_it_too(capsys):
    Path("metrics.csv").write_text("epoch,step,train/loss,val/loss\n0,9,1.5,2.5\n")
    Path("config.yaml").write_text("name: the <settings> of the run ü\n", encoding="utf-8")
    metrics = measure(data(Named), logger=CSVLogger("."))  # which takes no pictures
    said = capsys.readouterr().out
    assert "test images: 48" in said and "most confused" in said and "report: report/index.html" in said
    for name in ("test/acc", "test/acc_top5", "test/loss", "test/ece", "test/f1"):
        assert f"{metrics[name]:.4f}" in said.split(f" {name} ")[1].splitlines()[0]
    html = (REPORT / "index.html").read_text(encoding="utf-8")
    assert "python main.py test --x &#39;a b&#39;" in html and "the &lt;settings&gt; of the run ü" in html
    assert "Learning curves" in html and "Named, 48 test images" in html
    assert f"{100 * metrics['test/acc']:.2f}" in html and "images/0, ü.png" in [row["image"] for row in predictions()]


def test_a_class_without_test_images_is_absent_everywhere(capsys):
    images = ImageData(FakeSource(train=[4] * 3, test=[5, 0, 7]), batch_size=5, val_fraction=0)
    model = classifier(3)
    model.network[1].bias.data[1] = 9.0  # all are predicted as b, which has no images
    made = trainer(WriteReport(), Console(), logger=CSVMetrics("."))
    (logged,) = made.test(model, images, verbose=False)
    metrics = json.loads((REPORT / "metrics.json").read_text())
    assert {name for name in logged if name.startswith("test/acc/")} == {"test/acc/a", "test/acc/c"}
    assert logged.keys() == metrics.keys() and metrics["test/f1"] == metrics["test/acc/a"] == 0
    with (REPORT / "per_class.csv").open(newline="") as file:
        assert [*csv.reader(file)][2] == ["b", "", "", "", "0"]
    html = (REPORT / "index.html").read_text(encoding="utf-8")
    assert "<dt>classes without images</dt><dd>b</dd>" in html
    assert "no test images of b: means over classes leave these out" in capsys.readouterr().out
    assert "test/acc/a" in (columns := read_rows(Path("metrics.csv"))[0]) and "test/acc/b" not in columns


@pytest.mark.usefixtures("no_page")
def test_part_of_the_images_is_reported_as_such():
    measure(limit_test_batches=2)
    places = [int(row["image"]) for row in predictions()]
    assert len(places) == 18 and places == sorted(set(places))  # in order, each once; the classes are mixed evenly


def test_a_dry_run_prints_its_numbers_and_writes_nothing(capsys):
    measure(fast_dev_run=True)
    assert "test images: 9" in capsys.readouterr().out
    trainer(WriteReport(), limit_test_batches=0).test(classifier(), data(), verbose=False)
    assert not REPORT.exists()


def test_a_picture_that_fails_costs_neither_the_test_nor_its_numbers(monkeypatch, capsys):
    def fail(*args):
        raise RuntimeError("no [pen]")

    REPORT.mkdir()
    (REPORT / "index.html").write_bytes(before := b"an earlier one")
    monkeypatch.setattr(page, "render", fail)
    metrics = measure(limit_test_batches=3)
    assert json.loads((REPORT / "metrics.json").read_text()) == pytest.approx(metrics)
    assert len(predictions()) == 27 and (REPORT / "per_class.csv").exists()
    said = capsys.readouterr().out
    assert "the page of the report (its numbers are in report) failed (RuntimeError: no [pen])" in said
    assert (REPORT / "index.html").read_bytes() == before and len(list(REPORT.iterdir())) == 4


@pytest.mark.usefixtures("no_page")
def test_nothing_is_fetched_from_the_device_before_the_end(monkeypatch):
    callback, fetched = WriteReport(), []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: fetched.append(1) or self)
    made = trainer(callback, limit_test_batches=3)
    monkeypatch.setattr(
        callback, "on_test_epoch_end", lambda *_: (fetched.append("end"), WriteReport.on_test_epoch_end(callback, *_))
    )
    made.test(classifier(), data(), verbose=False)
    assert fetched[0] == "end" and len(fetched) > 1


@pytest.fixture
def wandb_logger(monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_MODE")
    logger = Wandb(mode="offline")
    yield logger
    logger.close()
    wandb.teardown()


def test_the_tracker_gets_tables_and_pictures(wandb_logger):
    import wandb

    measure(data(Named), logger=wandb_logger)
    wandb_logger.close()
    wandb.teardown()
    (file,) = find(Path("."))
    recorded = WandbFile(file)
    folder = file.parent / "files"
    for name in ("test/confusion_matrix", "test/reliability", "test/classes"):
        ((picture,),) = recorded.metric(f"{name}/filenames")
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    wrong = [row for row in predictions() if row["label"] != row["prediction"]]
    (captions,) = recorded.metric("test/mistakes/captions")
    (images,) = recorded.metric("test/mistakes/filenames")
    assert len(captions) == len(images) == min(24, len(wrong))
    surest = max(wrong, key=lambda row: float(row["confidence"]))
    share = f"{float(surest['confidence']):.2%}"
    assert captions[0] == f"{surest['prediction']} {share}, true: {surest['label']} ({surest['image']})"
    (table,) = recorded.metric("test/per_class/path")
    content = json.loads((folder / table).read_text())
    assert content["columns"] == ["class", "precision", "recall", "f1", "support"]
    with (REPORT / "per_class.csv").open(newline="") as csv_file:
        expected = [list(row.values()) for row in csv.DictReader(csv_file)]
    for ours, theirs in zip(content["data"], expected, strict=True):
        assert ours[0] == theirs[0] and ours[4] == int(theirs[4])
        known = [(a, float(b)) for a, b in zip(ours[1:4], theirs[1:4], strict=True) if b]
        np.testing.assert_allclose(*zip(*known, strict=True), atol=1e-6)
