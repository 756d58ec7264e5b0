"""The report as one page that needs nothing else: no network, no other file."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from litengine.report import pictures
from litengine.report.metrics import Results

MOST_CONFUSED = 10
MOST_ROWS = 200
SMALL = 64  # pixels: an image up to here is shown pixel by pixel
THUMBNAIL = 192
PERCENTAGES = {"acc": "Accuracy", "acc_top5": "Top-5 accuracy", "f1": "Mean F1", "ece": "Calibration error"}
TITLES = {**PERCENTAGES, "loss": "Loss"}


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
        name, time: of the run, the names of its folders.
        results: of the test.
        metrics: of the test, by name such as "test/loss", in the order in which they are shown.
        image: the pixels, uint8 (C, H, W), of the image at this place in `results`.
        names: file or number of each image.
        curves: rows of the run's metrics.csv.
        facts: more about the run: titles and texts.
        config: the run's settings.
        uncalibrated: with the confidences before the temperature of the checkpoint, if it has one.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["percent"] = percent
    environment.filters["svg"] = lambda figure: Markup(pictures.svg(figure))
    return environment.get_template("page.html").render(
        pictures=pictures,
        name=name,
        time=time,
        numbers=_numbers(results, metrics),
        mistakes=[_mistake(results, place, image(place), names[place]) for place in results.confident_mistakes()],
        results=results,
        names=results.class_names,
        classes=len(results.class_names),
        confused=results.most_confused(MOST_CONFUSED),
        per_class=results.worst_classes(MOST_ROWS),
        absent=any(scores.support == 0 for scores in results.per_class),
        before=uncalibrated,
        curves=pictures.learning_curves(curves),
        facts=(facts or {}).items(),
        config=config,
    )


def percent(part: float) -> str:
    """With two decimals; a dash for NaN."""
    return "–" if math.isnan(part) else f"{100 * part:.2f} %"


def _numbers(results: Results, metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Title, value and unit of each number."""
    numbers = []
    for name, value in metrics.items():
        short = name.removeprefix("test/")
        shown = (f"{100 * value:.2f}", "%") if short in PERCENTAGES else (f"{value:.4f}", "")
        numbers.append((TITLES.get(short, short), *shown))
    wrong = int((results.predictions != results.labels).sum())
    return [*numbers, ("Images wrong", f"{wrong:,}", f"of {len(results.labels):,}")]


def _mistake(results: Results, place: int, image: Tensor, name: str) -> dict[str, Any]:
    """An image of the gallery; its address holds the whole file."""
    picture = Image.fromarray(pictures.to_array(image))
    small = max(picture.size) <= SMALL
    file = io.BytesIO()
    if small:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        picture.save(file, "JPEG", quality=80)
    return {
        "address": f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}",
        "small": small,
        "image": name,
        "label": results.class_names[int(results.labels[place])],
        "prediction": results.class_names[int(results.predictions[place])],
        "confidence": float(results.confidences[place]),
    }
