"""Weights & Biases: online when possible, offline otherwise, and never a reason for training to stop.

Lightning's own logger stops a fit without a key, waits 90 s for a dead network, and aborts it when W&B's service dies.
"""

import atexit
import json
import logging
import math
import os
import re
import signal
import sys
import traceback
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from glob import escape
from pathlib import Path
from typing import Any, Literal, TypeVar

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from litengine.files import relative
from litengine.loggers.csv import before, read_rows

INIT_SECONDS = 20.0  # W&B's own default is 90
FINISH_SECONDS = 30.0  # by default W&B waits for the upload without a limit
STEP = "trainer/global_step"
Method = TypeVar("Method", bound=Callable[..., None])

log = logging.getLogger(__name__)
# asyncio says it many times when W&B's service has died; `_guard` says it once.
logging.getLogger("asyncio").addFilter(lambda record: record.getMessage() != "socket.send() raised exception.")
_recording: "Wandb | None" = None  # a process has one current W&B run: the next logger closes the last one's


def _guarded(method: Method) -> Method:
    """The method for the first process only, with what W&B raises caught by `Wandb._guard`."""

    @wraps(method)
    def guarded(logger: "Wandb", *args: Any, **kwargs: Any) -> None:
        with logger._guard(method.__name__):
            method(logger, *args, **kwargs)

    return rank_zero_only(guarded)  # type: ignore[return-value]


