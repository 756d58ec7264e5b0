"""Several processes give the result of one."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import FakeSource, trainer
from lightning.pytorch import Callback, seed_everything
from plain import Plain
from processes import StopAfter, together
from program import PREDICTIONS, last, rows
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau

from litcnn.augment import RandomCrop, RandomFlip
from litcnn.data import ImageData
from litcnn.model import ImageClassifier
from litengine.cli.prepare import prepare
from litengine.data import Stream
from litengine.data.sources import stream_writer
from litengine.loggers import CSVMetrics
from litengine.training import CheckNumerics, Checkpoints, ExactResume, StopOnSignal, WriteReport
from litengine.training.checkpoint_files import CheckpointFiles


class Steps(Callback):
    """Keeps all weights, the learning rate and the logged loss after each batch."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        parameters = [p.detach().flatten() for p in pl_module.network.parameters()]
        rate = torch.tensor([trainer.optimizers[0].param_groups[0]["lr"]])
        self.weights.append(torch.cat([*parameters, rate]).numpy())
        self.losses.append(float(trainer.callback_metrics["train/loss_step"]))


RECIPES: dict[str, dict[str, Any]] = {
    "last batch of 1": {"images": 25, "batch_size": 8},
    "batches of 1": {"images": 6, "batch_size": 1, "optimizer": lambda parameters: SGD(parameters, lr=0.01)},
    "odd batches, accumulated": {"images": 30, "batch_size": 7, "accumulate_grad_batches": 2},
    "clipped": {"images": 30, "batch_size": 8, "gradient_clip_val": 0.05},
    "plateau": {"images": 25, "batch_size": 8, "epochs": 4},
    "adam": {"images": 30, "batch_size": 8, "optimizer": lambda parameters: Adam(parameters, lr=1e-3)},
    "stream": {"images": 0, "batch_size": 8, "epochs": 1, "optimizer": lambda parameters: SGD(parameters, lr=0.1)},
}
AUGMENT = [RandomCrop(1), RandomFlip()]
Trained = tuple[list[np.ndarray], list[float], dict[str, float]]


def train(recipe: str, processes: int) -> Trained:
    """Weights after each step, the loss of each batch, and the metrics of the last epoch."""
    settings = dict(RECIPES[recipe])
    images, batch_size = settings.pop("images"), settings.pop("batch_size")
    optimizer = settings.pop("optimizer", lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3))
    schedule = every_epoch if recipe == "plateau" else None
    seed_everything(0, verbose=False)
    steps = Steps()
    fitted = trainer(steps, CheckNumerics(), **of_processes(processes), **settings)
    data = made_data(images, batch_size) if images else ImageData(Stream("stream"), batch_size, augment=AUGMENT)
    fitted.fit(ImageClassifier(Plain(), optimizer, schedule), data)
    return steps.weights, steps.losses, {name: float(value) for name, value in fitted.callback_metrics.items()}


