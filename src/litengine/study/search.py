"""The search for the best settings: Optuna chooses them, and every trial is a child process.

Optuna's own heartbeat and retry are not used: they exist in databases only, and begin a stale trial again under another
number. Here a trial that was stopped or killed keeps its number and directory, and is resumed to the same bits.
"""

import math
import warnings
import zlib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DatabaseError

from litengine.files import link, relative
from litengine.study.child import Child, take_lock
from litengine.study.options import check_same, directory_of, option_names, resolve
from litengine.study.repeat import train
from litengine.study.results import print_text, read_epochs, read_result
from litengine.study.search_report import best_first, report, run_of
from litengine.study.space import Space, read_space
from litengine.study.workers import run_all

STARTUP_TRIALS = 5  # finished before any trial is stopped early
FAILURES = 3  # in a row end the search: the settings are not the cause then
TIMEOUT = 30.0  # seconds to wait for a locked database


def search(options: Namespace) -> int | None:
    """Runs the trials that are left, and writes and prints the results of all. Returns the signal that stopped it.

    Raises:
        ValueError: if fit refuses the settings, the search that was begun has other settings, another process works on
            it, its database cannot be used, or trials fail one after the other.
    """
    space = read_space(options.space)
    if given := {*option_names(options.fit)} & {*space.varied, *space.fixed}:
        raise ValueError(f"--{given.pop()} is given, and set by {options.space} too: leave it out in one place")
    if options.trials is None and space.method != "grid":
        raise ValueError("a search needs the number of its runs: --trials 20")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    example = optuna.create_study(sampler=RandomSampler(0)).ask(space.varied)
    settings = resolve([*options.fit, *space.options(example.params)])
    directory = directory_of(options, settings, Path(options.space).stem)
    if (lock := take_lock(directory / "lock")) is None:
        raise ValueError(f"{relative(directory)} is in use by another study: end it, and give one study more --workers")
    try:
        with lock:
            found = Search(space, directory, options, settings)
            stopped_by = found.run(options.workers)
            trials = found.study.get_trials()
            finished = best_first(trials, space)
            if stopped_by is None and finished:
                best = run_of(directory, finished[0])
                link(best / "checkpoints" / "best.ckpt", "best.ckpt")
                if options.test:
                    stopped_by = train([Child(best.parent, options.fit, test=True)], 1, [space.metric, "test/acc"])
            if stopped_by is None:
                report(directory, space, found.study, trials, options.fit)
    except (DatabaseError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"the trials in {relative(directory)}/optuna.db cannot be used: {reason}") from error
    return stopped_by


class TrialRun(Child):
    """The run of a trial, which reports each epoch to Optuna and stops if the pruner says so. `reported` are the epochs
    that Optuna knows, from 0."""

    def __init__(self, folder: Path, fit: list[str], metric: str, trial: Trial, reported: set[int]) -> None:
        super().__init__(folder, fit)
        self.metric = metric
        self.trial = trial
        self.reported = reported
        self.pruned = False

    def poll(self) -> int | None:
        code = super().poll()
        for index, epoch in enumerate(read_epochs(self.run_dir)):
            if not self.asked_to_stop and index not in self.reported and self.metric in epoch:
                self.trial.report(epoch[self.metric], index)
                self.reported.add(index)
                if self.trial.should_prune():
                    self.pruned = True
                    self.stop()
        return code


class Search:
    """Trials of a search, kept in a database. A trial that was stopped or killed stays `running` there, until the next
    study in the same directory resumes it."""

    def __init__(self, space: Space, directory: Path, options: Namespace, settings: dict[str, Any]) -> None:
        self.space = space
        self.directory = directory  # its name is the study's name in the database
        self.fit = [*options.fit, f"--checkpoints.monitor={space.metric}", f"--checkpoints.mode={space.mode}"]
        self.seed = settings["seed_everything"]
        self.grid = space.grid() if space.method == "grid" else []
        self.wanted = min(number for number in (options.trials, len(self.grid)) if number)
        self.failures = 0  # in a row
        url = f"sqlite:///{directory / 'optuna.db'}"
        self.storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": TIMEOUT}})
        epochs = settings["trainer"]["max_epochs"] or 0
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=directory.name,
            direction="maximize" if space.mode == "max" else "minimize",
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=max(1, epochs // 4)),
            load_if_exists=True,
        )
        now = {"space": space.record(), "settings": settings}
        check_same(self.study.user_attrs.get("recorded", now), now, relative(directory))
        self.study.set_user_attr("recorded", now)

    def run(self, workers: int) -> int | None:
        """Runs all trials that are left, and returns the signal that stopped the search; None if all are done."""
        known = self.study.get_trials()
        if done := sum(trial.state.is_finished() for trial in known):
            print_text(f"{done} of {self.wanted} trials are done already")
        return run_all(self._runs(known), workers, self._ended)

    def _runs(self, known: list[FrozenTrial]) -> Iterator[TrialRun]:
        """The trials that an earlier study had not finished when it ended; then new ones, as many as wanted."""
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        for earlier in known:
            if earlier.state == TrialState.RUNNING:
                trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, earlier.number)
                yield self._run_of(Trial(self.study, trial_id), {*earlier.intermediate_values})
        while len(self.study.get_trials(deepcopy=False)) < self.wanted:
            trial = self.study.ask()
            if (folder := self._folder(trial)).exists():
                self.study.tell(trial, state=TrialState.FAIL)
                raise ValueError(f"{relative(folder)} is not a trial of this search: choose another --name")
            yield self._run_of(trial, set())

    def _run_of(self, trial: Trial, reported: set[int]) -> TrialRun:
        """The run of a trial. The sampler is seeded by its number: it is the same after a restart."""
        seed = zlib.crc32(f"{self.seed}/{trial.number}".encode())
        self.study.sampler = TPESampler(seed=seed) if self.space.method == "bayes" else RandomSampler(seed)
        if self.grid:
            self.study.sampler = PartialFixedSampler(self.grid[trial.number], RandomSampler(seed))
        fit = [*self.fit, *self.space.options(self.space.suggest(trial))]
        return TrialRun(self._folder(trial), fit, self.space.metric, trial, reported)

    def _folder(self, trial: Trial) -> Path:
        return self.directory / f"trial-{trial.number}"

    def _ended(self, run: TrialRun) -> bool:
        """Tells Optuna how a run ended, unless a signal stopped it."""
        metric, why = self.space.metric, ""  # it failed
        if run.command() is None:
            result = read_result(run.run_dir)
            value = result.metrics.get(metric, math.nan)
            if math.isfinite(value):
                run.trial.set_user_attr("run", result.run_dir.name)
                run.trial.set_user_attr("best_epoch", result.best_epoch)
                run.trial.set_user_attr("epochs", result.epochs)
                self.study.tell(run.trial, value)
                self.failures = 0
                result.print(run.name, [metric])
            else:
                why = f"no epoch has a finite {metric}: there are {', '.join(result.metrics)}"
        elif run.pruned:
            run.trial.set_user_attr("epochs", len(run.reported))
            self.study.tell(run.trial, state=TrialState.PRUNED)
            print_text(f"{run.name}: stopped after {len(run.reported)} epochs, below the median of the others")
        elif not run.asked_to_stop:
            why = run.why()
        if why:
            self.study.tell(run.trial, state=TrialState.FAIL)
            self.failures += 1
            if self.failures == FAILURES:
                raise ValueError(f"{FAILURES} trials in a row failed, the last one: {why}")
            print_text(f"{run.name} failed: {why}")
        return True
