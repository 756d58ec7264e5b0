"""The pictures of a study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import pyplot, rc_context
from matplotlib.figure import Figure

from litengine.study.tables import Row

if TYPE_CHECKING:
    from optuna import Study
    from optuna.importance import BaseImportanceEvaluator

    from litengine.study.repeat import Summary


def save_runs(path: Path, rows: Sequence[Row], summaries: "Mapping[str, Summary]") -> None:
    """One plot per metric: a point per run, and the mean with its 95 % interval."""
    size = (max(6.4, min(12, 1.6 + 0.35 * len(rows))), 2.4 * max(1, len(summaries)))
    figure = Figure(figsize=size, layout="constrained")
    for index, (metric, (mean, _, low, high)) in enumerate(summaries.items(), start=1):
        axes = figure.add_subplot(len(summaries), 1, index)
        axes.plot([row["run"] for row in rows], [row[metric] for row in rows], "o", label="runs")
        axes.axhline(mean, label=f"mean {mean:.4f}")
        if len(rows) > 1:
            axes.axhspan(low, high, alpha=0.15, label="95 % interval")
        axes.set_ylabel(metric)
        axes.tick_params("x", rotation=45)
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
    figure.savefig(path, dpi=150)


def save_search(directory: Path, study: "Study", metric: str, evaluator: "BaseImportanceEvaluator | None") -> None:
    """Optuna's plots: `study.png`, the history of the trials, and with an evaluator `importances.png`."""
    from optuna.visualization import matplotlib as plots

    pyplot.switch_backend("agg")
    with rc_context():  # Optuna sets a style for the whole process
        drawn = {"study.png": plots.plot_optimization_history(study, target_name=metric)}
        if evaluator:
            drawn["importances.png"] = plots.plot_param_importances(study, evaluator=evaluator, target_name=metric)
        for name, axes in drawn.items():
            figure = axes.get_figure(root=True)
            assert figure
            figure.savefig(directory / name, dpi=150, bbox_inches="tight")
            pyplot.close(figure)
