"""The report for trackers that take pictures and tables, such as Weights & Biases."""

import io
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger
from PIL import Image
from torch import Tensor

from litengine.report import pictures
from litengine.report.metrics import Results

ENLARGED = 128  # pixels, at least: a tracker smooths what it enlarges


def log_report(
    logger: Logger, results: Results, image: Callable[[int], Tensor], names: Sequence[str], step: int
) -> None:
    """Logs the confusion matrix, the reliability diagram and the bars of the classes as pictures, the scores of the
    classes as a table, and the most confident mistakes as images. Does nothing for loggers without pictures or tables.

    Args:
        logger: with `log_image` and `log_table` as those of Lightning's WandbLogger.
        results: of the test.
        image: the pixels, uint8 (C, H, W), of the image at this place in `results`.
        names: file or number of each image.
        step: of training, at which the network was tested.
    """
    tracker: Any = logger
    if not (hasattr(logger, "log_image") and hasattr(logger, "log_table")):
        return
    drawn = {"confusion_matrix": pictures.confusion_matrix, "reliability": pictures.reliability}
    for name, draw in {**drawn, "classes": pictures.class_bars}.items():
        picture = Image.open(io.BytesIO(pictures.png(draw(results), dpi=150)))
        tracker.log_image(f"test/{name}", [picture], step=step)
    columns = ["class", "precision", "recall", "f1", "support"]
    rows = [[None if cell != cell else cell for cell in scores[1:]] for scores in results.per_class]  # NaN as null
    tracker.log_table("test/per_class", columns, rows, step=step)
    if mistakes := results.confident_mistakes():
        images = [_enlarged(image(place)) for place in mistakes]
        captions = [_caption(results, place, names[place]) for place in mistakes]
        tracker.log_image("test/mistakes", images, step=step, caption=captions)


def _caption(results: Results, place: int, name: str) -> str:
    label, prediction = (results.class_names[int(classes[place])] for classes in (results.labels, results.predictions))
    return f"{prediction} {float(results.confidences[place]):.2%}, true: {label} ({name})"


def _enlarged(image: Tensor) -> Image.Image:
    picture = Image.fromarray(pictures.to_array(image))
    times = max(1, -(-ENLARGED // max(picture.size)))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
