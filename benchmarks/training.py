"""What the Trainer, and all that this project hangs on it, cost: against a bare PyTorch loop.

    python benchmarks/training.py                              # prints three tables
    python benchmarks/training.py --only step --write docs/benchmarks.md

- epoch: training of fast.yaml and cnn.yaml, from the end of a first batch to the end of the last. On a GPU that is an
  epoch; on a CPU a part of one, for it takes minutes.
- step: that of a network of one linear layer, so that hardly anything but the loop is measured.
- memory: the peak of a fit (with validation, checkpoints and all), each in a process of its own.

The bare loop has the same network, optimizer, schedule, precision, layout in memory and batches (benchmarks/loop.py),
and nothing else. The pixels are noise in the shape of CIFAR-10: no time depends on what they show.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from loop import TINY, Bare, Linear, Program, RandomPixels, Timing, as_a_user_sees_it, device, run, run_stock
from machine import ROOT, alternate, arguments, describe, middle, publish, ratio

from litengine.data import BatchLoader

SIDES = {"program": Program, "bare": Bare}
PART = {"fast": 8, "cnn": 60}  # of an epoch: batches on a CPU
WARM_UP = 50  # steps of the linear layer


class Table(NamedTuple):
    columns: Sequence[str]
    rows: list[Sequence[str]]


def fit(config: str, quick: bool, **trainer: int | None) -> list[str]:
    """The command line of a fit of one epoch."""
    given = [f"--trainer.{name}={value}" for name, value in trainer.items() if value is not None]
    path = str(ROOT / f"configs/{config}.yaml")
    source = ["--data.source", "loop.RandomPixels"]
    return ["fit", "--config", path, *source, "--trainer.max_epochs=1", *given, *(TINY if quick else [])]


def steps(timings: Sequence[Timing], unit: float) -> list[float]:
    return [timing.step * unit for timing in timings]


def epoch(rounds: int, quick: bool) -> Table:
    reach = "1.10" if device() == "cuda" else "1.03"
    rows = []
    for config, part in PART.items():
        batches = 2 if quick else None if device() == "cuda" else part
        args = fit(config, quick, limit_train_batches=batches and 1 + batches, limit_val_batches=0)
        found = alternate(config, {name: partial(run, kind, args) for name, kind in SIDES.items()}, rounds)
        ours, bare = (steps(found[name], unit=1e3) for name in SIDES)
        what = f"a step of `{config}.yaml`, the mean of {batches or 'an epoch'}"
        rows.append((what, middle(ours, "{:.1f}", "ms"), middle(bare, "{:.1f}", "ms"), ratio(ours, bare), reach))
    return Table(("what", "this project", "bare loop", "ratio", "reach"), rows)


def step(rounds: int, quick: bool) -> Table:
    number = WARM_UP + (10 if quick else 300)
    args = [
        "fit", "--model.network", "loop.Linear", "--model.channels_last=false", "--data.source", "loop.RandomPixels",
        f"--data.source.train={number * 128}", "--data.val_fraction=0", "--trainer.max_epochs=1",
    ]  # fmt: skip
    images, labels, *_ = RandomPixels(train=128 * number).load("train")

    def stock() -> Timing:
        loader = BatchLoader(images.to(device()), labels.to(device()), 128, shuffle=True, device=device())
        return run_stock(Linear(3, 32), loader, WARM_UP)

    sides = {name: partial(run, kind, args, WARM_UP) for name, kind in SIDES.items()}
    found = alternate("one linear layer", {**sides, "stock": stock}, rounds)
    ours, bare, bones = (steps(found[name], unit=1e6) for name in ("program", "bare", "stock"))
    more = [a - b for a, b in zip(ours, bare, strict=True)]
    overhead = f"**{median(ours) - median(bare):.0f} µs** ({min(more):.0f} to {max(more):.0f})"
    cells = (*(middle(times, "{:,.0f}", "µs") for times in (ours, bones, bare)), overhead, "500 µs")
    columns = ("what", "this project", "Trainer with nothing in it", "bare loop", "overhead", "reach")
    return Table(columns, [("a step of one linear layer, batch 128", *cells)])


def memory(rounds: int, quick: bool) -> Table:
    rows = []
    for config in PART:
        args = fit(config, quick, limit_train_batches=3, limit_val_batches=2)
        sides = {name: partial(peak_memory, name, args) for name in SIDES}
        found = alternate(f"memory of {config}", sides, rounds)
        ours, bare = (found[name] for name in SIDES)
        shown = (middle(ours, "{:.2f}", "GiB"), middle(bare, "{:.2f}", "GiB"))
        rows.append((f"peak memory of `{config}.yaml`", *shown, ratio(ours, bare), "1.1"))
    return Table(("what", "this project", "bare loop", "ratio", "reach"), rows)


def peak_memory(side: str, args: Sequence[str]) -> float:
    """GiB, of a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks/loop.py"), side, *args]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed)["peak_memory"] / 2**30


# Memory comes first: a new process takes over the peak of the one that starts it, which is small only then.
QUESTIONS: dict[str, Callable[[int, bool], Table]] = {"memory": memory, "epoch": epoch, "step": step}


def main(args: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), help="some of the tables")
    given = parser.parse_args(args)
    rounds = 1 if given.quick else given.rounds
    as_a_user_sees_it()
    with tempfile.TemporaryDirectory(prefix="litcnn-training-") as folder:
        os.chdir(folder)
        for question in [question for question in QUESTIONS if question in given.only]:
            table = QUESTIONS[question](rounds, given.quick)
            facts = (
                f"Medians of {rounds} (least to most), sides in turns; W&B {os.environ['WANDB_MODE']}. "
                f"{describe(device(), given.note)}, {torch.get_num_threads()} threads."
            )
            name = f"training.py {question} on a {'GPU' if device() == 'cuda' else 'CPU'}"
            publish(name, facts, *table, given.write)


if __name__ == "__main__":
    main()
