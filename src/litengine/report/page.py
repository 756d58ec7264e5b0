"""The report as one page that needs nothing else: no network, no other file."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from litengine.report import pictures
from litengine.report.metrics import Results

MOST_CONFUSED = 10
MOST_ROWS = 200
SMALL = 64  # pixels: an image up to here is shown pixel by pixel
THUMBNAIL = 192
PERCENTAGES = ("acc", "acc_top5", "f1", "ece")
TITLES = {
    "acc": "Accuracy",
    "acc_top5": "Top-5 accuracy",
    "f1": "Mean F1",
    "ece": "Calibration error",
    "loss": "Loss",
}
CURVES = {"loss": "Loss", "acc": "Accuracy", "lr": "Learning rate"}


class Mistake(NamedTuple):
    """An image of the gallery; `data` is its address, which holds the whole file."""

    data: str
    small: bool
    image: str
    label: str
    prediction: str
    confidence: float


def render(
    name: str,
    time: str,
    results: Results,
    metrics: Mapping[str, float],
    image: Callable[[int], Tensor],
    names: Sequence[str],
    curves: Sequence[dict[str, str]] = (),
    facts: Mapping[str, str] | None = None,
    config: str = "",
    uncalibrated: Results | None = None,
) -> str:
    """The page as HTML.

    Args:
        name, time: of the run, which its folders are called.
        results: of the test.
        metrics: of the test, by name such as "test/loss", in the order in which they are shown.
        image: the pixels, uint8 (C, H, W), of the image at this place in `results`.
        names: file or number of each image.
        curves: rows of the run's metrics.csv.
        facts: what else to say of the run, by its name.
        config: the run's settings.
        uncalibrated: with the confidences before the temperature of the checkpoint, if it has one.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["percent"] = percent
    mistakes = results.confident_mistakes()
    return environment.get_template("page.html").render(
        name=name,
        time=time,
        numbers=_numbers(results, metrics),
        mistakes=[_mistake(results, place, image(place), names[place]) for place in mistakes],
        names=results.class_names,
        classes=len(results.class_names),
        confusion=_svg(pictures.confusion_matrix(results)),
        confused_classes=_svg(pictures.most_confused(results)),
        confused=results.most_confused(MOST_CONFUSED),
        bars=_svg(pictures.class_bars(results)),
        bars_shown=pictures.MOST_BARS,
        per_class=results.worst_classes(MOST_ROWS),
        reliability=_svg(pictures.reliability(results)),
        calibration=results.metrics["ece"],
        before=uncalibrated and (uncalibrated.metrics["ece"], _svg(pictures.reliability(uncalibrated))),
        curves=[(CURVES[name], svg) for name in CURVES if (svg := _svg(pictures.learning_curve(curves, name)))],
        facts=(facts or {}).items(),
        config=config,
    )


def percent(part: float) -> str:
    """A dash for what has no meaning."""
    return "–" if math.isnan(part) else f"{100 * part:.2f} %"


def _numbers(results: Results, metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Title, value and unit of each number."""
    numbers = []
    for name, value in metrics.items():
        short = name.removeprefix("test/")
        percent = short in PERCENTAGES
        numbers.append((TITLES.get(short, short), f"{100 * value:.2f}" if percent else f"{value:.4f}", "%" * percent))
    wrong = int((results.predictions != results.labels).sum())
    return [*numbers, ("Images wrong", f"{wrong:,}", f"of {len(results.labels):,}")]


def _svg(figure: Figure | None) -> Markup | None:
    return None if figure is None else Markup(pictures.svg(figure))


def _mistake(results: Results, place: int, image: Tensor, name: str) -> Mistake:
    label, prediction = int(results.labels[place]), int(results.predictions[place])
    picture = Image.fromarray(pictures.to_array(image))
    small = max(picture.size) <= SMALL
    file = io.BytesIO()
    if small:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        picture.save(file, "JPEG", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    return Mistake(
        f"data:image/{'png' if small else 'jpeg'};base64,{data}",
        small,
        name,
        results.class_names[label],
        results.class_names[prediction],
        float(results.confidences[place]),
    )
