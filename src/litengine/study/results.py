"""What a run left in its files: read without torch, and while it is being written."""

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Epoch = dict[str, float]


class Result(NamedTuple):
    """How a run came out.

    `best` are the metrics of the epoch that best.ckpt is of, or without validation images of the last one; `epochs` is
    how many there were, `best_epoch` counts from 1. `test` has the metrics of the test; None where it was not tested.
    """

    run_dir: Path
    best: Epoch
    best_epoch: int
    epochs: int
    test: dict[str, float] | None


def read_result(run_dir: Path) -> Result:
    """
    Raises:
        ValueError: where the run has no metrics.
    """
    settings: dict[str, Any] = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
    checkpoints = settings["checkpoints"]
    epochs = read_epochs(run_dir)
    if not epochs:
        raise ValueError(f"{run_dir} has no metrics of any epoch")
    best = best_epoch(epochs, checkpoints["monitor"], checkpoints["mode"])
    place = len(epochs) - 1 if best is None else best
    return Result(run_dir, epochs[place], place + 1, len(epochs), report_of(run_dir))


def read_epochs(run_dir: Path) -> list[Epoch]:
    """The metrics of every epoch that is over, in order; all that are numbers."""
    try:
        text = (run_dir / "metrics.csv").read_text("utf-8")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]  # the last line may still be under way
    found: dict[int, Epoch] = {}
    for row in csv.DictReader(whole.splitlines()):
        if row.get("epoch") and (row.get("train/loss") or row.get("val/loss")) and None not in row.values():
            metrics = {name: float(value) for name, value in row.items() if value}
            found.setdefault(int(row["epoch"]), {}).update(metrics)
    return [found[epoch] for epoch in sorted(found)]


def best_epoch(epochs: list[Epoch], monitor: str, mode: str) -> int | None:
    """The place of the epoch that `Checkpoints` keeps: of equals the newer; None where no epoch has the metric."""
    best: int | None = None
    for place, epoch in enumerate(epochs):
        score = epoch.get(monitor, math.nan)
        if not math.isfinite(score):
            continue
        if best is None or (score >= epochs[best][monitor] if mode == "max" else score <= epochs[best][monitor]):
            best = place
    return best


def report_of(run_dir: Path) -> dict[str, float] | None:
    """The metrics of a run's test; None where there was none."""
    try:
        metrics: dict[str, float] = json.loads((run_dir / "report" / "metrics.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    return metrics
