import math
import os
from pathlib import Path

import pytest
import torch
from helpers import FakeSource, fit
from lightning.pytorch import Callback, LightningModule
from project_for_tests import ImageData
from torch import nn

from litengine.training import Checkpoints

BEST, LAST = Path("checkpoints/best.ckpt"), Path("checkpoints/last.ckpt")


class Scores(LightningModule):
    """Logs the `val/acc` it is told for each epoch, and counts its epochs in a weight."""

    def __init__(self, scores: list[float], name: str = "val/acc") -> None:
        super().__init__()
        self.scores, self.name = scores, name
        self.steps = nn.Parameter(torch.zeros(()))

    def higher_is_better(self, name):
        return name == "val/acc"

    def training_step(self, batch, index):
        return -self.steps  # with SGD at 1.0 each step adds 1

    def validation_step(self, batch, index):
        self.log(self.name, 100.0 if self.trainer.sanity_checking else self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def data(val_fraction: float = 0.2) -> ImageData:
    """3 steps an epoch."""
    return ImageData(FakeSource(), batch_size=8 if val_fraction else 10, val_fraction=val_fraction)


def run(scores: list[float], checkpoints: Checkpoints, *callbacks: Callback, **settings) -> Checkpoints:
    val_fraction = settings.pop("val_fraction", 0.2)
    name = settings.pop("name", "val/acc")
    settings = {"epochs": len(scores)} | settings
    fit(Scores(scores, name), data(val_fraction), checkpoints, *callbacks, **settings)
    return checkpoints


def steps(path: Path) -> int:
    """Training steps that the weights in a checkpoint have seen."""
    content = torch.load(path, weights_only=True)
    assert content["global_step"] == content["state_dict"]["steps"]
    return content["global_step"]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.5, 0.4], 0),
        ([0.1, 0.5, 0.5, 0.4], 2),  # of equals the newer
        ([math.nan, 0.1, math.nan], 1),
    ],
)
def test_best_is_the_newest_with_the_highest_score_and_last_is_the_last(scores, best):
    checkpoints = run(scores, Checkpoints())
    assert (checkpoints.best_epoch, checkpoints.best_score) == (best, pytest.approx(scores[best]))
    assert steps(BEST) == 3 * (best + 1)
    assert steps(LAST) == 3 * len(scores)
    assert sorted(os.listdir("checkpoints")) == ["best.ckpt", "last.ckpt"]
    assert Path("best.ckpt").is_symlink() and Path("best.ckpt").resolve() == BEST.resolve()


@pytest.mark.parametrize("mode", ["min", None])
def test_the_lowest_of_a_metric_of_which_less_is_better(mode):
    assert run([0.3, 0.1, 0.2], Checkpoints("val/loss", mode), name="val/loss").best_epoch == 1
    assert steps(BEST) == 6


@pytest.mark.parametrize(("scores", "val_fraction"), [([math.nan, math.nan], 0.2), ([0.1, 0.2], 0)])
def test_without_a_score_the_last_is_linked_as_best(scores, val_fraction):
    checkpoints = run(scores, Checkpoints(), val_fraction=val_fraction)
    assert checkpoints.best_score is None and checkpoints.best_epoch is None
    assert not BEST.exists() and steps(LAST) == 6
    assert Path("best.ckpt").resolve() == LAST.resolve()


class Watch(Callback):
    """The steps in last.ckpt after each step and, with a "v", after each validation."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def look(self, mark: str = "") -> None:
        self.seen.append((str(steps(LAST)) if LAST.exists() else "-") + mark)

    def on_train_batch_start(self, *args):
        self.look()

    def on_validation_start(self, trainer, model):
        if not trainer.sanity_checking:
            self.look("v")


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        # before step 1: nothing yet, then 1, 2; validation still sees 2; the epoch's end saves 3
        ({"every_n_minutes": 0}, ["-", "1", "2", "2v", "3", "4", "5", "5v"]),
        ({"every_n_steps": 2}, ["-", "-", "2", "2v", "3", "4", "4", "4v"]),
        ({}, ["-", "-", "-", "-v", "3", "3", "3", "3v"]),  # the fit is shorter than ten minutes
    ],
)
def test_it_saves_within_an_epoch_after_minutes_and_steps(settings, seen):
    watch = Watch()
    run([0.1, 0.2], Checkpoints(**settings), watch)
    assert watch.seen == seen and steps(LAST) == 6


def test_minutes_are_counted_from_the_last_save(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("litengine.training.checkpoints.time.monotonic", lambda: clock[0])

    class Tick(Callback):
        def on_train_batch_start(self, *args):
            clock[0] += 40  # seconds

    watch = Watch()
    run([0.1, 0.2], Checkpoints(every_n_minutes=1), Tick(), watch)
    # Saved at 80 s (step 2) and at the end of every epoch; from then on it takes 2 steps again.
    assert watch.seen == ["-", "-", "2", "2v", "3", "3", "5", "5v"]


def test_fast_dev_run_writes_nothing():
    run([0.1], Checkpoints(every_n_minutes=0), fast_dev_run=2)
    assert sorted(os.listdir()) == ["home"]


def test_a_metric_that_is_not_logged_is_named_with_those_that_are():
    with pytest.raises(
        ValueError, match=r"checkpoints.monitor 'val/f1' is not logged in validation: there are val/acc"
    ):
        run([0.1], Checkpoints("val/f1"))


def test_the_best_so_far_is_remembered_after_a_resume():
    run([0.1, 0.7], Checkpoints())
    resumed = run([0.1, 0.7, 0.6, 0.5], Checkpoints(), ckpt_path=str(LAST))
    assert (resumed.best_epoch, resumed.best_score) == (1, pytest.approx(0.7))
    assert steps(BEST) == 6 and steps(LAST) == 12
    assert run([0.1, 0.7, 0.6, 0.5, 0.9], Checkpoints(), ckpt_path=str(LAST)).best_epoch == 4
    assert steps(BEST) == 15


@pytest.mark.parametrize("content", [None, b"", b"PK cut short"])
def test_a_resume_without_an_intact_best_is_refused_before_training(content):
    run([0.7, 0.1], Checkpoints())
    BEST.unlink() if content is None else BEST.write_bytes(content)
    before = LAST.read_bytes()
    with pytest.raises(ValueError, match=r"best\.ckpt is missing or damaged.*--ckpt_path checkpoints/last\.ckpt"):
        run([0.7, 0.1, 0.2], Checkpoints(), ckpt_path=str(LAST))
    assert LAST.read_bytes() == before
    moved = run([0.7, 0.1, 0.2], Checkpoints(), ckpt_path=str(LAST), default_root_dir="new")
    assert (moved.best_epoch, moved.best_score) == (2, pytest.approx(0.2))
