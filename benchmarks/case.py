"""A real run in a process and a working directory of its own, to be injured by faults.py.

The run is short (90 steps of a tiny network on scikit-learn's digits) and saves every 0.3 s, so in mid-epoch too;
everything else is as in a long one.
"""

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from litengine.training.run_directory import read_state

ROOT = Path(__file__).parents[1]
SUPPORT = str(ROOT / "tests/support")  # what tests of the same kind have
sys.path.append(SUPPORT)

from outcome import outcome  # noqa: E402

PROGRAM = [sys.executable, "-m", "litcnn", "fit"]
BASE = [
    "--config", str(ROOT / "configs/cnn.yaml"), "--data.source", "litengine.data.Digits", "--data.batch_size", "16",
    "--data.val_fraction", "0.5", "--trainer.max_epochs", "3", "--trainer.limit_train_batches", "30",
    "--trainer.log_every_n_steps", "2", "--model.network.init_args.widths", "[8, 8]",
    "--model.network.init_args.hidden", "16", "--checkpoints.every_n_minutes", "0.005",
]  # fmt: skip
UNTRACKED = ["--config", str(ROOT / "configs/with/no_tracker.yaml")]
RECIPES = {
    "article": ["--model.lr_scheduler.init_args.patience", "0"],  # so that ReduceLROnPlateau does something in 3 epochs
    "one-cycle": ["--config", str(ROOT / "configs/with/one_cycle.yaml")],
    "EMA": ["--trainer.callbacks+", "lightning.pytorch.callbacks.EMAWeightAveraging"],
}
ROWS = 45  # of metrics.csv
SECONDS = 600  # for anything to happen, on a loaded machine too
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "LITCNN_"))}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
ENVIRONMENT["PYTHONPATH"] = os.pathsep.join([*filter(None, [ENVIRONMENT.get("PYTHONPATH")]), SUPPORT])


class Lost(Exception):  # noqa: N818
    """A run did not survive: why."""


class Missed(Exception):  # noqa: N818
    """The injury came at a moment that it was not meant for: it is tried again at another one."""


class Skipped(Exception):  # noqa: N818
    """The injury cannot be done on this machine: why."""


class Whole(NamedTuple):
    """A run of the same recipe that nobody touched."""

    outcome: dict[str, Any]
    seconds: float  # of training


class Case:
    """A run to injure, in a working directory of its own."""

    def __init__(self, home: Path, recipe: str, chance: random.Random, whole: Whole | None = None) -> None:
        self.home, self.recipe, self.chance, self.whole = home, recipe, chance, whole
        self.environment, self.number = dict(ENVIRONMENT), 0  # number: of the runs with this injury
        self.processes: list[subprocess.Popen[bytes]] = []
        self.logs: list[Path] = []
        self.ballast = home / "ballast"
        home.mkdir(parents=True)

    def start(self, *arguments: str, program: Iterable[str] = PROGRAM) -> None:
        self.logs.append(self.home.with_name(f"{self.home.name}-{len(self.logs)}.log"))  # not on a disk that gets full
        with self.logs[-1].open("w") as log:
            command = [*program, *arguments]
            self.process = subprocess.Popen(command, cwd=self.home, env=self.environment, stdout=log, stderr=log)
        self.processes.append(self.process)

    def fit(self, *more: str, tracker: Iterable[str] = UNTRACKED) -> None:
        self.start(*BASE, *RECIPES[self.recipe], *tracker, *more)

    @property
    def run(self) -> Path:
        (found,) = self.home.glob("runs/*/*")
        return found

    @property
    def printed(self) -> str:
        return self.logs[-1].read_text(errors="replace")

    def rows(self) -> list[dict[str, str]]:
        for path in self.home.glob("runs/*/*/metrics.csv"):
            with path.open() as file:
                return list(csv.DictReader(file))
        return []

    def wait_for(self, condition: Callable[[], Any], poll: float = 0.005) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            if self.process.poll() is not None:
                # one that ends by itself with an error is not a miss
                raise Missed if self.process.returncode == 0 else Lost(f"it failed before: {self.last_words()}")
            if time.monotonic() > end:
                raise Lost(f"nothing to injure within {SECONDS} s")
            time.sleep(poll)

    def wait_for_a_moment(self, earliest: float = 0.0, latest: float = 0.95) -> None:
        """Any time between the first logged line and the end of the training, whatever else the machine does."""
        rows = 1 + self.chance.uniform(earliest, latest) * (ROWS - 1)
        self.wait_for(lambda: len(self.rows()) >= rows)
        time.sleep(self.chance.uniform(0, 0.05) * self.whole.seconds)  # a validation is longer than a row

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends the signal and waits for the end, which must be the one that this signal is to have."""
        self.process.send_signal(number)
        expected = -number if number == signal.SIGKILL else 128 + number
        code = self.end()
        if code == 0 or read_state(self.run) == "finished":
            raise Missed
        self.must(code == expected, f"exit code {code} in place of {expected}")
        if number != signal.SIGKILL:
            self.must("fit --resume last" in self.printed, "it does not say how to resume")
            self.must("Traceback" not in self.printed, "it ends with a traceback")

    def fill_the_disk(self) -> None:
        """Until the run ends: a checkpoint that is replaced makes room again."""
        end = time.monotonic() + SECONDS
        with self.ballast.open("wb", buffering=0) as file:
            while self.process.poll() is None and time.monotonic() < end:
                try:
                    file.write(bytes(1 << 12))
                except OSError:
                    time.sleep(0.005)

    def end(self) -> int:
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise Lost(f"it hangs: no end after {SECONDS} s") from None

    def must(self, true: Any, else_: str) -> None:
        if not true:
            raise Lost(f"{else_} ({self.last_words()})")

    def last_words(self) -> str:
        return " / ".join(self.printed.strip().splitlines()[-2:])

    def resume(self) -> None:
        self.start("--resume", "last")
        code = self.end()
        self.must(code == 0, f"resuming fails with {code}")
        self.compare()

    def must_be_refused(self, reason: str) -> None:
        clear = self.end() == 2 and "error: " in self.printed and "Traceback" not in self.printed
        self.must(clear and reason in self.printed, f"it is not refused with {reason!r}")

    def leave_alone(self) -> Whole:
        self.fit()
        self.wait_for(self.rows)
        started = time.time()
        self.must(self.end() == 0, "an uninterrupted run fails")
        return Whole(outcome(self.run), (self.run / "metrics.csv").stat().st_mtime - started)

    def compare(self) -> None:
        for checkpoints in self.home.glob("runs/*/*/checkpoints"):
            found = outcome(checkpoints.parent)
            wrong = [name for name, value in self.whole.outcome.items() if found[name] != value]
            resumed_at = next(iter(re.findall(r"resumed at .*", self.printed)), "started again")
            self.must(not wrong, f"{resumed_at}: different in {', '.join(wrong)}")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
