"""The results of a search: the table of trials, the best one, and how much each setting mattered."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from litengine.files import relative
from litengine.study.pictures import save_search
from litengine.study.results import read_test
from litengine.study.space import Space, as_flag
from litengine.study.tables import Row, print_table, print_text, short_names, write_csv

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SHOWN = 15  # trials on the terminal
ENOUGH = 8  # finished trials for importances
STATES = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running"}
FACTS = ("best_epoch", "epochs", "seconds", "folder")  # user attributes of a trial


def report(directory: Path, space: Space, study: "Study", trials: "list[FrozenTrial]", fit: list[str]) -> None:
    """Writes `study.csv` and the pictures, prints the table and the command that trains with the best settings: the
    options `fit` of all trials and those of the best one."""
    rows = [_row(trial, space) for trial in trials]
    columns = ["trial", "state", space.metric, *FACTS, *space.varied]
    write_csv(directory / "study.csv", columns, rows)
    finished = _finished(trials, space)
    order = [trial.number for trial in finished]
    best_first = sorted(rows, key=lambda row: order.index(row["trial"]) if row["trial"] in order else len(order))
    short = short_names([*space.varied])
    headings = {column: short.get(column, column) for column in columns if column != "folder"}
    title = directory.name + (f", the first {SHOWN} of {len(rows)} trials" if len(rows) > SHOWN else "")
    print_table(title, headings, best_first[:SHOWN])
    states = [row["state"] for row in rows]
    print_text(", ".join(f"{states.count(state)} {state}" for state in STATES.values() if state in states))
    if not finished:
        print_text("no trial was finished: there is no best one")
        return
    evaluator = None
    if len(finished) >= ENOUGH and len({trial.value for trial in finished}) > 1:
        evaluator = FanovaImportanceEvaluator(seed=0)  # needs fewer trials than Optuna's default
        importances = get_param_importances(study, evaluator=evaluator)
        print_text("importance: " + ", ".join(f"{key} {part:.0%}" for key, part in importances.items()))
    save_search(directory, study, space.metric, evaluator)
    print_text(f"written: {relative(directory)}/study.csv, study.png" + (", importances.png" if evaluator else ""))
    best = finished[0]
    print_text(f"best: trial {best.number}, {space.metric} {best.value:.4f}")
    if run_dir := best_run(directory, trials, space):
        print_text(f"its checkpoint: {relative(run_dir / 'checkpoints' / 'best.ckpt')} (best.ckpt links to it)")
        test = read_test(run_dir)
        print_text(f"test/acc {test['test/acc']:.4f}" if test else "next: python main.py test --ckpt_path best.ckpt")
    else:
        print_text(f"its run is on another machine: {best.user_attrs['folder']}")
    settings = {**space.fixed, **{key: best.params[key] for key in space.varied}}
    flags = [as_flag(key, value) for key, value in settings.items()]
    print_text(f"its settings:\n  python main.py fit {shlex.join([*fit, *flags])}")


def best_run(directory: Path, trials: "list[FrozenTrial]", space: Space) -> Path | None:
    """The run directory of the best trial; None if no trial is finished or it is on another machine."""
    finished = _finished(trials, space)
    run_dir = directory / f"trial-{finished[0].number}" / finished[0].user_attrs["run"] if finished else None
    return run_dir if run_dir and run_dir.is_dir() else None


def _finished(trials: "list[FrozenTrial]", space: Space) -> "list[FrozenTrial]":
    """The finished trials, the best first."""
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return sorted(finished, key=lambda trial: trial.value or 0, reverse=space.mode == "max")


def _row(trial: "FrozenTrial", space: Space) -> Row:
    value = {} if trial.value is None else {space.metric: round(trial.value, 6)}
    facts = {name: trial.user_attrs.get(name) for name in FACTS}
    return {"trial": trial.number, "state": STATES[trial.state.name], **value, **facts, **trial.params}
