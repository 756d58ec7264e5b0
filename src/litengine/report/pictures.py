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

from litengine.report.metrics import BINS, Confusion, Results

INK = "#24292f"  # of text and lines; on a page it becomes the colour of the page's text
GREY = "#8b949e"
GOOD = "#2f81f7"  # blue and orange: told apart by everyone, on white and on black
BAD = "#e8710a"

WIDTH = 4.8  # inches: fills a phone with text of 9 pixels, and is scaled up elsewhere
MOST_NAMED = 20  # classes whose names and numbers a confusion matrix has room for
MOST_BARS = 30
MOST_CELLS = 200  # of a confusion matrix in either direction, on a page of a few hundred pixels
LABEL = 22  # characters of a class name

# `text.parse_math`: a class may be called $x$
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",  # text stays text: in the reader's font, which has the letters of his language
    "svg.hashsalt": "litengine",  # the same picture is the same file
}
_in_style = matplotlib.rc_context(_STYLE)


def shortened(name: str, length: int = LABEL) -> str:
    """A name in one line of at most `length` characters, all of them visible."""
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(name.split()))
    return line if len(line) <= length else line[: length - 1] + "…"


# The pictures


@_in_style
def learning_curve(rows: Sequence[dict[str, str]], metric: str) -> Figure | None:
    """A metric of training and validation over the epochs; None where `rows` have none.

    Args:
        rows: of a run's metrics.csv, by name of the column.
        metric: `loss` or `acc`, which have an epoch's values and those of single steps, or `lr`.
    """
    curves = [(f"{metric}_step", "", GREY), (metric, "", GOOD)]
    if metric != "lr":
        curves = [(f"train/{metric}_step", "", GREY), (f"train/{metric}", "training", GOOD)]
        curves.append((f"val/{metric}", "validation", BAD))
    epoch = next((row for row in reversed(rows) if row.get("train/loss")), None)
    if epoch is None or not any(row.get(curves[1][0]) for row in rows):
        return None
    steps = (int(epoch["step"]) + 1) / (int(epoch["epoch"]) + 1)  # of an epoch
    figure, axes = _figure(2.3)
    for column, name, colour in curves:
        points = [((int(row["step"]) + 1) / steps, float(row[column])) for row in rows if row.get(column)]
        if not points:
            continue
        if column.endswith("_step"):
            x, y = zip(*points[:: -(-len(points) // 400)], strict=True)
            axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.5)
        else:
            x, y = zip(*points, strict=True)
            marker = "o" if len(points) < 20 else ""
            axes.plot(x, y, color=colour, linewidth=1.8, label=name, marker=marker, markersize=3)
    axes.set_xlabel("epoch")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(True)
    if metric == "acc":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if metric != "lr":
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=1.5)
    return figure


@_in_style
def confusion_matrix(results: Results) -> Figure:
    """True classes from top to bottom, predicted ones from left to right: blue what was right, orange what was wrong,
    in parts of the true class. Names and numbers where there is room for them."""
    counts = results.confusion.numpy()
    if len(counts) <= MOST_NAMED:
        return _named_matrix(counts, results.class_names)
    merged = -(-len(counts) // MOST_CELLS)
    padding = -len(counts) % merged
    blocks = np.pad(counts, (0, padding)).reshape((len(counts) + padding) // merged, merged, -1, merged)
    figure, axes = _figure(WIDTH)
    axes.imshow(_colours(blocks.sum((1, 3))), interpolation="none", extent=(0, len(counts), len(counts), 0))
    axes.set_xlabel("predicted class" + (f", {merged} in a cell" if merged > 1 else ""))
    axes.set_ylabel("true class")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


@_in_style
def most_confused(results: Results) -> Figure | None:
    """The part of a large confusion matrix that holds the classes of the most frequent mistakes; None where the matrix
    is small, or all is right."""
    if len(results.class_names) <= MOST_NAMED:
        return None
    chosen: dict[int, None] = {}
    pair: Confusion
    for pair in results.most_confused(MOST_NAMED):
        if len(chosen | {pair.label: None, pair.prediction: None}) <= MOST_NAMED:
            chosen |= {pair.label: None, pair.prediction: None}
    if not chosen:
        return None
    labels = sorted(chosen)
    counts = results.confusion.numpy()
    names = [results.class_names[label] for label in labels]
    return _named_matrix(counts[np.ix_(labels, labels)], names, whole=counts[labels].sum(1))


def _named_matrix(counts: NDArray[Any], names: Sequence[str], whole: NDArray[Any] | None = None) -> Figure:
    figure, axes = _figure(WIDTH)
    axes.imshow(_colours(counts, whole), interpolation="none")
    whole = counts.sum(1) if whole is None else whole
    size = 8 if len(counts) <= 10 else 6.5
    for (row, column), count in np.ndenumerate(counts):
        if count:
            strong = row == column and count > 0.5 * whole[row]
            colour = "white" if strong else INK
            axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=size)
    places = range(len(counts))
    labels = [shortened(name, 16) for name in names]
    axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(places, labels, fontsize=size)
    axes.set_xticks([place - 0.5 for place in places], minor=True)
    axes.set_yticks([place - 0.5 for place in places], minor=True)
    axes.grid(True, which="minor")
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def _colours(counts: NDArray[Any], whole: NDArray[Any] | None = None) -> NDArray[np.uint8]:
    """RGBA of each cell: opaque where the whole class is, and to the square root, so that rare mistakes are seen."""
    whole = counts.sum(1) if whole is None else whole
    colours = np.empty((*counts.shape, 4))
    colours[..., :3] = to_rgb(BAD)
    diagonal = np.arange(len(counts))
    colours[diagonal, diagonal, :3] = to_rgb(GOOD)
    colours[..., 3] = np.sqrt(counts / np.maximum(whole, 1)[:, None])
    return np.round(colours * 255).astype(np.uint8)


@_in_style
def class_bars(results: Results) -> Figure:
    """F1 of every class as a bar, with marks for precision and recall: the lowest first, and of more than 30 classes
    the lowest 30."""
    chosen = results.worst_classes(MOST_BARS)
    figure, axes = _figure(0.9 + 0.2 * len(chosen))
    places = range(len(chosen))
    axes.barh(places, np.nan_to_num([c.f1 for c in chosen]), height=0.7, color=GOOD, alpha=0.55, label="F1")
    for place, scores in enumerate(chosen):
        axes.text(0.01, place, f"{100 * scores.f1:.1f}", va="center", fontsize=7.5)
    for name, values, marker in (
        ("precision", [c.precision for c in chosen], "|"),
        ("recall", [c.recall for c in chosen], "."),
    ):
        axes.plot(values, places, marker, color=BAD if marker == "|" else INK, label=name, markersize=7, clip_on=False)
    axes.set_yticks(places, [shortened(c.name) for c in chosen])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(chosen) - 0.4, -0.6)  # the first at the top
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(True, axis="x")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=1.2)
    return figure


