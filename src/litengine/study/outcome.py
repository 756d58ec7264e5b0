"""What a search found: the table of trials, the best one, and which settings mattered."""

import csv
import io
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from litengine.study.results import report_of
from litengine.study.space import Space, as_flag
from litengine.training.run_directory import relative, write_whole

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial
    from rich.table import Table

SHOWN = 15  # trials on the screen
ENOUGH = 8  # finished trials, from which importances are told
STATES = {
    "COMPLETE": "finished",
    "PRUNED": "stopped early",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}


class Row(NamedTuple):
    """A trial in the tables. `value` is NaN where there is none; of one that was stopped early it is the last."""

    number: int
    state: str
    value: float
    parameters: dict[str, Any]
    facts: dict[str, Any]

    def fact(self, name: str) -> str:
        """`best_epoch`, `epochs`, `seconds`, `folder`; empty where it is unknown."""
        value = self.facts.get(name)
        return "" if value is None else f"{value:.0f}" if isinstance(value, float) else str(value)


class Outcome:
    """A search as it stands.

    Args:
        directory: of the study.
        space: what was varied.
        study: Optuna's.
        trials: those that count.
    """

    def __init__(self, directory: Path, space: Space, study: "Study", trials: "list[FrozenTrial]") -> None:
        self.directory = directory
        self.space = space
        self.rows = [_row(trial) for trial in trials]
        sign = -1 if space.mode == "max" else 1
        self.finished = sorted((row for row in self.rows if row.state == "finished"), key=lambda row: sign * row.value)
        self.importances = importances(study) if len(self.finished) >= ENOUGH else {}

    @property
    def best(self) -> Row | None:
        return self.finished[0] if self.finished else None

    @property
    def best_run(self) -> Path | None:
        """The run directory of the best trial; None where it lies on another machine."""
        if self.best is None:
            return None
        run_dir = self.directory / f"trial-{self.best.number}" / str(self.best.facts["run"])
        return run_dir if run_dir.is_dir() else None

    def write(self) -> None:
        """`study.csv` and `study.png` in the directory of the study."""
        from litengine.study.pictures import save, searched

        write_whole(self.directory / "study.csv", self.as_csv())
        values = {
            state: {row.number: row.value for row in self.rows if row.state == state and math.isfinite(row.value)}
            for state in ("finished", "stopped early")
        }
        short = short_names(list(self.space.varied))
        named = {short[key]: importance for key, importance in self.importances.items()}
        maximize = self.space.mode == "max"
        figure = searched(self.space.metric, maximize, values["finished"], values["stopped early"], named)
        save(figure, self.directory / "study.png")

    def as_csv(self) -> str:
        """A row a trial, in the order of their numbers; the settings by their keys."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        facts = ("best_epoch", "epochs", "seconds", "folder")
        writer.writerow(["trial", "state", self.space.metric, *facts, *self.space.varied])
        for row in self.rows:
            value = "" if math.isnan(row.value) else f"{row.value:.6f}"
            settings = [row.parameters.get(key, "") for key in self.space.varied]
            writer.writerow([row.number, row.state, value, *(row.fact(name) for name in facts), *settings])
        return text.getvalue()

    def tell(self, fit: list[str]) -> None:
        """Prints the tables, and how to train with the best settings; `fit` are the options of all trials."""
        import rich

        console = rich.get_console()

        def say(text: str) -> None:
            console.print(text, highlight=False, soft_wrap=True, markup=False)

        table = self._table()
        if not console.is_terminal:  # in a file there is no edge to fold at
            table.width = console.measure(table, options=console.options.update(width=10_000)).maximum
        console.print(table)
        states = [row.state for row in self.rows]
        say(", ".join(f"{states.count(state)} {state}" for state in STATES.values() if state in states))
        if self.importances:
            say("importance: " + ", ".join(f"{key} {part:.0%}" for key, part in self.importances.items()))
        else:
            say(f"importances are told from {ENOUGH} finished trials on, of different values")
        say(f"written: {relative(self.directory / 'study.csv')}, {relative(self.directory / 'study.png')}")
        if self.best is None:
            say("no trial was finished: there is no best one")
            return
        say(f"best: trial {self.best.number}, {self.space.metric} {self.best.value:.4f}")
        if self.best_run is None:
            say(f"it lies on another machine: {self.best.fact('folder')}")
        else:
            say(f"its checkpoint: {relative(self.best_run / 'checkpoints' / 'best.ckpt')} (best.ckpt links to it)")
            if report := report_of(self.best_run):
                say(f"its test: test/acc {report['test/acc']:.4f}")
            else:
                say("next: python main.py test --ckpt_path best.ckpt")
        chosen = {key: self.best.parameters[key] for key in self.space.varied}  # a class before its arguments
        flags = [as_flag(key, value) for key, value in {**self.space.fixed, **chosen}.items()]
        say("its settings:")
        say(f"  python main.py fit {shlex.join([*fit, *flags])}")

    def _table(self) -> "Table":
        from rich.table import Table

        others = sorted((row for row in self.rows if row.state != "finished"), key=lambda row: row.number)
        rows = [*self.finished, *others]
        title = self.directory.name + (f", the first {SHOWN} of {len(rows)} trials" if len(rows) > SHOWN else "")
        table = Table("trial", title=title)
        for name in (
            self.space.metric,
            "best epoch",
            "epochs",
            "seconds",
            *short_names(list(self.space.varied)).values(),
        ):
            table.add_column(name, justify="right", overflow="fold")
        for row in rows[:SHOWN]:
            told = row.state if math.isnan(row.value) else f"{row.value:.4f}"
            facts = [row.fact(name) for name in ("best_epoch", "epochs", "seconds")]
            settings = [_short(row.parameters.get(key, "")) for key in self.space.varied]
            style = None if row.state == "finished" else "dim"
            table.add_row(str(row.number), told, *facts, *settings, style=style)
        return table


def _row(trial: "FrozenTrial") -> Row:
    value = math.nan if trial.value is None else trial.value
    return Row(trial.number, STATES[trial.state.name], value, dict(trial.params), dict(trial.user_attrs))


def importances(study: "Study") -> dict[str, float]:
    """How much of the variance of the results each setting explains (fANOVA), largest first, summing to 1; empty where
    the results do not differ.

    Of Optuna's ways the one that needs fewest trials: its default looks at the best tenth, two of twenty.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    if len({trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}) < 2:
        return {}
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0)))


def short_names(keys: list[str]) -> dict[str, str]:
    """The shortest ends of dotted keys that tell them apart."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        others = [other for other in keys if other != key]
        names[key] = next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), key)
    return names


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
