"""The search for the best settings, by Optuna: it says what to try, children try it."""

import math
import os
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litengine.study import locks
from litengine.study.child import Child, seconds_of
from litengine.study.options import Options, options_in
from litengine.study.progress import Progress
from litengine.study.results import Result, read_epochs, read_result
from litengine.study.settings import differences, directory_of, record, recordable, resolve
from litengine.study.space import Space, as_flag, read_space
from litengine.study.storage import explained, open_storage, url_of
from litengine.study.workers import Workers
from litengine.training.run_directory import link, relative

if TYPE_CHECKING:
    from optuna import Study, Trial

    from litengine.study.outcome import Outcome

PATIENCE = 5  # trials that are finished before any is stopped early
FAILURES = 3  # in a row, after which something else is wrong than the settings
SURPLUS = "surplus"


class Search:
    """Trials of a search, kept in a storage where every machine that works on it finds them.

    A trial is a run `trial-<number>`. One that was left when a study was stopped or killed stays `running` in the
    storage; the next study in the same directory goes on with it.

    Args:
        options: of the command line.
        directory: of the study; its name is that of the study in the storage too.
        settings: those that all trials share.
        space: what is varied.
    """

    def __init__(self, options: Options, directory: Path, settings: dict[str, Any], space: Space) -> None:
        self.options = options
        self.directory = directory
        self.space = space
        self.seed = settings["seed_everything"]
        epochs = settings["trainer"]["max_epochs"] or 0
        self.url = url_of(options.storage, directory)
        self.storage, self.study = _open(self.url, directory, space, max(1, epochs // 4))
        self.progress = Progress(directory.name, options.trials or 0, epochs, space.metric)
        self.workers = Workers(options.workers)
        self.failures = 0
        self.last_failure = ""
        self._trials: dict[str, Trial] = {}  # at work here, by name of the run
        self._reported: dict[str, set[int]] = {}
        self._pruned: set[str] = set()
        self._owned: dict[str, int] = {}  # locks, likewise
        with explained(self.url):
            self._compare(recordable({"space": space.plain()}, settings))
            self._left = self._left_behind()

    def run(self) -> int | None:
        """Carries out what is left of the trials, and returns the signal that stopped it; None where all are done.

        Raises:
            ValueError: where trials fail one after the other, or the storage fails.
        """
        try:
            with explained(self.url), self.workers as workers, self.progress.shown():
                if there := len(self._counted()):
                    others = there - len(self._left)
                    self.progress.say(f"{others} of {self.options.trials} trials are done or taken already")
                for child in workers.run(self._next_child, self._watch):
                    self._ended(child)
        finally:
            for lock in self._owned.values():
                os.close(lock)
        if self.failures >= FAILURES:
            raise ValueError(f"{FAILURES} trials in a row failed, the last one: {self.last_failure}")
        return workers.stopped_by

    def outcome(self) -> "Outcome":
        from litengine.study.outcome import Outcome

        with explained(self.url):
            return Outcome(self.directory, self.space, self.study, self._counted())

    # Which trials there are

    def _compare(self, now: dict[str, Any]) -> None:
        """All machines must search the same."""
        if different := differences(self.study.user_attrs.get("recorded", now), now):
            raise ValueError(
                f"the storage holds a search {self.directory.name} with other settings: {different}; go on with those, "
                "or choose another --name"
            )
        self.study.set_user_attr("recorded", now)

    def _counted(self) -> list[Any]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if SURPLUS not in trial.user_attrs]

    def _left_behind(self) -> list[int]:
        """Trials that a study in this directory was at work on when it ended."""
        from optuna.trial import TrialState

        left = []
        for trial in self._counted():
            folder = self.directory / f"trial-{trial.number}"
            owner = folder / "owner"
            if trial.state == TrialState.RUNNING and owner.is_file() and (lock := locks.take(owner)) is not None:
                self._owned[folder.name] = lock
                left.append(trial.number)
        return left

    def _next_child(self) -> Child | None:
        if self.failures >= FAILURES:
            return None
        trial = self._trial_again(self._left.pop(0)) if self._left else self._new_trial()
        if trial is None:
            return None
        flags = [as_flag(key, value) for key, value in self.space.suggest(trial).items()]
        chosen_by = [f"--checkpoints.monitor={self.space.metric}", f"--checkpoints.mode={self.space.mode}"]
        child = Child(self.directory / f"trial-{trial.number}", [*self.options.fit, *flags, *chosen_by], test=False)
        self._trials[child.name] = trial
        return child

    def _new_trial(self) -> "Trial | None":
        """The next trial; None where there are as many as wanted, wherever they are."""
        wanted = self.options.trials or 0
        if len(self._counted()) >= wanted:
            return None
        trial = self.study.ask()
        if sum(other.number < trial.number for other in self._counted()) >= wanted:  # another machine was faster
            trial.set_user_attr(SURPLUS, True)
            self.study.tell(trial, state=_state("FAIL"))
            return None
        folder = self.directory / f"trial-{trial.number}"
        lock = None if folder.exists() else locks.take(folder / "owner")
        if lock is None:
            self.study.tell(trial, state=_state("FAIL"))
            raise ValueError(
                f"{relative(folder)} is there already, but the storage knows nothing of it: it belongs to another "
                "search; choose another --name"
            )
        self._owned[folder.name] = lock
        trial.set_user_attr("folder", f"{os.uname().nodename}:{folder}")
        self._reported[folder.name] = set()
        # a function of the number: the same after a restart, another one on every machine
        self.study.sampler = _sampler(self.space.method, zlib.crc32(f"{self.seed}/{trial.number}".encode()))
        return trial

    def _trial_again(self, number: int) -> "Trial":
        from optuna import Trial

        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        trial = Trial(self.study, self.storage.get_trial_id_from_study_id_trial_number(study_id, number))
        frozen = next(known for known in self._counted() if known.number == number)
        self._reported[f"trial-{number}"] = set(frozen.intermediate_values)
        return trial

    # What becomes of them

    def _watch(self, child: Child) -> None:
        """Tells Optuna about new epochs of a run, and stops it where there is no hope."""
        self.progress.watch(child)
        run_dir, trial, reported = child.run_dir, self._trials[child.name], self._reported[child.name]
        if run_dir is None or child.asked_to_stop:
            return
        for place, epoch in enumerate(read_epochs(run_dir)):
            if place in reported or self.space.metric not in epoch:
                continue
            trial.report(epoch[self.space.metric], place)
            reported.add(place)
            if trial.should_prune():
                self._pruned.add(child.name)
                child.stop()
                return

    def _ended(self, child: Child) -> None:
        trial = self._trials.pop(child.name)
        trial.set_user_attr("seconds", seconds_of(child.folder))
        if child.command() is None and child.run_dir:
            self._finished(trial, child, read_result(child.run_dir))
        elif child.name in self._pruned:
            epochs = len(self._reported[child.name])
            trial.set_user_attr("epochs", epochs)
            self.study.tell(trial, state=_state("PRUNED"))
            (child.folder / "stopped-early").touch()
            self.progress.say(f"{child.name}: stopped after {epochs} epochs, below the median of the others")
        elif not child.asked_to_stop:
            self._failed(trial, child, child.why())
        os.close(self._owned.pop(child.name))
        self.progress.ended(child, len(self._counted()) - len(self._trials))

    def _finished(self, trial: "Trial", child: Child, result: Result) -> None:
        metric = self.space.metric
        value = result.best.get(metric, math.nan)
        if not math.isfinite(value):
            self._failed(trial, child, f"it has no finite {metric} in any epoch: there are {', '.join(result.best)}")
            return
        for name, fact in {
            "run": result.run_dir.name,
            "best_epoch": result.best_epoch,
            "epochs": result.epochs,
        }.items():
            trial.set_user_attr(name, fact)
        self.study.tell(trial, value)
        self.failures = 0
        self.progress.say(f"{child.name}: {metric} {value:.4f}  (epoch {result.best_epoch} of {result.epochs})")

    def _failed(self, trial: "Trial", child: Child, why: str) -> None:
        self.study.tell(trial, state=_state("FAIL"))
        self.failures += 1
        self.last_failure = why
        self.progress.say(f"{child.name} failed, {why}")


def _open(url: str, directory: Path, space: Space, warm_up: int) -> tuple[Any, "Study"]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url)
    with explained(url):
        study = optuna.create_study(
            storage=storage,
            study_name=directory.name,
            direction="maximize" if space.mode == "max" else "minimize",
            # for the few trials of a search by hand; brackets as of Hyperband need many
            pruner=optuna.pruners.MedianPruner(n_startup_trials=PATIENCE, n_warmup_steps=warm_up),
            load_if_exists=True,
        )
    return storage, study


