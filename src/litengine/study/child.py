"""One run of a study in its own process, so that a crash does not reach the others."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from litengine import project
from litengine.files import relative
from litengine.study import locks
from litengine.study.results import read_epochs, read_test
from litengine.study.tables import print_text
from litengine.training.run_directory import read_state, runs_in

LINES = 15  # of a failed run's output that are shown


class Child:
    """A run in `folder`, `<study>/<name of the run>`, with the options `fit`; `test` tests its best checkpoint too.

    Each run holds a lock. If another process still trains it, such as one of a study that was killed, `poll` waits.
    """

    def __init__(self, folder: Path, fit: list[str], test: bool) -> None:
        self.folder = folder
        self.name = folder.name
        self.fit = fit
        self.test = test
        self.output = folder / "output.log"
        self.devices: str | None = None  # CUDA_VISIBLE_DEVICES
        self.threads: int | None = None
        self.asked_to_stop = False
        self._waits = False
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._output_from = 0

    @property
    def run_dir(self) -> Path | None:
        """The newest run directory, or None."""
        found = runs_in(self.folder.parent, self.name)
        return found[-1] if found else None

    def command(self) -> list[str] | None:
        """The command that does what is left to do; None if the run is complete."""
        run_dir = self.run_dir
        if run_dir is None or read_state(run_dir) != "finished":
            place = ["--runs", str(self.folder.parent), "--name", self.name, "--resume", "auto"]
            place.append("--checkpoints.link_best=false")  # the study links its best at the end
            return [*project.command(), "fit", *self.fit, *place, f"--test_after_fit={str(self.test).lower()}"]
        if not self.test or read_test(run_dir):
            return None
        settings = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
        trainer = json.dumps({"trainer": settings["trainer"]})  # a checkpoint holds the other settings
        trust = ["--trust", *settings["trust"]] if settings["trust"] else []
        return [*project.command(), "test", "--config", trainer, "--ckpt_path", str(self.checkpoint), *trust]

    @property
    def checkpoint(self) -> Path | None:
        """The best checkpoint of the run, or without validation the last; None before there is a run."""
        if self.run_dir is None:
            return None
        best, last = (self.run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
        return best if best.is_file() else last

    def poll(self) -> int | None:
        """Starts the run at the first call. Returns its exit code, 0 if nothing was left to do, None while it runs."""
        if self._process is None:
            return self._start()
        if (code := self._process.poll()) is not None:
            with (self.folder / "seconds.txt").open("a") as file:
                file.write(f"{time.monotonic() - self._started:.1f}\n")
        return code

    def status(self) -> str:
        """The name and how far the run is."""
        epochs = read_epochs(self.run_dir) if self.run_dir else []
        return f"{self.name} epoch {len(epochs) + 1}"

    def stop(self) -> None:
        """Asks the run to save its state and exit; the second time, to exit at once."""
        self.asked_to_stop = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Waits for the process that was started here."""
        if self._process is not None:
            self._process.wait()

    def seconds(self) -> int | None:
        """Time of all processes of this run, with start-up and repeated work; None if unknown."""
        path = self.folder / "seconds.txt"
        return round(sum(map(float, path.read_text().split()))) if path.is_file() else None

    def why(self) -> str:
        """Why the run failed: the end of its output."""
        assert self._process is not None
        output = self.output.read_bytes()[self._output_from :].decode("utf-8", "replace")
        return f"{reason(output, self._process.returncode)}\n(complete output: {relative(self.output)})"

    def _start(self) -> int | None:
        if self.asked_to_stop:
            return 0
        lock = locks.take(self.folder / "lock")
        if lock is None:
            if not self._waits:
                print_text(f"{self.name}: waiting for another process that is still training it")
            self._waits = True
            return None
        try:
            command = self.command()
            if command is None:
                return 0
            with self.output.open("ab") as output:
                output.write(f"$ {shlex.join(command)}\n".encode("utf-8", "surrogateescape"))
                self._output_from = output.tell()
                self._started = time.monotonic()
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment(self.folder.parent.name, self.devices, self.threads),
                    pass_fds=[lock],
                    start_new_session=True,  # Ctrl-C reaches the study only, which passes it on once
                )
        finally:
            os.close(lock)
        return None


def environment(group: str = "", devices: str | None = None, threads: int | None = None) -> dict[str, str]:
    """The environment of a run, which finds the same modules as this process. The user's own WANDB_RUN_GROUP and
    OMP_NUM_THREADS have precedence over `group` and `threads`; `devices` is CUDA_VISIBLE_DEVICES."""
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], variables.get("PYTHONPATH")]))
    variables.pop("WANDB_RUN_ID", None)  # else all runs would be one run of W&B
    if group:
        variables.setdefault("WANDB_RUN_GROUP", group)
    if devices is not None:
        variables["CUDA_VISIBLE_DEVICES"] = devices
    if threads is not None:
        variables.setdefault("OMP_NUM_THREADS", str(threads))
    return variables


def reason(output: str, code: int) -> str:
    """The error message in the output of a process that failed, or the last lines if there is none."""
    lines = output.strip().splitlines()
    if code == 2 and (starts := [index for index, line in enumerate(lines) if line.startswith("error: ")]):
        return "\n".join(lines[starts[-1] :]).removeprefix("error: ")
    return "\n".join([f"exit code {code}, last lines of its output:", *lines[-LINES:]])
