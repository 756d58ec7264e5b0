"""Pictures in the run directory of a fit: its first batch after augmentation, and its learning curves."""

import csv
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.markup import escape

from litengine.data.loader import BatchLoader
from litengine.files import write_whole
from litengine.terminal import print_line
from litengine.training.hooks import call_loggers

IMAGES = 32
PIXELS = 2**20  # in all images together; more would delay the training
SECONDS = 10.0  # between two drawings of the curves, which take about one second


@contextmanager
def not_fatal(what: str) -> Iterator[None]:
    """Prints an error: one in a picture must not stop the run."""
    try:
        yield
    except Exception as error:
        print_line(escape(f"{what} failed ({type(error).__name__}: {error})"))


class BatchPicture(Callback):
    """Writes `augmented_batch.png` at the start of a fit, and hands it to the loggers.

    It shows up to 32 images, fewer if they are large. The batch is made a second time for it; order and augmentation
    depend on seed, epoch and batch only, so that this changes nothing.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        resumed, dry = trainer.global_step > 0, trainer.fast_dev_run  # type: ignore[attr-defined]
        if resumed or dry or not trainer.is_global_zero:
            return
        loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        if not isinstance(loader, BatchLoader):
            return
        images, labels = loader.batch(loader.order(0), 0, 0)
        names: Any = pl_module.class_names
        count = min(IMAGES, max(4, PIXELS // images[0, 0].numel()))
        titles = [names[label] for label in labels[:count].tolist()]
        with not_fatal("the picture of the augmented batch"):
            from PIL import Image

            from litengine.report import pictures

            file = pictures.png(pictures.image_grid(images[:count], titles))
            write_whole(Path(trainer.default_root_dir) / "augmented_batch.png", file)
            call_loggers(trainer, "log_image", "train/augmented_batch", [Image.open(io.BytesIO(file))], 0)


class DrawCurves(Callback):
    """Writes `curves.png` (loss, metrics and learning rate): after an epoch, at most every ten seconds, and at the
    end."""

    def __init__(self) -> None:
        self._drawn_at = -SECONDS

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch > 0 and time.monotonic() - self._drawn_at >= SECONDS:
            self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = Path(trainer.default_root_dir)
        if not trainer.is_global_zero:
            return
        with not_fatal("the picture of the curves"):
            if picture := stacked(metrics_of(run)):
                write_whole(run / "curves.png", picture)
        self._drawn_at = time.monotonic()


def metrics_of(run: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv` in a run directory, by name of the column; none if there is no such file."""
    table = run / "metrics.csv"
    return list(csv.DictReader(io.StringIO(table.read_text("utf-8", "replace")))) if table.is_file() else []


def stacked(rows: list[dict[str, str]]) -> bytes | None:
    """A PNG with the curves of metrics.csv, one below the other; None before the first epoch has ended."""
    from PIL import Image

    from litengine.report import pictures

    images = []
    for title, figure in pictures.learning_curves(rows):
        figure.axes[0].set_title(title, loc="right")  # the legend is on the left
        figure.axes[0].set_ylabel(title.lower())
        images.append(np.asarray(Image.open(io.BytesIO(pictures.png(figure, dpi=110)))))
    if not images:
        return None
    file = io.BytesIO()
    Image.fromarray(np.concatenate(images)).save(file, "PNG")
    return file.getvalue()
