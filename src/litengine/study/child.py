"""One run of a study in its own process, so that a crash does not reach the others."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from litengine import project
from litengine.files import relative
from litengine.study.results import print_text, read_settings, read_test
from litengine.training.run_directory import read_state, runs_in

LINES = 15  # of a failed run's output that are shown


@dataclass
class Child:
    """A run in `folder`, `<study>/<name of the run>`, with the options `fit`; `test` tests its best checkpoint too.

    Each run holds a lock. If another process still trains it, such as one of a study that was killed, `poll` waits.
    """

    folder: Path
    fit: list[str]
    test: bool = False
    variables: dict[str, str] = field(default_factory=dict)  # of its environment
    asked_to_stop: bool = False
    _waits: bool = False
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def name(self) -> str:
        return self.folder.name

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
        settings = read_settings(run_dir)
        trainer = json.dumps({"trainer": settings["trainer"]})  # a checkpoint holds the other settings
        trust = ["--trust", *settings["trust"]] if settings["trust"] else []
        return [*project.command(), "test", "--config", trainer, "--ckpt_path", str(best_checkpoint(run_dir)), *trust]

    def poll(self) -> int | None:
        """Starts the run at the first call. Returns its exit code, 0 if nothing was left to do, None while it runs."""
        if self._process or self.asked_to_stop:
            return self._process.poll() if self._process else 0
        lock = take_lock(self.folder / "lock")
        if lock is None:
            if not self._waits:
                print_text(f"{self.name}: waiting for another process that is still training it")
            self._waits = True
            return None
        with lock, (self.folder / "output.log").open("ab") as output:
            command = self.command()
            if command is None:
                return 0
            output.write(f"$ {shlex.join(command)}\n".encode("utf-8", "surrogateescape"))
            output.flush()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"WANDB_RUN_GROUP": self.folder.parent.name, **environment(), **self.variables},
                pass_fds=[lock.fileno()],
                start_new_session=True,  # Ctrl-C reaches the study only, which passes it on once
            )
        return None

    def stop(self) -> None:
        """Asks the run to save its state and exit; the second time, to exit at once."""
        self.asked_to_stop = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def why(self) -> str:
        """Why the run failed: the end of its output."""
        assert self._process is not None
        path = self.folder / "output.log"
        output = path.read_text("utf-8", "replace").rpartition("\n$ ")[2]  # of the last process
        return f"{reason(output, self._process.returncode)}\n(complete output: {relative(path)})"


def best_checkpoint(run_dir: Path) -> Path:
    """The best checkpoint of a run, or without validation the last."""
    best = run_dir / "checkpoints" / "best.ckpt"
    return best if best.is_file() else best.with_name("last.ckpt")


def take_lock(path: Path) -> IO[str] | None:
    """Locks a file, which is made if needed. Returns it, or None if another process has the lock. The lock lasts until
    the file is closed here and in every process that inherited it, also if they are killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def environment() -> dict[str, str]:
    """The environment of a run, which finds the same modules as this process."""
    path = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path}
    variables.pop("WANDB_RUN_ID", None)  # else all runs would be one run of W&B
    return variables


def reason(output: str, code: int) -> str:
    """The error message in the output of a process that failed, or the last lines if there is none."""
    lines = output.strip().splitlines()
    if code == 2 and (starts := [index for index, line in enumerate(lines) if line.startswith("error: ")]):
        return "\n".join(lines[starts[-1] :]).removeprefix("error: ")
    return "\n".join([f"exit code {code}, last lines of its output:", *lines[-LINES:]])
