"""The search for the best settings: Optuna chooses them, and every trial is a child process."""

import itertools
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from litengine.files import link, relative
from litengine.study import locks
from litengine.study.child import Child
from litengine.study.options import Options, option_names
from litengine.study.repeat import train
from litengine.study.results import Result, read_epochs, read_result
from litengine.study.search_report import best_run, report
from litengine.study.settings import check_same, directory_of, recordable, resolve
from litengine.study.space import Space, as_flag, read_space
from litengine.study.storage import explained, open_storage
from litengine.study.tables import print_text
from litengine.study.workers import Workers

STARTUP_TRIALS = 5  # finished before any trial is stopped early
FAILURES = 3  # in a row end the search: the settings are not the cause then
SURPLUS = "surplus"  # marks a trial beyond --trials, made when two machines asked at the same moment


def search(options: Options) -> int | None:
    """Runs the trials that are left, and writes and prints the results of all.

    Returns:
        The signal that stopped the study; None if all trials are done.

    Raises:
        ValueError: if fit refuses the settings, the search that was begun has other settings, the storage cannot be
            used, or trials fail one after the other.
    """
    assert options.space is not None
    space = read_space(options.space)
    if given := {*option_names(options.fit)} & {*space.varied, *space.fixed}:
        raise ValueError(f"--{given.pop()} is given, and set by {options.space} too: leave it out in one place")
    if options.trials is None and space.method != "grid":
        raise ValueError("a search needs the number of its runs: --trials 20")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    example = space.suggest(optuna.create_study(sampler=RandomSampler(0)).ask())
    settings = resolve([*options.fit, *(as_flag(key, value) for key, value in example.items())])
    directory = directory_of(options, settings, Path(options.space).stem)
    directory.mkdir(parents=True, exist_ok=True)
    url = options.storage or f"sqlite:///{directory / 'optuna.db'}"
    with explained(url):
        found = Search(options, directory, settings, space, url)
        stopped_by = found.run()
        trials = found.counted()
        if stopped_by is None and (best := best_run(directory, trials, space)):
            link(best / "checkpoints" / "best.ckpt", "best.ckpt")
            if options.test:
                stopped_by = train([Child(best.parent, options.fit, test=True)], 1, [space.metric, "test/acc"])
        if stopped_by is None:
            report(directory, space, found.study, trials, options.fit)
    return stopped_by


class TrialRun(Child):
    """The run of a trial. `owner` is a lock of the study process that works on it; `reported` are the epochs, counted
    from 0, that Optuna knows."""

    def __init__(self, folder: Path, fit: list[str], trial: Trial, owner: int, reported: set[int]) -> None:
        super().__init__(folder, fit, test=False)
        self.trial = trial
        self.owner = owner
        self.reported = reported
        self.pruned = False