class Wandb(WandbLogger):
    """Records a run with Weights & Biases, in a local folder and, where possible, online at once.

    W&B's failures do not reach the training: the first one is logged in one line and later calls do nothing. If the
    server refuses data in mid-run, the rest goes to a new offline folder. W&B's `_step` is the step of training, so
    that a resumed run can replace its history. The run stays open after a fit for a test; it ends with the process.

    Args:
        project: W&B project; default $WANDB_PROJECT, else the part of `name` before a slash, else "litengine".
        name: display name of the run; default $WANDB_NAME, else W&B invents one.
        save_dir: run directory, with the metrics.csv from which a resumed run is completed.
        tags: labels for the run.
        group: name that several runs share (the seeds of one study).
        id: identity of the run, 8 random characters by default (see `version`). The same id continues the run.
        mode: `auto` is online if there is a key that a reachable server accepts, else offline; $WANDB_MODE goes first.
            `online` does not ask the server beforehand (for slow lines), but falls back to offline too.
        entity: W&B user or team.
        notes: description of the run.
        job_type: kind of the run, such as `train`.
        watch: record histograms of gradients and/or parameters every 100 batches.
        log_model: upload the best checkpoint as a model artifact (`true` or `best`), or each one when written (`all`).
        dir: folder that gets W&B's own folder `wandb`; default $WANDB_DIR, else `save_dir`.
    """

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        save_dir: str = ".",
        tags: list[str] | None = None,
        group: str | None = None,
        id: str | None = None,
        mode: Literal["auto", "online", "offline", "disabled"] = "auto",
        entity: str | None = None,
        notes: str | None = None,
        job_type: str | None = None,
        watch: Literal["gradients", "parameters", "all"] | None = None,
        log_model: bool | Literal["best", "all"] = False,
        dir: str | None = None,
    ) -> None:
        id = id or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]  # a sweep's agent chooses the id
        name = name or os.environ.get("WANDB_NAME")
        project = project or os.environ.get("WANDB_PROJECT") or (name or "").partition("/")[0] or "litengine"
        super().__init__(name=name, save_dir=save_dir, version=id, project=project)
        folder = dir or os.environ.get("WANDB_DIR") or save_dir
        who = {"project": project, "name": name, "tags": tags, "group": group, "entity": entity, "notes": notes}
        self._arguments: dict[str, Any] = {**who, "job_type": job_type, "dir": folder, "id": id}
        self._mode, self._watch, self._upload_model = mode, watch, "best" if log_model is True else log_model
        self._run: Any = None
        self.lost = False
        self._status = ""
        self._failed_calls: set[str] = set()
        self._config: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}  # last step and best value of the fit
        self._monitor, self._best_is = "", "max"
        self._evaluated_step: int | None = None
        self._row: tuple[int | None, bool] = None, False  # the open row: its step of training, whether of a test
        self._step = -1  # and its `_step`
        self._known = range(0)  # steps whose rows the server has already
        self._unsent: dict[int, dict[str, Any]] = {}  # rows that the server has not acknowledged, by `_step`
        self._service_log: Path | None = None
        self._log_read = self._in_flight = 0  # bytes of that log; rows that are being sent

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `wandb.Run`, opened at the first use; a disabled one, which does nothing, once W&B has failed."""
        with self._guard("opening the run", fatal=True):
            if self._run is None:
                self._open()
            self._run.config.update({})  # raises if W&B's service is dead
        return self._run

    @property
    def status(self) -> str:
        """How and where the run is recorded, in one line; opens the run if need be."""
        _ = self._status or self.experiment
        return self._status or "recorded by the first process"

    log_image = _guarded(WandbLogger.log_image)
    log_table = _guarded(WandbLogger.log_table)

    @_guarded
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Records nested settings as the run's config, without absolute paths of this machine."""
        self._config.update(_without_absolute_paths(vars(params) if isinstance(params, Namespace) else params))
        super().log_hyperparams(self._config)

    @_guarded
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        run = self._run or self.experiment
        if reason := self._refusal():
            run = self._go_offline(reason)
        if self._evaluated_step is not None:
            row = {name: value for name, value in metrics.items() if name != "epoch"}
            self._log(row, self._evaluated_step, evaluated=True)
            return
        self._log(dict(metrics), step)
        self._summarize(metrics, step)
        if self._monitor in metrics:
            run.summary.update(self._summary)

    @_guarded
    def log_checkpoint(self, path: Path, best: bool, fit_ended: bool = False) -> None:
        """Uploads a checkpoint that was just written, or the best one at the end of a fit, if `log_model` says so."""
        if self._upload_model == ("best" if fit_ended else "all"):
            import wandb

            artifact = wandb.Artifact(f"model-{self.version}", type="model", metadata=self._summary)
            artifact.add_file(str(path), name="model.ckpt")
            self.experiment.log_artifact(artifact, aliases=["latest", "best"] if best else ["latest"])

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Called by Lightning before a fit or test: starts the histograms that `watch` asks for."""
        if self._watch and model.trainer.state.fn == "fit":
            self.watch(model, log=self._watch, log_graph=False)

    @_guarded
    def watch(self, model: nn.Module, log: Any = "gradients", log_freq: int = 100, log_graph: bool = True) -> None:
        # W&B's hooks write from inside backward, outside any guard. `experiment` notices a dead service before each
        # forward and then removes the hooks.
        model.register_forward_pre_hook(lambda *_: self.experiment and None)
        self.experiment.watch(model, log=log, log_freq=log_freq, log_graph=log_graph)

    @_guarded
    def summarize(self, metric: str, mode: Literal["max", "min"]) -> None:
        """Makes the summary of `metric` its best value, as `wandb.Run.define_metric(metric, summary=mode)`.

        W&B's own aggregation starts anew when a run is resumed, so the value is computed here.
        """
        self._monitor, self._best_is = metric, mode
        self.experiment.define_metric(metric, summary="none")

    @_guarded
    def evaluate_at(self, step: int | None) -> None:
        """From now on metrics come from an evaluation of the weights of `step`; None: from training.

        They are logged at that step without an epoch, and do not change what the summary says of the fit.
        """
        self._evaluated_step = step
        if step is not None:
            run = self._run or self.experiment
            for name in [name for name in dict(run.summary) if name.startswith("val/")]:
                run.define_metric(name, summary="none")

    @rank_zero_only
    def forget_from(self, step: int) -> None:
        """Makes the history of a resumed run equal to the rows of metrics.csv before `step`.

        Removes later rows from the server, or does not send them again if it cannot rewind runs; sends rows that a
        killed process did not upload. Must be called before CSVMetrics removes its rows.
        """
        with self._guard("resuming the run", fatal=True):
            run = self._run or self.experiment
            if run.disabled:
                return
            _, rows, _ = read_rows(Path(self.save_dir or ".", "metrics.csv"))
            kept = [(int(row.pop("step")), {k: float(v) for k, v in row.items() if v}) for row in before(step, rows)]
            last = max([place for place, row in kept if "epoch" in row], default=step)
            folder = Path(run.dir).parent
            earlier = [path for path in folder.parent.glob(f"*run-*-{escape(run.id)}*") if path != folder]
            sent = any(path.name.startswith("run-") or any(path.glob("*.synced")) for path in earlier)
            after = None
            if sent if run.offline else run.starting_step and any("epoch" not in row for _, row in kept):
                after = -1  # all is sent again: how much arrived is not known, or rows of evaluations took up steps
            elif run.starting_step > last + (last < step - 1):  # else more metrics may come for the last row
                after = last - 1
            self._summary = {}
            for place, row in kept:
                if "epoch" in row:
                    self._summarize(row, place)
            if after is not None:
                run.finish()
                run = self._open(after)
                self._known = range(step, run.starting_step if len(kept) < len(rows) else 0)
            for place, row in kept:
                if place >= run.starting_step:
                    self._log(row, place, evaluated="epoch" not in row)
            for file in [file for path in earlier for file in path.glob("*.wandb")]:
                Path(f"{file}.synced").touch()  # the new folder has these rows: `wandb sync` skips the old ones

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Called by Lightning after each fit, test, …: anything but "success" ends the run, with the reason in its log.

        The exit code is that of the process: 0 after the early stopping of a sweep; 128 + signal after other signals,
        which W&B shows as preempted; but 255, W&B's own code for it, after Ctrl-C; 1 after an error.
        """
        if status == "success" or self._run is None:
            return
        error = sys.exc_info()[1]
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        if code == 128 + signal.SIGINT or isinstance(error, KeyboardInterrupt):
            code = 255
        with self._guard("finalize"):
            self._run.write_logs("".join(traceback.format_exception(error)))
            if 128 < code < 255:
                self._run.mark_preempting()
        self.close(code)

    def close(self, exit_code: int | None = 0) -> None:
        """Ends the run, waiting for at most 30 s for what is still to be uploaded. Logging again continues it.

        Args:
            exit_code: 0 marks it finished, others failed; None: 1 after an uncaught exception, else 0.
        """
        if self._run is None or self.lost:
            return
        import wandb

        with self._guard("ending the run", fatal=True):
            if wandb.run is not None:  # else the user has ended it
                code = int(hasattr(sys, "last_value")) if exit_code is None else exit_code
                self._run.unwatch()
                self._run.summary.update(self._summary)
                if reason := self._finish(code):
                    self._go_offline(reason)
                    self._finish(code)
            self._run = None

    def _finish(self, exit_code: int) -> str:
        """Ends W&B's run; returns why something could not be uploaded, or an empty string."""
        try:
            self._run.finish(exit_code=exit_code)
        except TimeoutError:
            return f"not everything was uploaded within {FINISH_SECONDS:g} s"
        return self._refusal()

    def _log(self, row: dict[str, Any], step: int | None, evaluated: bool = False) -> None:
        """Logs at the step of training, or at the next one if W&B, which takes them in ascending order, is past it."""
        if step in self._known and not evaluated:
            return
        if self._row != (step, evaluated) or step is None:
            self._row = step, evaluated
            self._step = self._step + 1 if evaluated or step is None else max(self._step + 1, step)
        if step is not None:
            row[STEP] = step
        self._run.log(row, step=self._step)
        if self._service_log is not None:
            numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
            self._unsent.setdefault(self._step, {}).update(numbers)

    def _summarize(self, row: Mapping[str, Any], step: int | None) -> None:
        """Remembers the last step of the fit and the best value of the monitored metric."""
        self._summary |= {} if step is None else {STEP: step}
        if math.isfinite(new := row.get(self._monitor, math.nan)):
            better = max if self._best_is == "max" else min
            earlier = self._summary.get(self._monitor, {}).values()
            self._summary[self._monitor] = {self._best_is: better([new, *earlier])}

    def _refusal(self) -> str:
        """Why the server refused data, if it did. W&B's service reports that, and which rows arrived, in its log only.

        Rows that were logged directly through `experiment` are not known here.
        """
        reason = ""
        if self._service_log is None:
            return reason
        with self._service_log.open("rb") as file:
            file.seek(self._log_read)
            lines = [line for line in file if line.endswith(b"\n")]
        self._log_read += sum(map(len, lines))
        for entry in map(json.loads, lines):
            message = entry["msg"]
            if message == "filestream: sending request":
                self._in_flight = entry.get("history_lines", 0)
            elif message == "filestream: request sent" and entry["status"].startswith("200"):
                for place in list(self._unsent)[: self._in_flight]:
                    del self._unsent[place]
            elif "fatal error" in message or message.startswith("file transfer: upload"):
                reason = " ".join(["the server refuses data:", *re.findall(r"\b[45]\d\d\b", message)[:1]])
        return reason

    def _go_offline(self, reason: str) -> Any:
        """Continues in a new folder, beginning with what did not arrive: after a refusal W&B uploads nothing more.

        `wandb sync` of the old folder would append the rows that the server has a second time.
        """
        files = Path(self._run.dir)
        with suppress(TimeoutError):
            self._run.finish(exit_code=1)
        self._refusal()
        unsent, row = self._unsent, self._row
        run = self._open(offline=reason)
        self._row = row  # the last unsent one, to which metrics may be added
        for self._step, values in unsent.items():
            run.log(values, step=self._step)
        for file in (files / "media").rglob("*.*"):
            run.save(str(file), base_path=str(files), policy="end")
        log.warning(f"W&B {self._status}")
        return run

    @contextmanager
    def _guard(self, doing: str, fatal: bool = False) -> Iterator[None]:
        """Logs what W&B raises in one line. A wrong argument skips that call; any other error ends W&B logging."""
        try:
            yield
        except Exception as error:
            import wandb

            what = f"{doing}: {_in_one_line(error)}"
            if not (fatal or isinstance(error, OSError | wandb.Error)):
                if doing not in self._failed_calls:
                    log.warning(f"W&B did not record one item, and continues ({what})")
                self._failed_calls.add(doing)
            elif not self.lost:
                run, self.lost = self._run, True
                upload = _upload(run, "what there is") if run else ""
                self._status = f"stopped ({what}); CSV metrics continue{upload}"
                log.warning(f"W&B {self._status}")
                # what would raise later: W&B's hooks in the model, on sys.stdout and at exit
                for release in (lambda: run.unwatch(), lambda: run.finish(exit_code=1), wandb.teardown):
                    with suppress(Exception):
                        release()
                self._run = wandb.init(mode="disabled", settings=wandb.Settings(reinit="create_new", silent=True))

    def _open(self, after: int | None = None, offline: str = "") -> Any:
        """Opens the run, or continues it, and returns it.

        Args:
            after: the server keeps its history up to this `_step` only.
            offline: why not to go online.
        """
        global _recording
        import wandb

        if _recording is not None and _recording is not self:
            _recording.close()
        Path(self._arguments["dir"], "wandb").mkdir(parents=True, exist_ok=True)
        mode, reason = self._decide(offline)
        how: dict[str, Any] = {"resume": "allow"}
        if after is not None:
            how = {"resume_from": f"{self.version}?_step={after}"}
        settings = wandb.Settings(silent=True, save_code=False, disable_code=True, init_timeout=INIT_SECONDS)
        settings.finish_timeout, settings.finish_timeout_raises = FINISH_SECONDS, True
        try:
            run = wandb.init(**self._arguments, **how, mode=mode, settings=settings)
        except Exception as error:
            if mode != "online":
                raise
            wandb.teardown()  # its service still holds the run's id
            return self._open(offline=f"W&B did not start: {_in_one_line(error)}" if after is None else "")
        run.define_metric(STEP, summary="none")  # set at the end: a test must not change it
        run.define_metric("*", step_metric=STEP, step_sync=True)
        if self._monitor:
            run.define_metric(self._monitor, summary="none")
        self._run, _recording = run, self
        self._row, self._step = (None, False), run.starting_step - 1
        self._unsent, self._in_flight, self._log_read = {}, 0, 0
        self._service_log = Path(run.settings.log_internal) if mode == "online" else None
        super().log_hyperparams(self._config)
        run.summary.update(self._summary)
        self._status = f"online: {run.url}" if mode == "online" else f"{mode} ({reason})"
        if mode == "offline":
            self._status += _upload(run, "later")
        atexit.register(self.close, None)  # runs before W&B's own hook, which raises if the service died
        return run

    def _decide(self, offline: str) -> tuple[Any, str]:
        """The mode to start in and the reason for not being online, which is `offline` if that is known already."""
        import wandb

        if offline:
            return "offline", offline
        if self._mode in ("offline", "disabled"):
            return self._mode, "as asked"
        settings = wandb.setup(wandb.Settings(silent=True)).settings
        if self._mode == "auto" and settings.mode not in ("online", "shared"):
            return ("disabled" if settings.mode == "disabled" else "offline"), f"W&B mode is set to {settings.mode}"
        try:
            # asks the server, again after a 429 or 5xx, for $WANDB_HTTP_TIMEOUT seconds, by default 10
            known = wandb.login(prompt=False, verify=self._mode == "auto")
        except wandb.Error as error:
            reason = _in_one_line(error)
            return "offline", f"{settings.base_url} does not answer" if "did not respond" in reason else reason
        return ("online", "") if known else ("offline", "no API key")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_run": None}  # for processes that are spawned: the first of them opens its own


def _upload(run: Any, when: str) -> str:
    folder = Path(run.dir).parent  # run.dir is <folder>/files
    return f": upload {when} with `wandb sync --include-online {relative(folder)}`"


def _without_absolute_paths(value: Any) -> Any:
    """Paths below the working directory become relative; of others the last part is kept."""
    if isinstance(value, dict):
        return {key: _without_absolute_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_absolute_paths(item) for item in value]
    if isinstance(value, str | Path) and Path(path := str(value).removeprefix("file://")).is_absolute():
        shorter = relative(path)
        return Path(shorter).name if Path(shorter).is_absolute() else shorter
    return value


def _in_one_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[:3])  # what is wrong with a setting is in the third
