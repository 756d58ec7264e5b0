"""Weights & Biases as a guest: online when it can be, offline when it cannot, and never a reason for training to stop.

Lightning's own logger stops a fit without a key, waits 90 s for a dead network, and aborts it when W&B's service dies.
"""

import atexit
import logging
import operator
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from torch import nn

from litengine.loggers.wandb_server import probe

INIT_SECONDS = 20.0  # W&B's own default is 90
FINISH_SECONDS = 30.0  # W&B's own default is to wait for the upload for ever; what is left can be uploaded later

say = logging.getLogger(__name__).warning
_recording: "Wandb | None" = None  # W&B has one current run a process: the next logger closes the last one's


def _attempt(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def attempt(self: "Wandb", *args: Any, **kwargs: Any) -> None:
        if not self.lost:
            with self.guard(method.__name__):
                method(self, *args, **kwargs)

    return attempt


class Wandb(WandbLogger):
    """Records a run with Weights & Biases, in `save_dir`/wandb and, where possible, online at once.

    Nothing W&B does raises from here: the first failure is told in one line, later calls do nothing. A run stays open
    after a fit that succeeds, so that a test after it lands in the same run; it ends with the process, or with `close`.

    Args:
        project: W&B project.
        name: display name of the run; W&B invents one where it is missing.
        save_dir: folder that gets the subfolder `wandb`.
        tags: labels for the run.
        group: name that several runs share (the seeds of one study).
        id: identity of the run, 8 random characters where missing (see `version`). The same id continues the run.
        mode: `auto` is online if there is a key that a reachable server accepts, else offline; $WANDB_MODE goes first.
            `online` does not ask the server beforehand (for slow lines), but falls back to offline too.
        entity: W&B user or team.
    """

    def __init__(
        self,
        project: str = "litcnn",
        name: str | None = None,
        save_dir: str = ".",
        tags: list[str] | None = None,
        group: str | None = None,
        id: str | None = None,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        entity: str | None = None,
    ) -> None:
        # A sweep's agent chose the run's id already and hands it over in the environment.
        id = id or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
        super().__init__(name=name, save_dir=save_dir, version=id, project=project)
        who = {"project": project, "name": name, "tags": tags, "group": group, "entity": entity}
        self._arguments: dict[str, Any] = {**who, "dir": save_dir, "id": id, "resume": "allow"}
        self._mode = mode
        self._run: Any = None
        self.lost = False
        self._status = ""
        self._said: set[str] = set()
        self._exits_at = float("inf")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `wandb.Run`, opened at the first use, behind a guard: its methods return None where W&B fails."""
        if self._run is None and not self.lost:
            with self.guard("opening the run", fatal=True):
                self._open()
        return _Guarded(self, self._run)

    @property
    def status(self) -> str:
        """How and where the run is recorded, in one line; opens the run if need be."""
        if not self._status:
            _ = self.experiment
        return self._status or "recorded by the first process"

    @property
    def status_in_short(self) -> str:
        """`status` without the command that uploads the run."""
        return self.status.partition(": upload")[0]

    def log_config(self, config: dict[str, Any]) -> None:
        """Records a nested dict of plain values as the run's config; keys that are there already are replaced."""
        self.log_hyperparams(config)

    def watch(
        self, model: nn.Module, log: str | None = "gradients", log_freq: int = 100, log_graph: bool = True
    ) -> None:
        """Histograms of gradients and/or parameters every `log_freq` batches, as in `wandb.Run.watch`."""
        # W&B's hooks write from inside backward, where no guard of ours can stand. An empty record before each
        # forward notices a dead service first, and then takes the hooks away.
        model.register_forward_pre_hook(lambda *_: self.experiment.log({}, commit=False))
        self.experiment.watch(model, log=log, log_freq=log_freq, log_graph=log_graph)

    # These write files before they reach the guarded run.
    log_table = _attempt(WandbLogger.log_table)
    log_image = _attempt(WandbLogger.log_image)
    log_audio = _attempt(WandbLogger.log_audio)
    log_video = _attempt(WandbLogger.log_video)

    def finalize(self, status: str) -> None:
        """Called by Lightning after each fit, test, …: anything but "success" ends the run as failed (exit code 1)."""
        if status != "success":
            self.close(exit_code=1)

    def close(self, exit_code: int = 0) -> None:
        """Ends the run, waiting for at most 30 s for what is still to be uploaded. Logging again continues it.

        Args:
            exit_code: 0 marks it finished, others failed.
        """
        if not self._is_open():
            return
        run = self._run
        with self.guard("ending the run", fatal=True):
            run.unwatch()
            run.finish(exit_code=exit_code)
            self._run = None

    @contextmanager
    def guard(self, doing: str, fatal: bool = False) -> Iterator[None]:
        """Turns what W&B raises into one line on the screen: a wrong argument costs its call, other trouble the run."""
        try:
            yield
        except Exception as error:
            import wandb

            what = f"{doing}: {_in_one_line(error)}"
            if not (fatal or isinstance(error, OSError | wandb.Error)):
                if doing not in self._said:
                    say(f"W&B did not record one thing, and goes on ({what})")
                self._said.add(doing)
            elif not self.lost:
                self.lost = True
                self._abandon()
                self._status = f"stopped ({what}); CSV metrics continue" + _upload(self._run, "what there is")
                say(f"W&B {self._status}")

    def _abandon(self) -> None:
        """Takes back what would raise later: W&B's hooks in the model, on sys.stdout and at exit."""
        import wandb

        for release in (lambda: self._run.unwatch(), lambda: self._run.finish(exit_code=1), wandb.teardown):
            with suppress(Exception):
                release()

    def _is_open(self) -> bool:
        if self._run is None or self.lost:
            return False
        import wandb

        return wandb.run is not None  # else the user ended it himself

    def _before_exit(self) -> None:
        # W&B's own hook ends the run, for it alone knows the exit code of the process; it raises if the service died.
        self._exits_at = time.monotonic()
        if self._is_open():
            self.experiment.log({}, commit=False)

    def _after_exit(self) -> None:
        if self._run is not None and time.monotonic() - self._exits_at >= FINISH_SECONDS:
            say(f"W&B did not get everything within {FINISH_SECONDS:g} s" + _upload(self._run, "the rest"))

    def _open(self) -> None:
        global _recording
        import wandb

        if _recording is not None:
            _recording.close()
        lost = None if _recording is None else _recording._run  # W&B cannot let go of a run whose service died
        if wandb.run is not None and wandb.run is not lost:  # the user's own, as in a function that wandb.agent calls
            self._run, self._status = wandb.run, "records into the run that is open already"
            return
        Path(self._arguments["dir"], "wandb").mkdir(parents=True, exist_ok=True)
        atexit.register(self._after_exit)
        # What asyncio says, many times, of a service that died; `guard` says it once.
        logging.getLogger("asyncio").addFilter(_not_about_sockets)
        mode: Any
        mode, reason = self._decide()
        settings = wandb.Settings(
            silent=True,  # `status` says in one line what W&B says in nine
            save_code=False,
            disable_code=True,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        )
        try:
            run = wandb.init(**self._arguments, mode=mode, settings=settings)
        except Exception as error:
            if mode != "online":
                raise
            mode, reason = "offline", f"W&B did not start: {_in_one_line(error)}"
            wandb.teardown()  # its service still holds the run's id
            run = wandb.init(**self._arguments, mode=mode, settings=settings)
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self._run, _recording = run, self
        self._status = f"online: {run.url}" if mode == "online" else f"{mode} ({reason})"
        if mode == "offline":
            self._status += _upload(run, "later")
        atexit.register(self._before_exit)  # the newest hook runs first

    def _decide(self) -> tuple[Any, str]:
        """The mode to start in and the reason for not being online."""
        import wandb

        if self._mode in ("offline", "disabled"):
            return self._mode, "as asked"
        settings = wandb.setup(wandb.Settings(silent=True)).settings
        if self._mode == "auto" and settings.mode not in ("online", "shared"):
            return ("disabled" if settings.mode == "disabled" else "offline"), f"W&B mode is set to {settings.mode}"
        try:
            if not wandb.login(prompt=False, verify=False):
                return "offline", "no API key"
        except wandb.Error as error:
            return "offline", _in_one_line(error)
        settings = wandb.setup().settings
        if self._mode == "online" or not settings.api_key:  # without a key the login is by identity token
            return "online", ""
        trouble = probe(settings.base_url, settings.api_key)
        return ("offline", trouble) if trouble else ("online", "")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_run": None}  # for processes that are spawned: the first of them opens its own


class _Guarded:
    """Stands before a W&B object; whatever it does happens under the logger's guard, or not at all once W&B is lost."""

    def __init__(self, logger: Wandb, target: Any) -> None:
        self.__dict__["_logger"], self.__dict__["_target"] = logger, target

    def __getattr__(self, name: str) -> Any:
        if self._target is None:
            return _Guarded(self._logger, None)
        value = getattr(self._target, name)
        guarded = callable(value) or type(value).__module__.startswith("wandb.")
        return _Guarded(self._logger, value) if guarded else value

    def __setattr__(self, name: str, value: Any) -> None:
        _Guarded(self._logger, setattr)(self._target, name, value)

    def __setitem__(self, key: str, value: Any) -> None:
        _Guarded(self._logger, operator.setitem)(self._target, key, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._target is not None and not self._logger.lost:
            with self._logger.guard(getattr(self._target, "__name__", "W&B")):
                return self._target(*args, **kwargs)
        return None


def _upload(run: Any, when: str) -> str:
    if run is None:
        return ""
    folder = Path(run.dir).parent  # run.dir is <folder>/files
    here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f": upload {when} with `wandb sync {here}`"


def _in_one_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[:3])  # what is wrong with a setting stands in the third


def _not_about_sockets(record: logging.LogRecord) -> bool:
    return record.getMessage() != "socket.send() raised exception."
