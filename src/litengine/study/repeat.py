"""Seeds and folds: the same training several times, with other random numbers or other validation images."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from litengine.files import link, relative, write_whole
from litengine.study.child import Child
from litengine.study.options import Options
from litengine.study.results import read_result
from litengine.study.settings import directory_of, record, recordable, resolve
from litengine.study.tables import Row, print_table, print_text, write_csv
from litengine.study.workers import Workers
from litengine.training.run_directory import VALIDATION

OUT_OF_FOLD = "out_of_fold.csv"
NOTES = {
    "folds": "The folds differ in the images held out for validation. They share most of their training images, so the "
    "interval is a guide and rather too narrow.",
    "seeds": "The seeds differ in initial weights, order and augmentation of the images. The split is the same: the "
    "interval says nothing about other images.",
}


class Summary(NamedTuple):
    """`std` is the sample standard deviation (n - 1), `low` to `high` the 95 % interval of the mean by Student's t."""

    mean: float
    std: float
    low: float
    high: float


def repeat(options: Options) -> int | None:
    """Trains the folds or seeds that are not finished yet, and writes and prints the results of all.

    Returns:
        The signal that stopped the study; None if all runs are done.

    Raises:
        ValueError: if fit refuses the settings, the study in this directory has other settings, or a run fails.
    """
    varied = run_options(options)
    settings = resolve([*options.fit, *next(iter(varied.values()))])
    directory = directory_of(options, settings, f"{options.folds}-folds" if options.folds else "seeds")
    if options.seeds:
        settings["seed_everything"] = None  # more seeds may be added later
    record(directory, recordable({"folds": options.folds} if options.folds else {"seeds": "any"}, settings))
    children = [Child(directory / name, [*options.fit, *own], options.test) for name, own in varied.items()]
    monitor = settings["checkpoints"]["monitor"]
    metrics = [*dict.fromkeys(["val/acc", monitor, "test/acc"])]
    stopped_by = train(children, options.workers, metrics)
    if stopped_by is None:
        rows = [_row(child, metrics) for child in children]
        _report(directory, rows, metrics, "folds" if options.folds else "seeds")
        if options.seeds:
            _link_best(children, [row.get(monitor, math.nan) for row in rows], settings["checkpoints"]["mode"] == "min")
    return stopped_by


def _link_best(children: list[Child], scores: list[float], lower_is_better: bool) -> None:
    """Links `best.ckpt` in the working directory to the checkpoint of the best run."""
    known = {score: child for score, child in zip(scores, children, strict=True) if math.isfinite(score)}
    if known:
        best = known[min(known) if lower_is_better else max(known)]
        if best.checkpoint and link(best.checkpoint, "best.ckpt"):
            print_text(f"best.ckpt links to {relative(best.checkpoint)}")


def run_options(options: Options) -> dict[str, list[str]]:
    """The runs by name, each with its own options of fit."""
    if options.folds is not None:
        return {f"fold-{i}": [f"--data.folds={options.folds}", f"--data.fold={i}"] for i in range(options.folds)}
    return {f"seed-{seed}": [f"--seed_everything={seed}"] for seed in options.seeds or []}


def train(children: list[Child], workers: int, metrics: list[str]) -> int | None:
    """Runs what is left of the children and prints their metrics; returns the signal that stopped it.

    Raises:
        ValueError: if a run fails.
    """
    waiting = [child for child in children if child.command()]
    if done := len(children) - len(waiting):
        print_text(f"{done} of {len(children)} runs are done already")
    failed: Child | None = None
    with Workers[Child](workers) as running:
        for child in running.run(iter(waiting)):
            if child.command() is None:
                row = _row(child, metrics)
                values = "  ".join(f"{metric} {row[metric]:.4f}" for metric in metrics if metric in row)
                print_text(f"{child.name}: {values}  (epoch {row['best_epoch']} of {row['epochs']})")
            elif not child.asked_to_stop:
                failed = failed or child
                running.stop()  # a mean over fewer runs would be another number than the one asked for
    if failed:
        raise ValueError(f"{failed.name} failed: {failed.why()}")
    return running.stopped_by


def _row(child: Child, metrics: list[str]) -> Row:
    assert child.run_dir is not None
    result = read_result(child.run_dir)
    return {
        "run": child.name,
        **{metric: round(result.metrics[metric], 6) for metric in metrics if metric in result.metrics},
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "seconds": child.seconds(),
        "directory": f"{child.name}/{result.run_dir.name}",
    }


def _report(directory: Path, rows: list[Row], metrics: list[str], kind: str) -> None:
    from litengine.study.pictures import save_runs

    measured = [metric for metric in metrics if all(math.isfinite(row.get(metric, math.nan)) for row in rows)]
    summaries = {metric: summarize([row[metric] for row in rows]) for metric in measured}
    columns = ["run", *measured, "best_epoch", "epochs", "seconds"]
    below: list[Row] = [
        {"run": name, **{metric: round(summaries[metric][index], 6) for metric in measured}}
        for index, name in enumerate(Summary._fields)
    ]
    write_csv(directory / "study.csv", [*columns, "directory"], [*rows, *below])
    print_table(directory.name, {column: column for column in columns}, [*rows, *below])
    for metric, (mean, std, low, high) in summaries.items():
        interval = f" ± {std:.4f}, 95 % interval {low:.4f} to {high:.4f}" if len(rows) > 1 else ""
        print_text(f"{metric} {mean:.4f}{interval} ({len(rows)} {kind})")
    print_text(NOTES[kind])
    save_runs(directory / "study.png", rows, summaries)
    written = ["study.csv", "study.png"]
    if kind == "folds" and (predictions := out_of_fold([directory / row["directory"] for row in rows])):
        write_whole(directory / OUT_OF_FOLD, predictions)
        written.append(OUT_OF_FOLD)
    print_text(f"written: {', '.join(relative(directory / name) for name in written)}")


def out_of_fold(runs: Sequence[Path]) -> str:
    """The validation.csv of all folds as one table, with a column `fold`; empty if a run has none.

    It holds the prediction of each training image by the network that was not trained on it.
    """
    lines: list[str] = []
    for fold, run in enumerate(runs):
        path = run / VALIDATION
        if not path.is_file():
            return ""
        header, *rows = path.read_text("utf-8").splitlines()
        lines += [] if lines else [f"fold,{header}"]
        lines += [f"{fold},{row}" for row in rows]
    return "\n".join(lines) + "\n"


def summarize(values: Sequence[float]) -> Summary:
    """The summary of one or more values; all but the mean are NaN for one."""
    from scipy import stats

    if len(values) == 1:
        return Summary(values[0], math.nan, math.nan, math.nan)
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return Summary(mean, std, mean - half, mean + half)