def _sampler(method: str, seed: int) -> Any:
    from optuna.samplers import RandomSampler, TPESampler

    return TPESampler(seed=seed) if method == "bayes" else RandomSampler(seed=seed)


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def search(options: Options) -> int | None:
    """Tries settings, and writes and shows what came of it.

    Returns:
        The signal that stopped it; None where all trials are done.

    Raises:
        ValueError: for settings that fit does not take, or that are not those of the search that was begun; for a
            storage that cannot be used; where trials fail one after the other.
    """
    if not find_spec("optuna"):
        raise ValueError("a search needs Optuna: pip install -e '.[study]'")
    assert options.space is not None
    space = read_space(options.space)
    if given := {*options_in(options.fit)} & {*space.example}:
        raise ValueError(f"--{given.pop()} is given, and varied by {options.space} too: leave it out in one place")
    settings = resolve([*options.fit, *(as_flag(key, value) for key, value in space.example.items())])
    directory = directory_of(options, settings, Path(options.space).stem)
    record(directory, {"space": space.plain()}, settings)
    found = Search(options, directory, settings, space)
    if (stopped_by := found.run()) is not None:
        return stopped_by
    outcome = found.outcome()
    if outcome.best_run:
        link(outcome.best_run / "checkpoints" / "best.ckpt", "best.ckpt")
        if options.test:
            stopped_by = _test(outcome.best_run, options)
    if stopped_by is None:
        outcome.write()
        outcome.tell(options.fit)
    return stopped_by


def _test(run_dir: Path, options: Options) -> int | None:
    waiting = [Child(run_dir.parent, options.fit, test=True)]
    with Workers(1) as workers:
        for child in workers.run(lambda: waiting.pop() if waiting else None, lambda _: None):
            if child.command() and not child.asked_to_stop:
                raise ValueError(f"the test of {child.name} failed, {child.why()}")
    return workers.stopped_by
