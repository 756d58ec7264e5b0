"""The results of runs: read from their files without torch, also while a run writes them; as a CSV file and a table."""

import csv
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import rich
import yaml
from rich.table import Table

from litengine.files import csv_text, write_whole
from litengine.training.run_directory import CONFIG, read_config

Row = dict[str, Any]  # column -> value; a missing value and None give an empty cell


class Result(NamedTuple):
    """`metrics` are of the epoch in best.ckpt (the last one without validation) and of the test if there was one;
    `best_epoch` counts from 1; `mode` says whether more (`max`) or less (`min`) of the monitored metric is better."""

    run_dir: Path
    mode: str
    metrics: dict[str, float]
    best_epoch: int
    epochs: int

    def print(self, name: str, metrics: list[str]) -> None:
        values = "  ".join(f"{metric} {self.metrics[metric]:.4f}" for metric in metrics if metric in self.metrics)
        print_text(f"{name}: {values}  (epoch {self.best_epoch} of {self.epochs})")


def read_result(run_dir: Path | None) -> Result:
    """Raises a ValueError if the run has no metrics."""
    epochs = read_epochs(run_dir)
    if run_dir is None or not epochs:
        raise ValueError(f"{run_dir} has no metrics of any epoch")
    checkpoints = read_settings(run_dir)["checkpoints"]
    mode = checkpoints["mode"] or json.loads((run_dir / "state.json").read_bytes()).get("mode")
    sign = 1 if mode == "max" else -1
    scores = [(sign * epoch.get(checkpoints["monitor"], math.nan), index) for index, epoch in enumerate(epochs)]
    # the newer epoch on a tie, as in best.ckpt
    _, best = max((score for score in scores if math.isfinite(score[0])), default=(0, len(epochs) - 1))
    return Result(run_dir, mode, {**epochs[best], **read_test(run_dir)}, best + 1, len(epochs))


def read_settings(run_dir: Path) -> Any:
    """The settings of a run; a ValueError if they are missing or damaged."""
    try:
        settings = read_config(run_dir)
        if missing := {"checkpoints", "trainer", "trust"} - {*(settings if isinstance(settings, dict) else ())}:
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{run_dir / CONFIG} is damaged ({reason}): repair it, or remove its folder to train that run again"
        ) from error
    return settings


def read_epochs(run_dir: Path | None) -> list[dict[str, float]]:
    """The metrics of every finished epoch in order; empty before a run has begun."""
    if run_dir is None or not (path := run_dir / "metrics.csv").is_file():
        return []
    found: dict[int, dict[str, float]] = {}
    try:
        text = path.read_text("utf-8")
        complete = text[: text.rfind("\n") + 1]  # the run may be writing the last line
        for row in csv.DictReader(complete.splitlines()):
            if row.get("epoch") and (row.get("train/loss") or row.get("val/loss")) and None not in row.values():
                metrics = {name: float(value) for name, value in row.items() if value}
                found.setdefault(int(row["epoch"]), {}).update(metrics)
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): repair it, or remove its folder to train that run again"
        ) from error
    return [found[epoch] for epoch in sorted(found)]


def read_test(run_dir: Path) -> dict[str, float]:
    """The metrics of a run's test; empty if it was not tested."""
    path = run_dir / "report" / "metrics.json"
    metrics: dict[str, float] = json.loads(path.read_bytes()) if path.is_file() else {}
    return metrics


def print_text(text: str) -> None:
    """Prints plain text above the progress line."""
    rich.get_console().print(text, highlight=False, soft_wrap=True, markup=False)


def write_csv(path: Path, columns: list[str], rows: list[Row]) -> None:
    write_whole(path, csv_text(columns, ([row.get(column) for column in columns] for row in rows)))


def print_table(title: str, headings: dict[str, str], rows: list[Row]) -> None:
    """Prints a table; `headings` are those of the columns to show. Metrics have four decimals."""
    console = rich.get_console()
    table = Table(title=title)
    for index, heading in enumerate(headings.values()):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(column, row.get(column)) for column in headings))
    if not console.is_terminal:  # a file has no edge
        table.width = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.print(table, crop=False)


def _cell(column: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if "/" in column else f"{value:.3g}"
    return "–" if value is None else str(value)
