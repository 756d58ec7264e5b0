"""The results of a run, read from its files without torch, also while the run writes them."""

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Epoch = dict[str, float]  # metric -> value


class Result(NamedTuple):
    """`metrics` are of the epoch in best.ckpt (the last one without validation) and of the test if there was one;
    `best_epoch` counts from 1."""

    run_dir: Path
    metrics: Epoch
    best_epoch: int
    epochs: int


def read_result(run_dir: Path) -> Result:
    """Raises a ValueError if the run has no metrics."""
    settings: dict[str, Any] = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
    epochs = read_epochs(run_dir)
    if not epochs:
        raise ValueError(f"{run_dir} has no metrics of any epoch")
    mode = settings["checkpoints"]["mode"] or json.loads((run_dir / "state.json").read_bytes()).get("mode")
    best = best_epoch(epochs, settings["checkpoints"]["monitor"], mode)
    index = len(epochs) - 1 if best is None else best
    return Result(run_dir, {**epochs[index], **read_test(run_dir)}, index + 1, len(epochs))


def read_epochs(run_dir: Path) -> list[Epoch]:
    """The metrics of every finished epoch in order."""
    try:
        text = (run_dir / "metrics.csv").read_text("utf-8")
    except FileNotFoundError:
        return []
    complete = text[: text.rfind("\n") + 1]  # the run may be writing the last line
    found: dict[int, Epoch] = {}
    for row in csv.DictReader(complete.splitlines()):
        if row.get("epoch") and (row.get("train/loss") or row.get("val/loss")) and None not in row.values():
            metrics = {name: float(value) for name, value in row.items() if value}
            found.setdefault(int(row["epoch"]), {}).update(metrics)
    return [found[epoch] for epoch in sorted(found)]


def best_epoch(epochs: list[Epoch], monitor: str, mode: str) -> int | None:
    """Index of the epoch whose checkpoint is kept as the best, the newer one on a tie; None without the metric."""
    sign = 1 if mode == "max" else -1
    scores = [(sign * epoch.get(monitor, math.nan), index) for index, epoch in enumerate(epochs)]
    return max((score for score in scores if math.isfinite(score[0])), default=(0, None))[1]


def read_test(run_dir: Path) -> dict[str, float]:
    """The metrics of a run's test; empty if it was not tested."""
    try:
        metrics: dict[str, float] = json.loads((run_dir / "report" / "metrics.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return metrics