class Search:
    """Trials of a search, kept in a storage that several machines may share.

    A trial of a study that was stopped or killed stays `running` in the storage; the next study in the same directory
    resumes it.
    """

    def __init__(self, options: Options, directory: Path, settings: dict[str, Any], space: Space, url: str) -> None:
        self.options = options
        self.directory = directory  # its name is the study's name in the storage
        self.space = space
        self.seed = settings["seed_everything"]
        self.grid = space.grid() if space.method == "grid" else []
        self.wanted = min(number for number in (options.trials, len(self.grid)) if number)
        self.storage = open_storage(url)
        epochs = settings["trainer"]["max_epochs"] or 0
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=directory.name,
            direction="maximize" if space.mode == "max" else "minimize",
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=max(1, epochs // 4)),
            load_if_exists=True,
        )
        now = recordable({"space": space.record()}, settings)
        check_same(self.study.user_attrs.get("recorded", now), now, f"the storage of {directory.name}")
        self.study.set_user_attr("recorded", now)
        self.failures = 0  # in a row

    def run(self) -> int | None:
        """Runs all trials that are left, and returns the signal that stopped the search; None if all are done."""
        if done := sum(trial.state.is_finished() for trial in self.counted()):
            print_text(f"{done} of {self.wanted} trials are done already")
        with Workers[TrialRun](self.options.workers) as workers:
            for run in workers.run(itertools.chain(self._left_behind(), self._new_runs()), self._watch):
                self._ended(run)
                os.close(run.owner)
        return workers.stopped_by

    def counted(self) -> list[FrozenTrial]:
        """The trials of all machines."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if SURPLUS not in trial.user_attrs]

    def _left_behind(self) -> Iterator[TrialRun]:
        """Trials that a study in this directory had not finished when it ended."""
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        for known in self.counted():
            owner = self._folder(known) / "owner"
            if known.state == TrialState.RUNNING and owner.is_file() and (lock := locks.take(owner)) is not None:
                trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, known.number)
                yield self._run_of(Trial(self.study, trial_id), lock, {*known.intermediate_values})

    def _new_runs(self) -> Iterator[TrialRun]:
        """New trials, until there are as many as wanted on all machines."""
        while len(self.counted()) < self.wanted:
            trial = self.study.ask()
            index = sum(other.number < trial.number for other in self.counted())
            if index >= self.wanted:  # another machine was faster
                trial.set_user_attr(SURPLUS, True)
                self.study.tell(trial, state=TrialState.FAIL)
                return
            folder = self._folder(trial)
            lock = None if folder.exists() else locks.take(folder / "owner")
            if lock is None:
                self.study.tell(trial, state=TrialState.FAIL)
                raise ValueError(f"{relative(folder)} is not of a search in this storage: choose another --name")
            trial.set_user_attr("folder", f"{os.uname().nodename}:{folder}")
            self.study.sampler = self._sampler(trial.number, index)
            yield self._run_of(trial, lock, set())

    def _sampler(self, number: int, index: int) -> BaseSampler:
        """A sampler seeded by the number of the trial: the same after a restart, another one on every machine."""
        seed = zlib.crc32(f"{self.seed}/{number}".encode())
        if self.grid:
            return PartialFixedSampler(self.grid[index], RandomSampler(seed))
        return TPESampler(seed=seed) if self.space.method == "bayes" else RandomSampler(seed)

    def _run_of(self, trial: Trial, owner: int, reported: set[int]) -> TrialRun:
        flags = [as_flag(key, value) for key, value in self.space.suggest(trial).items()]
        monitor = [f"--checkpoints.monitor={self.space.metric}", f"--checkpoints.mode={self.space.mode}"]
        return TrialRun(self._folder(trial), [*self.options.fit, *flags, *monitor], trial, owner, reported)

    def _folder(self, trial: Trial | FrozenTrial) -> Path:
        return self.directory / f"trial-{trial.number}"

    def _watch(self, run: TrialRun) -> None:
        """Reports new epochs of a run to Optuna, and stops the run if the pruner says so."""
        if run.run_dir is None or run.asked_to_stop:
            return
        for index, epoch in enumerate(read_epochs(run.run_dir)):
            if index not in run.reported and self.space.metric in epoch:
                run.trial.report(epoch[self.space.metric], index)
                run.reported.add(index)
                if run.trial.should_prune():
                    run.pruned = True
                    run.stop()
                    return

    def _ended(self, run: TrialRun) -> None:
        run.trial.set_user_attr("seconds", run.seconds())
        if run.command() is None and run.run_dir:
            self._finished(run, read_result(run.run_dir))
        elif run.pruned:
            run.trial.set_user_attr("epochs", len(run.reported))
            self.study.tell(run.trial, state=TrialState.PRUNED)
            print_text(f"{run.name}: stopped after {len(run.reported)} epochs, below the median of the others")
        elif not run.asked_to_stop:
            self._failed(run, run.why())

    def _finished(self, run: TrialRun, result: Result) -> None:
        value = result.metrics.get(self.space.metric, math.nan)
        if not math.isfinite(value):
            self._failed(run, f"no epoch has a finite {self.space.metric}: there are {', '.join(result.metrics)}")
            return
        run.trial.set_user_attr("run", result.run_dir.name)
        run.trial.set_user_attr("best_epoch", result.best_epoch)
        run.trial.set_user_attr("epochs", result.epochs)
        self.study.tell(run.trial, value)
        self.failures = 0
        print_text(f"{run.name}: {self.space.metric} {value:.4f}  (epoch {result.best_epoch} of {result.epochs})")

    def _failed(self, run: TrialRun, why: str) -> None:
        self.study.tell(run.trial, state=TrialState.FAIL)
        self.failures += 1
        if self.failures == FAILURES:
            raise ValueError(f"{FAILURES} trials in a row failed, the last one: {why}")
        print_text(f"{run.name} failed: {why}")
