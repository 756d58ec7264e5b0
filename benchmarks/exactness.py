"""What exact resume and safe checkpoints cost: each against what Lightning does by itself, in the same run.

    python benchmarks/exactness.py

A checkpoint: the article's CNN with Adam, written by litcnn.checkpoint.CheckpointFiles (same directory, flushed,
checked, previous one kept) and by Lightning's TorchCheckpointIO, in turns. A step: a fit of one linear layer, so that
hardly anything else is measured, with and without ExactResume, StopOnSignal and Checkpoints, in turns.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from case import machine
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from litcnn.callbacks import Checkpoints, ExactResume, StopOnSignal
from litcnn.checkpoint import CheckpointFiles
from litcnn.networks import CNN

BATCH = 16
WARM_UP = 50  # steps


class Linear(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 10)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stopwatch(Callback):
    """Seconds from the first step after the warm-up to the last; the save at the end of the epoch is not in it."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - getattr(self, "started", 0.0)


def article_checkpoint() -> dict[str, Any]:
    """As large as that of a run of configs/cnn.yaml."""
    network = CNN()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    return {"global_step": 1, "state_dict": network.state_dict(), "optimizer_states": [optimizer.state_dict()]}


def seconds_to_write(files: TorchCheckpointIO, checkpoint: dict[str, Any], path: Path) -> float:
    started = time.perf_counter()
    files.save_checkpoint(checkpoint, path)
    return time.perf_counter() - started


def microseconds_a_step(steps: int, callbacks: Sequence[Callback], directory: str) -> float:
    images = TensorDataset(
        torch.randn(BATCH * (steps + WARM_UP + 1), 8), torch.randint(10, (BATCH * (steps + WARM_UP + 1),))
    )
    watch = Stopwatch()
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=bool(callbacks), callbacks=[watch, *callbacks], default_root_dir=directory,
    )  # fmt: skip
    trainer.fit(Linear(), DataLoader(images, batch_size=BATCH))
    return 1e6 * watch.seconds / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--steps", type=int, default=400, help="of a fit")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="lightning")  # few workers, no validation: meant
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    write: dict[str, list[float]] = {"ours": [], "stock": []}
    step: dict[str, list[float]] = {"ours": [], "stock": []}
    with tempfile.TemporaryDirectory(prefix="litcnn-exactness-") as folder:
        os.chdir(folder)
        content = article_checkpoint()
        ways = {"ours": CheckpointFiles(), "stock": TorchCheckpointIO()}
        for _ in track(range(args.repeats), "checkpoints", console=Console(stderr=True)):
            for way, files in ways.items():
                write[way].append(seconds_to_write(files, content, Path(folder) / way / "last.ckpt"))
        megabytes = Path(folder, "ours/last.ckpt").stat().st_size / 1e6
        for _ in track(range(args.repeats), "steps", console=Console(stderr=True)):
            mine = [ExactResume(), StopOnSignal(), Checkpoints(monitor="none", every_n_minutes=10)]
            step["ours"].append(microseconds_a_step(args.steps, mine, folder))
            step["stock"].append(microseconds_a_step(args.steps, [], folder))

    table = Table("what", title=f"What exactness costs: medians of {args.repeats} (least to most)", caption=machine())
    for column in ("ours", "stock Lightning", "ratio"):
        table.add_column(column, justify="right")
    for name, unit, times in (
        (f"a checkpoint of {megabytes:.1f} MB", "{:.3f} s", write),
        (f"a step, of {args.steps}", "{:.0f} µs", step),
    ):
        shown = [
            f"{unit.format(statistics.median(t))} ({unit.format(min(t))} to {unit.format(max(t))})"
            for t in times.values()
        ]
        ratio = statistics.median(times["ours"]) / statistics.median(times["stock"])
        table.add_row(name, *shown, f"{ratio:.2f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
