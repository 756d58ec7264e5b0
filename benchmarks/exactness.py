"""What exact resume and safe checkpoints cost: each against what Lightning does by itself, in the same run.

    python benchmarks/exactness.py

A checkpoint: the article's CNN with Adam, written by litengine.training.checkpoint_files.CheckpointFiles (same
directory, flushed, checked, previous one kept) and by Lightning's TorchCheckpointIO, in turns. A step: a fit of one linear layer, so that
hardly anything else is measured, with and without ExactResume, StopOnSignal and Checkpoints, in turns.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from loop import Linear, as_a_user_sees_it, device, run_stock
from machine import alternate, arguments, describe, middle, publish, ratio
from torch.utils.data import DataLoader, TensorDataset

from litcnn.networks import CNN
from litengine.training import Checkpoints, ExactResume, StopOnSignal
from litengine.training.checkpoint_files import CheckpointFiles

BATCH = 16
WARM_UP = 50  # steps


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


def microseconds_a_step(steps: int, ours: bool) -> float:
    number = BATCH * (steps + WARM_UP)
    numbers = TensorDataset(torch.randn(number, 8), torch.randint(10, (number,)))
    callbacks = [ExactResume(), StopOnSignal(), Checkpoints(monitor="none", mode="max", every_n_minutes=10)] if ours else []
    network = Linear(in_channels=8, image_size=1)
    return 1e6 * run_stock(network, DataLoader(numbers, batch_size=BATCH), WARM_UP, callbacks).step


def main(args: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--steps", type=int, default=400, help="of a fit")
    given = parser.parse_args(args)
    rounds, steps = (1, 10) if given.quick else (given.rounds, given.steps)
    as_a_user_sees_it()

    with tempfile.TemporaryDirectory(prefix="litcnn-exactness-") as folder:
        os.chdir(folder)
        content = article_checkpoint()
        paths = {side: Path(folder) / side / "last.ckpt" for side in ("ours", "stock")}
        write: dict[str, Callable[[], float]] = {
            "ours": partial(seconds_to_write, CheckpointFiles(), content, paths["ours"]),
            "stock": partial(seconds_to_write, TorchCheckpointIO(), content, paths["stock"]),
        }
        step = {side: partial(microseconds_a_step, steps, ours=side == "ours") for side in paths}
        written, stepped = alternate("a checkpoint", write, rounds), alternate("a step", step, rounds)
        megabytes = paths["ours"].stat().st_size / 1e6

    rows = [
        (what, *(middle(times, form, unit) for times in found.values()), ratio(found["ours"], found["stock"]))
        for what, form, unit, found in (
            (f"a checkpoint of {megabytes:.1f} MB (the article's CNN with Adam)", "{:.3f}", "s", written),
            ("a step of one linear layer: next to nothing but Lightning itself", "{:.0f}", "µs", stepped),
        )
    ]
    facts = f"Medians of {rounds} (least to most), ours and stock in turns; {describe(device(), given.note)}."
    publish("exactness.py", facts, ("what", "ours", "stock Lightning", "ratio"), rows, given.write)


if __name__ == "__main__":
    main()
