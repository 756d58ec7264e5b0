"""Metrics as CSV: always written, whatever else tracks the run."""

import csv
import errno
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from litengine.training.run_directory import write_whole


class CSVMetrics(Logger):
    """Writes `metrics.csv`: a row a step, with everything that was logged at that step, empty where nothing was.

    Unlike Lightning's CSVLogger it puts the metrics of one step into one row, and each is on disk when the call
    returns: a run that is killed loses none.

    Args:
        save_dir: the folder of `metrics.csv`.
    """

    def __init__(self, save_dir: str | Path) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._columns = ["epoch", "step"]
        self._rows: list[dict[str, str]] = []
        self._last_row_at = 0  # byte in the file

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {name: f"{float(value):.7g}" for name, value in metrics.items()}
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
                self._write_last_row()
        except OSError as error:
            remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
            raise OSError(
                f"cannot write {self.path}: {error.strerror}; {remedy}, then `fit --resume` goes on"
            ) from error

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run directory has its config.yaml."""

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Takes over the file of an interrupted run, without its rows of `step` and later: they will come again."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            self._columns = list(reader.fieldnames or self._columns)
            # the last row may have been cut short: then it lacks columns
            self._rows = [row for row in reader if None not in row.values() and int(row["step"]) < step]
        self._write_all()

    def _write_all(self) -> None:
        header = self._line(dict(zip(self._columns, self._columns, strict=True)))
        lines = [self._line(row) for row in self._rows]
        self._last_row_at = len((header + "".join(lines[:-1])).encode())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, header + "".join(lines))

    def _write_last_row(self) -> None:
        with self.path.open("r+b") as file:
            file.seek(self._last_row_at)
            file.write(self._line(self._rows[-1]).encode())
            file.truncate()

    def _line(self, row: dict[str, str]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerow(row)
        return text.getvalue()
