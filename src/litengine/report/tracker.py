"""The report for trackers that take pictures and tables, such as Weights & Biases."""

import io
import math
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
    figures = {
        "confusion_matrix": pictures.confusion_matrix(results),
        "most_confused": pictures.most_confused(results),
        "reliability": pictures.reliability(results),
        "classes": pictures.class_bars(results),
    }
    for name, figure in figures.items():
        if figure is not None:
            picture = Image.open(io.BytesIO(pictures.png(figure, dpi=150)))
            tracker.log_image(f"test/{name}", [picture], step=step)
    rows = [[row.name, *map(_or_none, (row.precision, row.recall, row.f1)), row.support] for row in results.per_class]
    tracker.log_table("test/per_class", ["class", "precision", "recall", "f1", "support"], rows, step=step)
    if mistakes := results.confident_mistakes():
        images = [_enlarged(image(place)) for place in mistakes]
        tracker.log_image(
            "test/mistakes", images, step=step, caption=[_caption(results, place, names[place]) for place in mistakes]
        )


def _caption(results: Results, place: int, name: str) -> str:
    label, prediction = (results.class_names[int(classes[place])] for classes in (results.labels, results.predictions))
    return f"{prediction} {float(results.confidences[place]):.2%}, true: {label} ({name})"


def _enlarged(image: Tensor) -> Image.Image:
    picture = Image.fromarray(pictures.to_array(image))
    times = max(1, -(-ENLARGED // max(picture.size)))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
