"""Seconds from a command to its answer, whole processes, against importing the libraries underneath.

    python benchmarks/startup.py --write docs/benchmarks.md

The last row is a fit of digits.yaml, W&B offline, until its first batch was trained on and logged: that makes the
parser, the data, the network and the run directory, and opens the tracker.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from machine import ROOT, alternate, arguments, describe, middle, publish, ratio

LIBRARIES = '`python -c "import torch, lightning"`'
DIGITS = ["fit", "--config", str(ROOT / "configs/digits.yaml")]
COMMANDS = {
    "`main.py --help`": ["--help"],
    "`main.py --version`": ["--version"],
    "`main.py fit --help`": ["fit", "--help"],
    "`main.py fit --trainer.max_epohcs 3`, mistyped": [*DIGITS, "--trainer.max_epohcs", "3"],
}
FIRST_BATCH = "`main.py fit --config configs/digits.yaml`, to the first batch"
REACH = dict.fromkeys(COMMANDS, "1.3")
SECONDS = 300  # for anything to happen


def to_the_end(*arguments: str) -> float:
    started = time.perf_counter()
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=SECONDS)
    seconds = time.perf_counter() - started
    if process.returncode and "unknown option" not in process.stderr:
        raise RuntimeError(f"{arguments} failed: {process.stderr}")
    return seconds


def to_the_first_batch(program: str) -> float:
    with tempfile.TemporaryDirectory(prefix="litcnn-startup-") as folder, tempfile.TemporaryFile("w+") as printed:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, program, *DIGITS, "--trainer.log_every_n_steps", "1"],
            cwd=folder, stdout=printed, stderr=printed, env={"WANDB_MODE": "offline", **os.environ},
        )  # fmt: skip
        while not list(Path(folder).glob("runs/*/*/metrics.csv")):
            seconds = time.perf_counter() - started
            if process.poll() is not None or seconds > SECONDS:
                printed.seek(0)
                raise RuntimeError(f"no batch within {seconds:.0f} s: {printed.read()}")
            time.sleep(0.005)
        seconds = time.perf_counter() - started
        process.terminate()
        process.wait(SECONDS)
    return seconds


def main(args: Sequence[str] | None = None) -> None:
    given = arguments(__doc__, rounds=7).parse_args(args)
    rounds = 1 if given.quick else given.rounds
    program = str(ROOT / "main.py")
    sides: dict[str, Callable[[], float]] = {LIBRARIES: partial(to_the_end, "-c", "import torch, lightning")}
    sides |= {name: partial(to_the_end, program, *command) for name, command in COMMANDS.items()}
    sides[FIRST_BATCH] = partial(to_the_first_batch, program)
    for side in sides.values():  # once, so that all files are in the memory of the system
        if not given.quick:
            side()
    found = alternate("start-up", sides, rounds)

    libraries = found.pop(LIBRARIES)
    rows = [(LIBRARIES, middle(libraries, "{:.2f}", "s"), "1", "")]
    for name, times in found.items():
        rows.append((name, middle(times, "{:.2f}", "s"), ratio(times, libraries), REACH.get(name, "")))
    facts = f"Medians of {rounds} (least to most), all in turns. {describe(note=given.note)}."
    publish("startup.py", facts, ("what", "seconds", "ratio", "reach"), rows, given.write)


if __name__ == "__main__":
    main()
