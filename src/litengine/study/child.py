"""One run of a study, in a process of its own: what it does to memory, GPU or itself, the others do not feel."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import yaml

from litengine.study import locks
from litengine.study.results import report_of
from litengine.training.run_directory import read_state, relative, runs_in

PROGRAM = [sys.executable, "-m", "litcnn"]
LINES = 15  # of a failed run's output that are shown


class Child:
    """A run, which `poll` starts and watches.

    Where a study was killed, its runs may still be at work. Then this waits for them: two processes would spoil one
    run directory. They hold a lock as long as they live.

    Args:
        folder: `<study>/<name of the run>`; fit makes a run directory in it.
        fit: all options of fit, but those that say where and when: they are given here.
        test: whether the best checkpoint is to be tested too.
    """

    def __init__(self, folder: Path, fit: list[str], test: bool) -> None:
        self.folder = folder
        self.name = folder.name
        self.fit = fit
        self.test = test
        self.devices: str | None = None  # CUDA_VISIBLE_DEVICES
        self.threads: int | None = None
        self.asked_to_stop = False
        self.waits_for_another = False
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._output_from = 0

    @property
    def run_dir(self) -> Path | None:
        """The newest run directory; None before there is one."""
        found = runs_in(self.folder.parent, self.name)
        return found[-1] if found else None

    @property
    def output(self) -> Path:
        """Where all that the run prints goes."""
        return self.folder / "output.log"

    def command(self) -> list[str] | None:
        """What is left to do; None where all is done."""
        run_dir = self.run_dir
        if run_dir is None or read_state(run_dir) != "finished":
            place = ["--runs", str(self.folder.parent), "--name", self.name]
            return [
                *PROGRAM,
                "fit",
                *self.fit,
                *place,
                "--resume",
                "auto",
                f"--test_after_fit={str(self.test).lower()}",
            ]
        if not self.test or report_of(run_dir):
            return None
        best, last = (run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
        settings = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
        trainer = json.dumps({"trainer": settings["trainer"]})  # a checkpoint remembers the rest
        trust = ["--trust", *settings["trust"]] if settings["trust"] else []
        checkpoint = str(best if best.is_file() else last)
        return [*PROGRAM, "test", "--config", trainer, "--ckpt_path", checkpoint, *trust]

    def poll(self) -> int | None:
        """The exit code of the run, 0 where nothing was left to do; None as long as it lasts."""
        if self._process is None:
            return self._start()
        if (code := self._process.poll()) is not None:
            with (self.folder / "seconds.txt").open("a") as file:
                file.write(f"{time.monotonic() - self._started:.1f}\n")
        return code

    def stop(self) -> None:
        """Has the run save its state and leave; the second time, leave at once."""
        self.asked_to_stop = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
        elif self.waits_for_another and (process := locks.holder(self.folder / "lock")):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    def wait(self) -> None:
        """Returns when the process that was started here has ended."""
        if self._process is not None:
            self._process.wait()

    def why(self) -> str:
        """What a run that failed said last."""
        assert self._process is not None
        with self.output.open("rb") as file:
            file.seek(self._output_from)
            said = file.read().decode("utf-8", "replace")
        return f"{reason(said, self._process.returncode)}\n(all it said: {relative(self.output)})"

    def _start(self) -> int | None:
        lock = locks.take(self.folder / "lock")
        self.waits_for_another = lock is None
        if lock is None:
            return None
        try:
            command = self.command()
            if command is None or self.asked_to_stop:
                return 0
            with self.output.open("ab") as output:
                output.write(f"$ {shlex.join(command)}\n".encode("utf-8", "surrogateescape"))
                self._output_from = output.tell()
                self._started = time.monotonic()
                # It inherits the lock. A session of its own: Ctrl-C is for the study, which passes it on once.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment(self.folder.parent.name, self.devices, self.threads),
                    pass_fds=[lock],
                    start_new_session=True,
                )
            locks.name_holder(lock, self._process.pid)
        finally:
            os.close(lock)
        return None


def environment(group: str = "", devices: str | None = None, threads: int | None = None) -> dict[str, str]:
    """That of this process, for one that finds the same modules.

    Args:
        group: under which Weights & Biases shows the run, where the user names none.
        devices: the GPUs that it sees.
        threads: of a processor that it uses, where the user says nothing.
    """
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], variables.get("PYTHONPATH")]))
    variables.pop("WANDB_RUN_ID", None)  # each is a run of its own
    if group:
        variables.setdefault("WANDB_RUN_GROUP", group)  # not a flag: loggers of W&B stand in many places
    if devices is not None:
        variables["CUDA_VISIBLE_DEVICES"] = devices
    if threads is not None:
        variables.setdefault("OMP_NUM_THREADS", str(threads))
    return variables


def seconds_of(folder: Path) -> float | None:
    """How long a run took, start-up and what was done again after it was stopped included; None where unknown."""
    path = folder / "seconds.txt"
    return sum(map(float, path.read_text().split())) if path.is_file() else None


def reason(output: str, code: int) -> str:
    """Why a process failed: its message for the user, or where there is none its last lines."""
    lines = output.strip().splitlines()
    if code == 2 and (starts := [index for index, line in enumerate(lines) if line.startswith("error: ")]):
        return "\n".join(lines[starts[-1] :]).removeprefix("error: ")
    return "\n".join([f"exit code {code}, its last lines:", *lines[-LINES:]])
