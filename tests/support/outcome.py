"""What two runs must have in common to be the same, bit for bit: for the tests and for benchmarks/faults.py."""

import csv
import hashlib
from pathlib import Path
from typing import Any

import torch

TIMINGS = {"images_per_second", "peak_memory_gib"}


def digest(content: Any) -> str:
    """One hash of everything in a checkpoint, tensors by their bits."""
    if isinstance(content, torch.Tensor):
        return hashlib.sha256(content.cpu().contiguous().numpy().tobytes() + str(content.dtype).encode()).hexdigest()
    if isinstance(content, dict):
        content = [(str(key), digest(value)) for key, value in sorted(content.items(), key=lambda item: str(item[0]))]
    elif isinstance(content, list | tuple):
        content = [digest(value) for value in content]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def outcome(run: Path) -> dict[str, Any]:
    """What must be the same: weights, optimizer, schedule, random state, best checkpoint, metrics."""
    last, best = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("last", "best"))
    with (run / "metrics.csv").open() as file:
        metrics = [{key: row[key] for key in row if key not in TIMINGS} for row in csv.DictReader(file)]
    parts = ["state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "epoch", "train_sums"]
    found = {f"last {part}": digest(last[part]) for part in [*parts, "rate"]}
    found["plateau"] = digest(last.get("plateau"))
    found["random state"] = digest({name: value for name, value in last["resume"].items() if name != "metrics"})
    found["best"] = digest(
        {part: best[part] for part in ("state_dict", "optimizer_states", "global_step", "callbacks")}
    )
    return {**found, "metrics": metrics}
