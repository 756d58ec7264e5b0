"""The learning curves of a run as a picture that is up to date while it trains."""

import csv
import io
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.markup import escape

from litengine.files import write_whole
from litengine.terminal import print_line

SECONDS = 10.0  # between two drawings, which take about one second


class DrawCurves(Callback):
    """Writes `curves.png` (loss, accuracy and learning rate) into the run directory: after an epoch, at most every ten
    seconds, and at the end."""

    def __init__(self) -> None:
        self._drawn_at = -SECONDS

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch > 0 and time.monotonic() - self._drawn_at >= SECONDS:
            self._draw(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        table = Path(trainer.default_root_dir) / "metrics.csv"
        if not trainer.is_global_zero or not table.is_file():
            return
        try:
            picture = stacked(list(csv.DictReader(io.StringIO(table.read_text("utf-8", "replace")))))
            if picture:
                write_whole(table.with_name("curves.png"), picture)
        except Exception as error:  # it must not stop the training
            print_line(escape(f"the picture of the curves failed ({type(error).__name__}: {error})"))
        self._drawn_at = time.monotonic()


def stacked(rows: list[dict[str, Any]]) -> bytes | None:
    """A PNG with the curves of metrics.csv, one below the other; None before the first epoch has ended."""
    from PIL import Image

    from litengine.report import pictures

    figures = [pictures.learning_curve(rows, metric) for metric in ("loss", "acc", "lr")]
    images = [Image.open(io.BytesIO(pictures.png(figure, dpi=110))) for figure in figures if figure is not None]
    if not images:
        return None
    sheet = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
