"""The pictures of a report, by matplotlib, without its global state: each function returns a Figure."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from torch import Tensor

from litengine.report.metrics import BINS, Results

INK = "#24292f"  # of text and lines; on a page it becomes the colour of the page's text
GREY = "#8b949e"
GOOD = "#2f81f7"  # blue and orange differ for colour-blind readers, on white and on black
BAD = "#e8710a"

WIDTH = 4.8  # inches: fills a phone with text of 9 pixels, and is scaled up elsewhere
MOST_NAMED = 20  # classes for whose names and numbers a confusion matrix has room
MOST_BARS = 30
MOST_CELLS = 200  # of a confusion matrix in either direction, on a page of a few hundred pixels
LABEL = 22  # characters of a class name

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "text.parse_math": False,  # a class may be called $x$
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text, in the reader's font, which has the letters of their language
    "svg.hashsalt": "litengine",  # the same picture is the same file
}
_in_style = matplotlib.rc_context(_STYLE)


def shortened(name: str, length: int = LABEL) -> str:
    """A name in one line of at most `length` characters, all of them visible."""
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(name.split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def learning_curves(rows: Sequence[dict[str, str]]) -> list[tuple[str, Figure]]:
    """Title and figure of loss, accuracy, each other metric of validation, and learning rate."""
    found = [str(key)[4:] for row in rows for key in row if str(key).startswith("val/")]
    titles = {"loss": "Loss", "acc": "Accuracy", "lr": "Learning rate"}
    metrics = dict.fromkeys(["loss", "acc", *found, "lr"])
    drawn = ((titles.get(metric, metric), learning_curve(rows, metric)) for metric in metrics)
    return [(title, figure) for title, figure in drawn if figure]


@_in_style
def learning_curve(rows: Sequence[dict[str, str]], metric: str) -> Figure | None:
    """A metric of training and validation over the epochs; None if `rows` have none.

    Args:
        rows: of a run's metrics.csv, by name of the column.
        metric: `loss` or `acc`, which have an epoch's values and those of single steps, `lr`, or one of validation.
    """
    curves = [(f"{metric}_step", "", GREY), (metric, "", GOOD)]
    if metric != "lr":
        curves = [(f"train/{metric}_step", "", GREY), (f"train/{metric}", "training", GOOD)]
        curves.append((f"val/{metric}", "validation", BAD))
    epoch = next((row for row in reversed(rows) if row.get("train/loss")), None)
    if epoch is None or not any(row.get(name) for name, *_ in curves[1:] for row in rows):
        return None
    steps = (int(epoch["step"]) + 1) / (int(epoch["epoch"]) + 1)  # of an epoch
    figure, axes = _figure(2.3)
    for column, name, colour in curves:
        points = [((int(row["step"]) + 1) / steps, float(row[column])) for row in rows if row.get(column)]
        if points and column.endswith("_step"):
            axes.plot(*np.transpose(points[:: -(-len(points) // 400)]), color=colour, linewidth=0.8, alpha=0.5)
        elif points:
            marker = "o" if len(points) < 20 else ""
            axes.plot(*np.transpose(points), color=colour, linewidth=1.8, label=name, marker=marker, markersize=3)
    axes.set_xlabel("epoch")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(True)
    if metric == "acc":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if metric != "lr":
        _legend_above(axes)
    return figure


@_in_style
def confusion_matrix(results: Results) -> Figure:
    """True classes from top to bottom, predicted ones from left to right: right in blue, wrong in orange, as parts of
    the true class. With names and numbers for up to 20 classes; more than 200 are merged into 200 cells or fewer."""
    counts = results.confusion.numpy()
    merged = -(-len(counts) // MOST_CELLS)
    padding = -len(counts) % merged
    blocks = np.pad(counts, (0, padding)).reshape((len(counts) + padding) // merged, merged, -1, merged)
    figure, axes = _figure(WIDTH)
    axes.imshow(_colours(blocks.sum((1, 3))), interpolation="none", extent=(0, len(counts), len(counts), 0))
    axes.set_xlabel("predicted class" + (f", {merged} in a cell" if merged > 1 else ""))
    axes.set_ylabel("true class")
    if len(counts) <= MOST_NAMED:
        _write_cells(axes, counts, results.class_names)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def _write_cells(axes: Axes, counts: NDArray[Any], names: Sequence[str]) -> None:
    """The number in each cell, which is one wide and high, and the names of the classes beside them."""
    size = 8 if len(counts) <= 10 else 6.5
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if row == column and count > 0.5 * counts[row].sum() else INK
            axes.text(column + 0.5, row + 0.5, f"{count}", ha="center", va="center", color=colour, fontsize=size)
    edges = np.arange(len(counts))
    labels = [shortened(name, 16) for name in names]
    axes.set_xticks(edges + 0.5, labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(edges + 0.5, labels, fontsize=size)
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(True, which="minor")
    axes.tick_params(which="both", length=0)


def _colours(counts: NDArray[Any]) -> NDArray[np.uint8]:
    """RGBA of each cell: opaque where the whole class is, and to the square root, so that rare mistakes are seen."""
    colours = np.empty((*counts.shape, 4))
    colours[..., :3] = to_rgb(BAD)
    diagonal = np.arange(len(counts))
    colours[diagonal, diagonal, :3] = to_rgb(GOOD)
    colours[..., 3] = np.sqrt(counts / np.maximum(counts.sum(1), 1)[:, None])
    return np.round(colours * 255).astype(np.uint8)


@_in_style
def class_bars(results: Results) -> Figure:
    """F1 of the classes as bars, the 30 lowest at most, lowest first, with marks for precision and recall."""
    chosen = results.worst_classes(MOST_BARS)
    figure, axes = _figure(0.9 + 0.2 * len(chosen))
    places = range(len(chosen))
    axes.barh(places, [c.f1 for c in chosen], height=0.7, color=GOOD, alpha=0.55, label="F1")
    for place, scores in enumerate(chosen):
        axes.text(0.01, place, f"{100 * scores.f1:.1f}" if scores.support else "no images", va="center", fontsize=7.5)
    for name, marker, colour in (("precision", "|", BAD), ("recall", ".", INK)):
        values = [getattr(c, name) for c in chosen]
        axes.plot(values, places, marker, color=colour, label=name, markersize=7, clip_on=False)
    axes.set_yticks(places, [shortened(c.name) for c in chosen])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(chosen) - 0.4, -0.6)  # the first at the top
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(True, axis="x")
    _legend_above(axes)
    return figure


@_in_style
def reliability(results: Results) -> Figure:
    """Accuracy of the predictions by their confidence, the distance of the two, and how many there are."""
    images, confidence, accuracy = results.bins.numpy()
    centres = (np.arange(BINS) + 0.5) / BINS
    figure = Figure((WIDTH, 3.8), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.bar(centres, accuracy, 1 / BINS, color=GOOD, alpha=0.55, label="accuracy")
    low, high = np.fmin(accuracy, confidence), np.fmax(accuracy, confidence)
    gap: dict[str, Any] = {"color": "none", "edgecolor": BAD, "linewidth": 1.2}
    upper.bar(centres, high - low, 0.8 / BINS, bottom=low, label="distance to the confidence", **gap)
    upper.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    upper.set_ylabel("right")
    upper.set_ylim(0, 1)
    _legend_above(upper)
    lower.bar(centres, images / len(results.labels), 1 / BINS, color=GREY)
    lower.set_ylabel("images")
    lower.set_xlabel("confidence")
    lower.set_xlim(0, 1)
    for axis in (upper.yaxis, lower.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (upper, lower):
        axes.grid(True)
    return figure


@_in_style
def image_grid(images: Tensor, titles: Sequence[str], columns: int = 8) -> Figure:
    """Images side by side, each below its title; small ones enlarged by whole pixels, so that each pixel is seen.

    Args:
        images: uint8 (N, C, H, W), 0 to 255; see `to_array`.
        titles: one for each image.
    """
    pixels = [to_array(image) for image in images]
    height, width = pixels[0].shape[:2]
    larger = max(1, round(96 / width))
    height, width = height * larger, width * larger
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    dots, gap, line = 100, 6, 18  # per inch; between two images; for a title
    size = (columns * (width + gap) + gap, rows * (height + line) + gap)
    # a tenth of a dot more: matplotlib rounds 414 / 100 * 100 down to 413
    figure = Figure(((size[0] + 0.1) / dots, (size[1] + 0.1) / dots), dpi=dots)
    letters = max(4, width // 6)
    for place, (image, title) in enumerate(zip(pixels, titles, strict=True)):
        row, column = divmod(place, columns)
        left, top = gap + column * (width + gap), line + row * (height + line)
        figure.figimage(image.repeat(larger, 0).repeat(larger, 1), left, size[1] - top - height)
        x, y = (left + width / 2) / size[0], 1 - (top - 3) / size[1]
        figure.text(x, y, shortened(title, letters), ha="center", va="bottom", fontsize=7)
    return figure


def to_array(image: Tensor) -> NDArray[np.uint8]:
    """Pixels uint8 (C, H, W) as uint8 (H, W, 3): one channel as grey, the first three of more than three."""
    channels = image.cpu().numpy()[:3]
    channels = channels if len(channels) == 3 else channels[:1].repeat(3, 0)
    return np.ascontiguousarray(channels.transpose(1, 2, 0))


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure((WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _legend_above(axes: Axes) -> None:
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=1.2)


def svg(figure: Figure) -> str:
    """The figure as an <svg> element of a page, in the colour and font of its text, on its background."""
    file = io.StringIO()
    with _drawing():
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]  # without the XML declaration
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"font-family: [^;]*; ", "", text)
    tag, rest = text.split(">", 1)
    tag = re.sub(r' (width|height)="[^"]*"', "", tag)  # the page decides; viewBox keeps the proportions
    return f"{tag}>{rest}".replace(INK, "currentColor").strip()


def png(figure: Figure, dpi: float | None = None) -> bytes:
    """The figure as the bytes of a PNG file, on white."""
    file = io.BytesIO()
    with _drawing():
        figure.savefig(file, format="png", dpi=dpi or "figure", facecolor="white")
    return file.getvalue()


@contextmanager
def _drawing() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # letters that the font lacks; a page is shown in another font
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield
