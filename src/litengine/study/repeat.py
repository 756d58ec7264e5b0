"""The same training several times: with other validation images, or with other seeds."""

import csv
import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from litengine.study import locks
from litengine.study.child import Child, seconds_of
from litengine.study.options import Options
from litengine.study.progress import Progress
from litengine.study.results import Result, read_result
from litengine.study.settings import directory_of, record, resolve
from litengine.study.statistics import Summary, summarize
from litengine.study.workers import Workers
from litengine.training.run_directory import relative, write_whole

if TYPE_CHECKING:
    from rich.table import Table

METRICS = ("val/acc", "test/acc")
WHAT_VARIES = {
    "folds": "Varied: which images are held out for validation, each once. The folds share most of their training "
    "images, so the interval is a guide, rather too narrow.",
    "seeds": "Varied: initial weights, order and augmentation of the images. The split was the same: the interval says "
    "nothing of other images.",
}


class Row(NamedTuple):
    """A run in the tables."""

    name: str
    result: Result
    seconds: float | None

    def value(self, metric: str) -> float:
        """`val/acc` of the best epoch, `test/acc` of its checkpoint; NaN where it was not measured."""
        source = (self.result.test or {}) if metric.startswith("test/") else self.result.best
        return source.get(metric, math.nan)


def repeat(options: Options) -> int | None:
    """Trains with every fold or seed what is still to be trained, and writes and shows the results of all.

    Returns:
        The signal that stopped it; None where all runs are done.

    Raises:
        ValueError: for settings that fit does not take, or that are not those of the study that was begun; where a run
            failed.
    """
    varied = flags(options)
    settings = resolve([*options.fit, *next(iter(varied.values()))])
    directory = directory_of(options, settings, f"{options.folds}-folds" if options.folds else "seeds")
    # seeds may be added later: the runs of others stay what they are
    what = {"folds": options.folds} if options.folds else {"seeds": "any"}
    for key in ("seed_everything",) if options.seeds else ():
        settings[key] = None
    record(directory, what, settings)
    lock = locks.take(directory / "lock")
    if lock is None:
        holder = locks.holder(directory / "lock")
        raise ValueError(f"process {holder} is at work on {relative(directory)}: wait for it, or choose another --name")
    try:
        children = [Child(directory / name, [*options.fit, *own], options.test) for name, own in varied.items()]
        stopped_by = _train(children, options.workers, settings["trainer"]["max_epochs"])
        if stopped_by is None:
            _tell([_row(child) for child in children], "folds" if options.folds else "seeds", directory)
    finally:
        os.close(lock)
    return stopped_by


def _train(children: list[Child], number: int, epochs: int | None) -> int | None:
    waiting = [child for child in children if child.command()]
    done = len(children) - len(waiting)
    progress = Progress(children[0].folder.parent.name, len(children), epochs, "val/acc")
    if done:
        progress.say(f"{done} of {len(children)} runs are done already")
    failed: Child | None = None
    with Workers(number) as workers, progress.shown():
        for child in workers.run(lambda: waiting.pop(0) if waiting else None, progress.watch):
            if child.command() is None:
                done += 1
                progress.say(_line(_row(child)))
            elif not child.asked_to_stop:
                failed = failed or child
                workers.stop()  # a mean over fewer runs would be another number than was asked for
            progress.ended(child, done)
    if failed:
        raise ValueError(f"{failed.name} failed, {failed.why()}")
    return workers.stopped_by


def flags(options: Options) -> dict[str, list[str]]:
    """The runs by name, and the options of fit that each has to itself."""
    if options.folds is not None:
        return {f"fold-{i}": [f"--data.folds={options.folds}", f"--data.fold={i}"] for i in range(options.folds)}
    return {f"seed-{seed}": [f"--seed_everything={seed}"] for seed in options.seeds or []}


def _row(child: Child) -> Row:
    assert child.run_dir is not None
    return Row(child.name, read_result(child.run_dir), seconds_of(child.folder))


def _line(row: Row) -> str:
    values = [f"{metric} {row.value(metric):.4f}" for metric in METRICS if math.isfinite(row.value(metric))]
    seconds = "" if row.seconds is None else f", {row.seconds:.0f} s"
    return f"{row.name}: {'  '.join(values)}  (epoch {row.result.best_epoch} of {row.result.epochs}{seconds})"


def _tell(rows: list[Row], kind: str, directory: Path) -> None:
    import rich

    from litengine.study.pictures import repeated, save

    measured = [metric for metric in METRICS if all(math.isfinite(row.value(metric)) for row in rows)]
    summaries = {metric: summarize([row.value(metric) for row in rows]) for metric in measured}
    values = {metric: [row.value(metric) for row in rows] for metric in measured}
    write_whole(directory / "study.csv", as_csv(rows, summaries))
    save(repeated([row.name for row in rows], values, summaries), directory / "study.png")
    console = rich.get_console()
    console.print(_table(rows, summaries, directory.name))
    for metric, summary in summaries.items():
        interval = (
            "" if len(rows) == 1 else f" ± {summary.std:.4f}, 95 % interval {summary.low:.4f} to {summary.high:.4f}"
        )
        console.print(f"{metric} {summary.mean:.4f}{interval} ({len(rows)} {kind})", highlight=False, soft_wrap=True)
    console.print(WHAT_VARIES[kind], highlight=False)
    written = f"{relative(directory / 'study.csv')}, {relative(directory / 'study.png')}"
    console.print(f"written: {written}", highlight=False, soft_wrap=True)


def as_csv(rows: list[Row], summaries: dict[str, Summary]) -> str:
    """A row a run; below them, in the columns of the metrics, mean, standard deviation and 95 % interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *summaries, "best_epoch", "epochs", "seconds", "directory"])
    for row in rows:
        values = [f"{row.value(metric):.6f}" for metric in summaries]
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        place = "/".join(row.result.run_dir.parts[-2:])
        writer.writerow([row.name, *values, row.result.best_epoch, row.result.epochs, seconds, place])
    for name in Summary._fields:
        numbers = [getattr(summary, name) for summary in summaries.values()]
        writer.writerow([name, *("" if math.isnan(number) else f"{number:.6f}" for number in numbers), *[""] * 4])
    return text.getvalue()


def _table(rows: list[Row], summaries: dict[str, Summary], title: str) -> "Table":
    from rich.table import Table

    table = Table("run", title=title)
    for column in (*summaries, "best epoch", "epochs", "seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        values = [f"{row.value(metric):.4f}" for metric in summaries]
        seconds = "–" if row.seconds is None else f"{row.seconds:.0f}"
        table.add_row(row.name, *values, str(row.result.best_epoch), str(row.result.epochs), seconds)
    table.add_section()
    for name, field in {"mean": "mean", "std": "std", "95 % low": "low", "95 % high": "high"}.items():
        numbers = [getattr(summary, field) for summary in summaries.values()]
        table.add_row(name, *("–" if math.isnan(number) else f"{number:.4f}" for number in numbers))
    return table