@_in_style
def reliability(results: Results) -> Figure:
    """Accuracy of the predictions by their confidence, the distance of the two, and how many there are."""
    bins = results.bins
    centres = (np.arange(BINS) + 0.5) / BINS
    accuracy, confidence = np.array([b.accuracy for b in bins]), np.array([b.confidence for b in bins])
    share = np.array([b.images for b in bins]) / len(results.labels)
    figure = Figure((WIDTH, 3.8), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.bar(centres, accuracy, 1 / BINS, color=GOOD, alpha=0.55, label="accuracy")
    low, high = np.fmin(accuracy, confidence), np.fmax(accuracy, confidence)
    gap = {"color": "none", "edgecolor": BAD, "linewidth": 1.2}
    upper.bar(centres, high - low, 0.8 / BINS, bottom=low, label="distance to the confidence", **gap)
    upper.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    upper.set_ylabel("right")
    upper.set_ylim(0, 1)
    upper.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=1.2)
    lower.bar(centres, share, 1 / BINS, color=GREY)
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
        images: uint8 (N, C, H, W), 0 to 255, of one, three or more channels (then the first three are shown).
        titles: one of each image.
    """
    pixels = [to_array(image) for image in images]
    height, width = pixels[0].shape[:2]
    larger = max(1, round(96 / width))
    height, width = height * larger, width * larger
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    dots, gap, line = 100, 6, 18  # a inch; between two images; for a title
    size = (columns * (width + gap) + gap, rows * (height + line) + gap)
    canvas = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
    # a tenth of a dot more, for matplotlib cuts off what 414 / 100 * 100 lacks of 414
    figure = Figure(((size[0] + 0.1) / dots, (size[1] + 0.1) / dots), dpi=dots)
    letters = max(4, width // 6)
    for place, (image, title) in enumerate(zip(pixels, titles, strict=True)):
        row, column = divmod(place, columns)
        left, top = gap + column * (width + gap), line + row * (height + line)
        canvas[top : top + height, left : left + width] = image.repeat(larger, 0).repeat(larger, 1)
        x, y = (left + width / 2) / size[0], 1 - (top - 3) / size[1]
        figure.text(x, y, shortened(title, letters), ha="center", va="bottom", fontsize=7)
    figure.figimage(canvas, zorder=-1)
    return figure


def to_array(image: Tensor) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) to be looked at, of uint8 (C, H, W): of one channel grey, of more than three the first three."""
    channels = image.cpu().numpy()[:3]
    channels = channels if len(channels) == 3 else channels[:1].repeat(3, 0)
    return np.ascontiguousarray(channels.transpose(1, 2, 0))


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure((WIDTH, height), layout="constrained")
    return figure, figure.subplots()


# Their files


def svg(figure: Figure) -> str:
    """The figure as an <svg> element to stand in a page, in the colour and font of its text, on its background."""
    with _drawing():
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]  # what comes before belongs to a file of its own
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"font-family: [^;]*; ", "", text)
    tag, rest = text.split(">", 1)
    tag = re.sub(r' (width|height)="[^"]*"', "", tag)  # the page decides; viewBox keeps the proportions
    text = f"{tag}>{rest}"
    return text.replace(INK, "currentColor").strip()


def png(figure: Figure, dpi: float | None = None) -> bytes:
    """The figure as the bytes of a PNG file, on white."""
    with _drawing():
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dpi or "figure", facecolor="white")
    return file.getvalue()


@contextmanager
def _drawing() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # letters that the font lacks; a page is shown in another font
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield
