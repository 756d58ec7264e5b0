"""A picture of the first training batch after augmentation."""

import io
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.markup import escape

from litengine.data.loader import BatchLoader
from litengine.files import write_whole
from litengine.terminal import print_line

IMAGES = 32
PIXELS = 2**20  # in all images together; more would delay the training


class BatchPicture(Callback):
    """Writes `augmented_batch.png` into the run directory at the start of a fit, and hands it to the trackers.

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
        # an error here must not stop the training
        try:
            from PIL import Image

            from litengine.report import pictures

            file = pictures.png(pictures.image_grid(images[:count], titles))
            write_whole(Path(trainer.default_root_dir) / "augmented_batch.png", file)
            for logger in trainer.loggers:
                if hasattr(logger, "log_image"):
                    logger.log_image("train/augmented_batch", [Image.open(io.BytesIO(file))], step=0)
        except Exception as error:
            print_line(escape(f"the picture of the augmented batch failed ({type(error).__name__}: {error})"))
