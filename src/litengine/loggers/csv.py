"""Metrics as CSV: always written."""

import csv
import errno
import io
import logging
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from litengine.files import write_whole

log = logging.getLogger(__name__)


class CSVMetrics(Logger):
    """Writes `metrics.csv`: one row per step with all metrics of that step; a metric without a value is empty.

    Unlike Lightning's CSVLogger it puts the metrics of one step into one row and writes each to disk before the call
    returns, so a killed run loses none. Test metrics get the step of the tested checkpoint and no epoch.

    Args:
        save_dir: folder of `metrics.csv`.
    """

    name, version = "csv", ""

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._columns = ["epoch", "step"]
        self._rows: list[dict[str, str]] = []
        self._last_row_at = 0  # byte in the file
        self._evaluated_step: int | None = None

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {name: f"{float(value):.7g}" for name, value in metrics.items()}
        if self._evaluated_step is not None:
            step = self._evaluated_step
            values.pop("epoch", None)
        row = {"step": str(step), **values}
        new_columns = [name for name in row if name not in self._columns]
        if self._rows and self._rows[-1]["step"] == row["step"]:
            self._rows[-1].update(row)
        else:
            self._rows.append(row)
            if self.path.exists():
                self._last_row_at = self.path.stat().st_size
        try:
            if new_columns or not self.path.exists():
                self._columns += new_columns
                self._write_all()
            else:
                with self.path.open("r+b") as file:
                    file.seek(self._last_row_at)
                    file.write(self._line(self._rows[-1]).encode())
                    file.truncate()
        except OSError as error:
            remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
            raise OSError(f"cannot write {self.path}: {error.strerror}; {remedy}, then `fit --resume last`") from error

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run directory has its config.yaml."""

    def evaluate_at(self, step: int | None) -> None:
        """From now on metrics come from an evaluation of the weights of `step`; None: from training."""
        self._evaluated_step = step

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Takes over the file of an interrupted run without the rows of `step` and later, which will come again."""
        columns, rows, damaged = read_rows(self.path)
        if not self.path.exists() and step > 0:
            log.warning(f"{self.path} is missing: the metrics before step {step} are lost")
        if damaged:
            log.warning(f"{self.path} is damaged: {damaged} lines are dropped, {len(rows)} are kept")
        self._columns, self._rows = columns, before(step, rows)
        if self.path.exists():
            self._write_all()

    def _write_all(self) -> None:
        header = self._line(dict(zip(self._columns, self._columns, strict=True)))
        lines = [self._line(row) for row in self._rows]
        self._last_row_at = len((header + "".join(lines[:-1])).encode())
        write_whole(self.path, header + "".join(lines))

    def _line(self, row: dict[str, str]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerow(row)
        return text.getvalue()


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]], int]:
    """Reads a `metrics.csv` that may be damaged: its columns, its intact rows, and how many lines are not intact.

    Each line is parsed alone, so that a damaged byte costs one row. A line without an end was cut short.
    """
    lines = path.read_bytes().decode("utf-8-sig", "replace").split("\n") if path.exists() else [""]
    columns = next(csv.reader(lines[:1]), [])
    twice = len(columns) > len({*columns})
    if len(lines) == 1 or twice or not {"epoch", "step"} <= {*columns} or "\ufffd" in lines[0]:
        return ["epoch", "step"], [], sum(map(bool, lines))
    rows = []
    for line in lines[1:-1]:
        with suppress(csv.Error, ValueError):  # a field is missing, too many or not a number
            row = dict(zip(columns, next(csv.reader([line]), []), strict=True))
            numbers = [float(value or 0) for value in row.values()]
            if numbers and min(int(row["step"]), int(row["epoch"] or 0)) >= 0:
                rows.append(row)
    return columns, rows, len(lines) - 1 - len(rows) - (lines[-1] == "")


def before(step: int, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows that training wrote before `step`, and all of evaluations, which have no epoch."""
    return [row for row in rows if int(row["step"]) < step or not row["epoch"]]
