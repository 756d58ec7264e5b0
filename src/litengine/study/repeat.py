"""Seeds and folds: the same training several times, with other random numbers or other validation images."""

import json
import math
import statistics
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from litengine.files import link, relative, write_whole
from litengine.study.child import Child, best_checkpoint
from litengine.study.options import check_same, directory_of, resolve
from litengine.study.results import Result, Row, print_table, print_text, read_result, write_csv
from litengine.study.workers import run_all
from litengine.training.run_directory import VALIDATION

NOTES = {
    "folds": "The folds share most of their training images: the interval is a guide and rather too narrow.",
    "seeds": "The split is the same in all runs: the interval says nothing about other images.",
}
Summary = dict[str, float]  # mean, std, low, high


def repeat(options: Namespace) -> int | None:
    """Trains the folds or seeds that are not finished yet, and writes and prints the results of all. Returns the signal
    that stopped it.

    Raises:
        ValueError: if fit refuses the settings, the study in this directory has other settings, or a run fails.
    """
    if options.folds:
        kind, varied = "folds", f"{options.folds}-folds"
        runs = {f"fold-{i}": [f"--data.folds={options.folds}", f"--data.fold={i}"] for i in range(options.folds)}
    else:
        kind = varied = "seeds"
        runs = {f"seed-{seed}": [f"--seed_everything={seed}"] for seed in options.seeds}
    settings = resolve([*options.fit, *next(iter(runs.values()))])
    directory = directory_of(options, settings, varied)
    if options.seeds:
        settings["seed_everything"] = None  # more seeds may be added later
    recorded, now = directory / "study.json", {kind: options.folds or "any", "settings": settings}
    if recorded.is_file():
        check_same(json.loads(recorded.read_bytes()), now, relative(directory))
    else:
        write_whole(recorded, json.dumps(now, indent=1) + "\n")
    children = [Child(directory / name, [*options.fit, *own], options.test) for name, own in runs.items()]
    monitor = settings["checkpoints"]["monitor"]
    metrics = [*dict.fromkeys(["val/acc", monitor, "test/acc"])]
    stopped_by = train(children, options.workers, metrics)
    if stopped_by is None:
        results = {child.name: read_result(child.run_dir) for child in children}
        _report(directory, results, metrics, kind)
        if options.seeds:
            _link_best([*results.values()], monitor)
    return stopped_by


def train(children: list[Child], workers: int, metrics: list[str]) -> int | None:
    """Runs what is left of the children and prints their metrics. Returns the signal that stopped it; raises a
    ValueError if a run fails."""
    waiting = [child for child in children if child.command()]
    if done := len(children) - len(waiting):
        print_text(f"{done} of {len(children)} runs are done already")
    failed: list[Child] = []

    def ended(child: Child) -> bool:
        if child.command() is None:
            read_result(child.run_dir).print(child.name, metrics)
        elif not child.asked_to_stop:
            failed.append(child)
        return not failed  # a mean over fewer runs would be another number than the one asked for

    stopped_by = run_all(iter(waiting), workers, ended)
    if failed:
        raise ValueError(f"{failed[0].name} failed: {failed[0].why()}")
    return stopped_by


def _link_best(results: list[Result], monitor: str) -> None:
    """Links `best.ckpt` in the working directory to the checkpoint of the best run, and says which."""
    scores = {result.metrics.get(monitor, math.nan): result.run_dir for result in results}
    if finite := [score for score in scores if math.isfinite(score)]:
        checkpoint = best_checkpoint(scores[min(finite) if results[0].mode == "min" else max(finite)])
        if link(checkpoint, "best.ckpt"):
            print_text(f"best.ckpt links to {relative(checkpoint)}")


def _report(directory: Path, results: dict[str, Result], metrics: list[str], kind: str) -> None:
    values = {metric: [result.metrics.get(metric, math.nan) for result in results.values()] for metric in metrics}
    summaries = {metric: summarize(given) for metric, given in values.items() if all(map(math.isfinite, given))}
    rows: list[Row] = [
        {
            "run": name,
            **{metric: round(result.metrics[metric], 6) for metric in summaries},
            "best_epoch": result.best_epoch,
            "epochs": result.epochs,
            "directory": f"{name}/{result.run_dir.name}",
        }
        for name, result in results.items()
    ]
    rows += [
        {"run": name, **{key: round(summary[name], 6) for key, summary in summaries.items() if name in summary}}
        for name in ("mean", "std", "low", "high")
    ]
    columns = ["run", *summaries, "best_epoch", "epochs"]
    write_csv(directory / "study.csv", [*columns, "directory"], rows)
    print_table(directory.name, dict(zip(columns, columns, strict=True)), rows)
    for metric, summary in summaries.items():
        interval = " ± {std:.4f}, 95 % interval {low:.4f} to {high:.4f}".format(**summary) if len(results) > 1 else ""
        print_text(f"{metric} {summary['mean']:.4f}{interval} ({len(results)} {kind})")
    print_text(NOTES[kind])
    _draw(directory / "study.png", [*results], values, summaries)
    written = ["study.csv", "study.png"]
    if kind == "folds" and (predictions := out_of_fold([result.run_dir for result in results.values()])):
        write_whole(directory / "out_of_fold.csv", predictions)
        written.append("out_of_fold.csv")
    print_text(f"written: {', '.join(relative(directory / name) for name in written)}")


def _draw(path: Path, runs: list[str], values: dict[str, list[float]], summaries: dict[str, Summary]) -> None:
    """One plot per metric: a point per run, and the mean with its 95 % interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.4, min(12, 0.5 * len(runs))), 2.4 * max(1, len(summaries))), layout="constrained")
    for index, (metric, summary) in enumerate(summaries.items(), start=1):
        axes = figure.add_subplot(len(summaries), 1, index)
        axes.plot(runs, values[metric], "o", label="runs")
        axes.axhline(summary["mean"], label=f"mean {summary['mean']:.4f}")
        if len(runs) > 1:
            axes.axhspan(summary["low"], summary["high"], alpha=0.15, label="95 % interval")
        axes.set_ylabel(metric)
        axes.tick_params("x", rotation=45)
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize="small")
    figure.savefig(path, dpi=150)


def out_of_fold(runs: Sequence[Path]) -> str:
    """The validation.csv of all folds as one table, with a column `fold`: the prediction of each training image by the
    network that was not trained on it. Empty if a run has none, or a damaged one, which is named."""
    lines: list[str] = []
    for fold, run in enumerate(runs):
        path = run / VALIDATION
        if not path.is_file():
            return ""
        text = path.read_text("utf-8", "replace")
        if not text.endswith("\n") or "\ufffd" in text:
            print_text(f"{relative(path)} is damaged: there is no table of all folds")
            return ""
        header, *rows = text.splitlines()
        lines += [] if lines else [f"fold,{header}"]
        lines += [f"{fold},{row}" for row in rows]
    return "\n".join(lines) + "\n"


def summarize(values: Sequence[float]) -> Summary:
    """The `mean` of one or more values. Of several also `std`, the sample standard deviation (n - 1), and `low` and
    `high`, the 95 % interval of the mean by Student's t."""
    from scipy import stats

    mean = statistics.fmean(values)
    if len(values) == 1:
        return {"mean": mean}
    std = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half}
