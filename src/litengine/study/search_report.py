"""The results of a search: the table of trials, the best one, and how much each setting mattered."""

import shlex
from pathlib import Path

from optuna import Study
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from litengine.files import relative
from litengine.study.results import print_table, print_text, read_test, write_csv
from litengine.study.space import Space

SHOWN = 15  # trials on the terminal
ENOUGH = 8  # finished trials for importances
STATES = {"COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running"}


def report(directory: Path, space: Space, study: Study, trials: list[FrozenTrial], fit: list[str]) -> None:
    """Writes `study.csv` and the pictures, prints the best trials and the command that trains with the best settings:
    the options `fit` of all trials and those of the best one."""
    finished = best_first(trials, space)
    rows = [
        {
            "trial": trial.number,
            "state": STATES[trial.state.name],
            space.metric: None if trial.value is None else round(trial.value, 6),
            **trial.user_attrs,
            **trial.params,
        }
        for trial in trials
    ]
    columns = ["trial", "state", space.metric, "best_epoch", "epochs", *space.varied]
    write_csv(directory / "study.csv", columns, rows)
    ends = [key.rpartition(".")[2] for key in columns]
    headings = {key: end if ends.count(end) == 1 else key for key, end in zip(columns, ends, strict=True)}
    first = dict.fromkeys(trial.number for trial in [*finished, *trials])
    shown = [rows[number] for number in first][:SHOWN]
    print_table(f"{directory.name}, {len(shown)} of {len(rows)} trials", headings, shown)
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
    _draw(directory, study, space.metric, evaluator)
    print_text(f"written: {relative(directory)}/study.csv, study.png" + (", importances.png" if evaluator else ""))
    best = finished[0]
    print_text(f"best: trial {best.number}, {space.metric} {best.value:.4f}")
    run_dir = run_of(directory, best)
    print_text(f"its checkpoint: {relative(run_dir / 'checkpoints' / 'best.ckpt')} (best.ckpt links to it)")
    test = read_test(run_dir)
    print_text(f"test/acc {test['test/acc']:.4f}" if test else "next: python main.py test --ckpt_path best.ckpt")
    print_text(f"its settings:\n  python main.py fit {shlex.join([*fit, *space.options(best.params)])}")


def best_first(trials: list[FrozenTrial], space: Space) -> list[FrozenTrial]:
    """The finished trials, the best first."""
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return sorted(finished, key=lambda trial: trial.value or 0, reverse=space.mode == "max")


def run_of(directory: Path, trial: FrozenTrial) -> Path:
    """The run directory of a finished trial."""
    return directory / f"trial-{trial.number}" / str(trial.user_attrs["run"])


def _draw(directory: Path, study: Study, metric: str, evaluator: FanovaImportanceEvaluator | None) -> None:
    """Optuna's plots: `study.png`, the history of the trials, and with an evaluator `importances.png`."""
    from matplotlib import pyplot, rc_context
    from optuna.visualization import matplotlib as plots

    pyplot.switch_backend("agg")
    with rc_context():  # Optuna sets a style for the whole process
        plots.plot_optimization_history(study, target_name=metric)
        pyplot.savefig(directory / "study.png", dpi=150, bbox_inches="tight")
        if evaluator:
            plots.plot_param_importances(study, evaluator=evaluator, target_name=metric)
            pyplot.savefig(directory / "importances.png", dpi=150, bbox_inches="tight")
        pyplot.close("all")
