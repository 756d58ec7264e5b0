"""The engine runs any two classes that derive from its base classes: a second, minimal project, in one file."""

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from litengine.cli import main
from litengine.data import Digits
from litengine.inference.predictor import load

PROJECT = """
import numpy as np
from torch import nn, optim
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from litengine.data import Source
from litengine.datamodule import ClassificationData
from litengine.module import ClassifierModule


class Net(nn.Sequential):
    def __init__(self, num_classes: int = 1, in_channels: int = 1, image_size: int = 1):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

class Model(ClassifierModule):
    default_network = "second_project.Net"

    def __init__(self, network: nn.Module, lr: float = 0.05):
        super().__init__(network, channels_last=False)
        self.lr = lr

    def step(self, split, logits, labels):
        loss = nn.functional.cross_entropy(logits, labels) + 1e-4 * logits.square().mean()
        self.count(split, loss, logits, labels)
        return loss if split == "train" else logits.softmax(1)

    def training_step(self, batch, batch_idx):
        return self.step("train", self.network(self.normalize(batch[0])), batch[1])

    def validation_step(self, batch, batch_idx):
        return self.step("val", self.infer(batch[0]), batch[1])

    def test_step(self, batch, batch_idx):
        return self.step("test", self.infer(batch[0]), batch[1])

    def configure_metrics(self):
        classes = len(self.class_names)
        return MetricCollection({"acc": MulticlassAccuracy(classes), "f1": MulticlassF1Score(classes)})

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), self.lr, momentum=0.9)

class Data(ClassificationData):
    def __init__(self, source: Source, batch_size: int = 64, seed: int = 0):
        super().__init__(source, batch_size, seed=seed)

    def split(self, name):
        images = self.source_split("test" if name == "test" else "train")
        held_out = np.arange(len(images.labels)) % 5 == 0
        return {"train": images.select(~held_out), "val": images.select(held_out), "test": images}[name]

    def train_dataloader(self):
        return self.loader("train", shuffle=True)

    def val_dataloader(self):
        return self.loader("val")

    def test_dataloader(self):
        return self.loader("test")
"""


@pytest.mark.usefixtures("undrawn")
def test_it_trains_resumes_tests_and_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(PROJECT.strip().splitlines()) <= 60
    Path("second_project.py").write_text(PROJECT)
    monkeypatch.syspath_prepend(tmp_path)
    classes = ("second_project.Model", "second_project.Data")
    short = ["--trainer.max_epochs", "2", "--trainer.logger", "false"]
    fit = ["fit", *short, "--model.lr", "0.1", "--checkpoints.monitor", "val/f1"]
    monkeypatch.setattr(sys, "argv", ["litengine", *classes, *fit])
    runpy.run_module("litengine", run_name="__main__")  # python -m litengine
    main(*classes, ["fit", "--resume", "last", "--trainer.max_epochs", "6"])
    (run,) = Path("runs").glob("*/*")
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 5
    main(*classes, ["test", "--ckpt_path", "best.ckpt"])
    scores = json.loads((run / "report/metrics.json").read_text())
    assert scores["test/acc"] > 0.8 and scores["test/f1"] > 0.8

    digits = Digits().load("test")
    images = digits.images[:20, 0].numpy()
    for index, image in enumerate(images):
        Image.fromarray(image).save(f"{index}.png")
    main(*classes, ["predict", "--ckpt_path", "best.ckpt", "--images", "*.png", "--output", "found.csv"])
    with open("found.csv", newline="") as file:
        found = {row["path"]: row["prediction"] for row in csv.DictReader(file)}
    predictions = load("best.ckpt", trust=["second_project"]).predict(list(images))
    assert [found[f"{index}.png"] for index in range(20)] == [prediction.label for prediction in predictions]
