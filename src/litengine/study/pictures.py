"""The pictures of a study, by matplotlib, without its global state: each function returns a Figure."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from litengine.study.statistics import Summary

GREY = "#8b949e"
GOOD = "#2f81f7"  # blue and orange: told apart by everyone
BAD = "#e8710a"
MOST_NAMED = 30  # runs whose names there is room for

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.parse_math": False,
    "text.usetex": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
_in_style = matplotlib.rc_context(_STYLE)


@_in_style
def repeated(names: Sequence[str], values: Mapping[str, Sequence[float]], summaries: Mapping[str, Summary]) -> Figure:
    """A point a run, with the mean as a line and its 95 % interval as a band; one plot a metric, on one scale each."""
    figure = Figure(figsize=(max(4.8, min(12, 1.6 + 0.35 * len(names))), 0.4 + 2.4 * max(1, len(values))), dpi=150)
    figure.set_layout_engine("constrained")
    for place, (metric, numbers) in enumerate(values.items(), start=1):
        axes = figure.add_subplot(len(values), 1, place)
        summary = summaries[metric]
        if len(numbers) > 1:
            axes.axhspan(summary.low, summary.high, color=GOOD, alpha=0.15, linewidth=0, label="95 % interval")
        axes.axhline(summary.mean, color=GOOD, linewidth=1.5, label=f"mean {summary.mean:.4f}")
        axes.plot(range(len(numbers)), numbers, "o", color=BAD, markersize=5, label="runs")
        axes.set_ylabel(metric)
        if len(names) <= MOST_NAMED:
            axes.set_xticks(range(len(names)), names, rotation=45 if len(names) > 6 else 0)
        axes.set_xlim(-0.5, len(numbers) - 0.5)
        axes.grid(True, axis="y")
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return figure


@_in_style
def searched(
    metric: str,
    maximize: bool,
    finished: Mapping[int, float],
    pruned: Mapping[int, float],
    importances: Mapping[str, float],
) -> Figure:
    """Left the value of every trial, and the best up to then; right how much each setting mattered, where known.

    Args:
        metric: what was searched for.
        maximize: whether more of it is better.
        finished: values by number of trial.
        pruned: the last value of those that were stopped early.
        importances: by setting, largest first; sums to 1.
    """
    figure = Figure(figsize=(9.6 if importances else 4.8, 3.2), dpi=150)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot(1, 2 if importances else 1, 1)
    if pruned:
        axes.plot(list(pruned), list(pruned.values()), "x", color=GREY, markersize=5, label="stopped early")
    axes.plot(list(finished), list(finished.values()), "o", color=BAD, markersize=4, label="trials")
    numbers = sorted(finished)
    better = max if maximize else min
    best = [better(finished[number] for number in numbers[: place + 1]) for place in range(len(numbers))]
    axes.step(numbers, best, where="post", color=GOOD, linewidth=1.5, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.grid(True, axis="y")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    if importances:
        right = figure.add_subplot(1, 2, 2)
        names = list(importances)[::-1]
        bars = right.barh(names, [importances[name] for name in names], color=GOOD, height=0.6)
        right.bar_label(bars, [f"{importances[name]:.0%}" for name in names], padding=3)
        right.set_xlim(0, 1.15 * max(importances.values()))
        right.set_xlabel("importance")
        right.xaxis.set_major_locator(MaxNLocator(4))
        right.grid(True, axis="x")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(picture.getvalue())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