def made_data(images: int, batch_size: int, test: int = 3) -> ImageData:
    thirds = [[count // 3 + (label < count % 3) for label in range(3)] for count in (images, test)]
    source = FakeSource(train=thirds[0], val=(3, 3, 5), test=thirds[1])
    return ImageData(source, batch_size, augment=AUGMENT)


def every_epoch(optimizer: Any) -> ReduceLROnPlateau:
    """Lowers the rate after every epoch: no loss decreases that much."""
    return ReduceLROnPlateau(optimizer, patience=0, threshold=10.0, factor=0.7)


def of_processes(number: int) -> dict[str, Any]:
    return {"devices": number, "strategy": "ddp"} if number > 1 else {"devices": 1}


def train_all(processes: int) -> dict[str, Trained]:
    return {recipe: train(recipe, processes) for recipe in RECIPES}


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_step_agrees_with_that_of_one_process(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_writer, "SHARD_BYTES", 5 * 3 * 8 * 8)  # five images
    prepare(ImageData(FakeSource(train=(30, 30, 30), val=(3, 3, 5))), "stream")
    everywhere = together(processes, train_all, processes)
    for recipe, (weights, losses, metrics) in train_all(1).items():
        found_weights, found_losses, found_metrics = everywhere[0][recipe]
        for other in everywhere:  # among themselves: the same bits
            np.testing.assert_array_equal(other[recipe][0], found_weights, recipe)
        np.testing.assert_allclose(found_weights, weights, rtol=1e-5, atol=1e-6, err_msg=recipe)
        assert found_losses == pytest.approx(losses, rel=1e-5), recipe
        assert found_metrics == pytest.approx(metrics, rel=1e-5), recipe


def evaluate(images: int, batch_size: int, processes: int) -> tuple[dict[str, float], list[dict[str, str]]]:
    """Metrics, and the rows of predictions.csv."""
    seed_everything(0, verbose=False)
    data, root = made_data(6, batch_size, images), f"{images}-{batch_size}-{processes}"
    tester = trainer(WriteReport(), default_root_dir=root, **of_processes(processes))
    tester.test(ImageClassifier(Plain()), data, verbose=False)
    metrics = {name: float(value) for name, value in tester.callback_metrics.items()}
    tester.strategy.barrier()
    return metrics, rows(Path(root), PREDICTIONS)


SIZES = [(13, 4), (13, 5), (13, 13), (7, 1), (2, 2), (1, 4)]


def evaluate_all(processes: int) -> list[tuple[dict[str, float], list[dict[str, str]]]]:
    return [evaluate(images, batch_size, processes) for images, batch_size in SIZES]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("processes", [2, 3])
def test_evaluation_counts_each_image_once(processes: int) -> None:
    """Stock Lightning counts 14 of 13 with two processes."""
    expected = evaluate_all(1)
    assert [len(predicted) for _, predicted in expected] == [images for images, _ in SIZES]
    for everything in together(processes, evaluate_all, processes):
        for (measured, predicted), (found, found_rows) in zip(expected, everything, strict=True):
            assert found == pytest.approx(measured, rel=1e-6, nan_ok=True)
            for row, found_row in zip(predicted, found_rows, strict=True):
                assert row.keys() == found_row.keys()
                for name, value in row.items():
                    assert value == found_row[name] or float(value) == pytest.approx(float(found_row[name]), 1e-5)


def go_on(root: str, stop_after: int, processes: int, number: int = signal.SIGTERM) -> int | str | None:
    """Trains from the last checkpoint, if any, until this step; the exit code."""
    seed_everything(0, verbose=False)
    last = Path(root, "checkpoints/last.ckpt")
    callbacks = [StopAfter(stop_after, number), Checkpoints(), CheckNumerics(), ExactResume(), StopOnSignal()]
    fitted = trainer(
        *callbacks,
        epochs=4,
        default_root_dir=root,
        plugins=[CheckpointFiles()],
        logger=CSVMetrics(root),
        **of_processes(processes),
    )
    classifier = ImageClassifier(Plain(), lr_scheduler=every_epoch)
    try:
        fitted.fit(classifier, made_data(30, 7), ckpt_path=last if last.exists() else None)
    except SystemExit as stopped:
        return stopped.code
    return 0


@pytest.mark.parametrize("plan", [[(2, 2), (8, 1), (14, 3), (20, 2)], [(1, 1), (19, 3), (20, 1)]])
def test_resumed_with_another_number_of_processes_it_ends_the_same(plan: list[tuple[int, int]]) -> None:
    """Global batches are the same; an epoch has five of them."""
    assert go_on("whole", 0, 1) == 0
    for step, processes in plan[:-1]:
        codes = together(processes, go_on, "cut", step, processes)
        assert codes == [143] + [0] * (processes - 1)
        assert last(Path("cut"))["global_step"] == step
    step, processes = plan[-1]
    assert together(processes, go_on, "cut", 0, processes) == [0] * processes
    whole, cut = last(Path("whole")), last(Path("cut"))
    assert whole["global_step"] == cut["global_step"] == step
    torch.testing.assert_close(cut["state_dict"], whole["state_dict"], rtol=1e-5, atol=1e-6)
    (found,), (expected,) = cut["optimizer_states"], whole["optimizer_states"]
    torch.testing.assert_close(found["state"], expected["state"], rtol=1e-4, atol=1e-6)
    assert found["param_groups"] == expected["param_groups"]
    torch.testing.assert_close(cut["train_sums"], whole["train_sums"], rtol=1e-5, atol=1e-6)
    assert cut["plateau"] == whole["plateau"]
    assert len(metrics("whole")) == 20
    for row, found_row in zip(metrics("whole"), metrics("cut"), strict=True):
        assert found_row == pytest.approx(row, rel=1e-4)


def test_the_signal_of_slurm_has_its_own_exit_code() -> None:
    assert together(2, go_on, "cut", 3, 2, signal.SIGUSR1) == [138, 0]
    assert last(Path("cut"))["global_step"] == 3


def metrics(root: str) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row.items() if value} for row in rows(Path(root))]
