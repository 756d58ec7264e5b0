"""The picture of the first batch is that batch, making it changes nothing, and the curves are drawn."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import FakeSource, fit
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from PIL import Image
from project_for_tests import ImageClassifier, ImageData, RandomCrop, RandomFlip
from torch import nn

from litengine.report import pictures
from litengine.training import BatchPicture, Checkpoints, DrawCurves
from litengine.training.exact_resume import random_state
from litengine.training.pictures import stacked

PICTURE = Path("augmented_batch.png")


def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 8 * 8, 3))
    return ImageClassifier(network, lr_scheduler=None)


def data(batch_size: int = 40, **options) -> ImageData:
    source = FakeSource(train=(20, 20, 20), **options)
    return ImageData(source, batch_size=batch_size, val_fraction=0, augment=[RandomCrop(2), RandomFlip()])


class Watch(Callback):
    """The first batch that was trained on, and the random state before it."""

    def on_train_batch_start(self, trainer, module, batch, index):
        if not hasattr(self, "images"):
            self.images, self.labels = batch
            self.state = random_state()


class Pictures(Logger):
    """Keeps the pictures that it is given."""

    name = version = ""

    def __init__(self) -> None:
        super().__init__()
        self.given = []

    def log_image(self, key, images, step=None):
        self.given.append((key, [np.asarray(image) for image in images], step))

    def log_metrics(self, metrics, step=None): ...

    def log_hyperparams(self, *args, **kwargs): ...


def test_it_shows_the_first_batch_as_it_is_trained_on(monkeypatch):
    given = []
    grid = pictures.image_grid
    monkeypatch.setattr(pictures, "image_grid", lambda images, titles: given.append(titles) or grid(images, titles))
    watch, logger = Watch(), Pictures()
    fit(classifier(), data(), BatchPicture(), watch, epochs=1, logger=logger)
    assert given == [["abc"[label] for label in watch.labels[:32].tolist()]]
    shown = np.asarray(Image.open(PICTURE).convert("RGB"))
    for place in range(32):  # 8 pixels enlarged to 96, 6 between, 18 for the title
        top, left = 18 + place // 8 * 114, 6 + place % 8 * 102
        block = shown[top : top + 96 : 12, left : left + 96 : 12]
        np.testing.assert_array_equal(block, watch.images[place].permute(1, 2, 0).numpy())
    ((key, (image,), step),) = logger.given
    assert (key, step) == ("train/augmented_batch", 0)
    assert (image == np.asarray(Image.open(io.BytesIO(PICTURE.read_bytes())))).all()


def test_it_changes_nothing():
    def run(*callbacks):
        watch, model = Watch(), classifier()
        fit(model, data(batch_size=16), *callbacks, watch, epochs=2)
        return watch, model

    (watch, model), (other, without) = run(BatchPicture()), run()
    for name, value in without.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert torch.equal(watch.images, other.images)
    assert watch.state["torch"].equal(other.state["torch"]) and watch.state["python"] == other.state["python"]
    assert watch.state["numpy"][1].equal(other.state["numpy"][1])


def test_not_when_resumed_and_not_in_a_dry_run():
    fit(classifier(), data(), BatchPicture(), Checkpoints(), epochs=1)
    PICTURE.unlink()
    fit(classifier(), data(), BatchPicture(), epochs=2, ckpt_path="checkpoints/last.ckpt")
    fit(classifier(), data(), BatchPicture(), fast_dev_run=True)
    assert not PICTURE.exists()


def test_a_picture_that_cannot_be_written_does_not_stop_the_fit(capsys):
    PICTURE.mkdir()
    trained = fit(classifier(), data(), BatchPicture(), epochs=1)
    assert trained.global_step == 2
    assert "the picture of the augmented batch failed (IsADirectoryError" in capsys.readouterr().out
    assert [path.name for path in Path(".").iterdir() if path.name.startswith(".")] == []


def rows(epochs: int) -> list[dict[str, str]]:
    table = []
    for epoch in range(epochs):
        values = {"train/loss": 1 / (epoch + 1), "val/loss": 1.0, "train/acc": 0.5, "val/acc": 0.4, "lr": 0.1}
        table.append({"epoch": str(epoch), "step": str(10 * epoch + 9), **{k: str(v) for k, v in values.items()}})
    return table


def test_three_curves_with_title_and_labels_stand_one_below_the_other(monkeypatch):
    figures, png = [], pictures.png
    monkeypatch.setattr(pictures, "png", lambda figure, dpi: figures.append(figure) or png(figure, dpi))
    sheet = Image.open(io.BytesIO(stacked(rows(3))))
    assert sheet.height == sum(round(110 * figure.get_figheight()) for figure in figures) and sheet.width > 400
    assert len(sheet.convert("L").getcolors()) > 20  # something is drawn
    words = [
        (axes.get_title(loc="right"), axes.get_xlabel(), axes.get_ylabel()) for (axes,) in (f.axes for f in figures)
    ]
    assert words == [
        ("Loss", "epoch", "loss"), ("Accuracy", "epoch", "accuracy"), ("Learning rate", "epoch", "learning rate"),
    ]  # fmt: skip
    assert stacked(rows(0)) is None


@pytest.mark.parametrize("content", [b"", b"epoch,step\n0", b"\xff\xfe\x00", None])
def test_a_damaged_table_does_not_stop_the_run(content, tmp_path):
    if content is not None:
        (tmp_path / "metrics.csv").write_bytes(content)
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), is_global_zero=True, current_epoch=1)
    DrawCurves().on_fit_end(trainer, None)
    assert not (tmp_path / "curves.png").exists()
