"""Injures real runs, resumes them, and compares every bit with runs that nobody touched.

python benchmarks/faults.py                              # some 140 processes: 21 minutes on one core
python benchmarks/faults.py --quick                      # one run of each injury
python benchmarks/faults.py --write docs/reliability.md  # puts the table into that page
"""

import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch
from case import RECIPES, Case, Missed, Skipped, Whole
from machine import arguments, describe, publish
from rich.console import Console
from rich.progress import track

ATTEMPTS = 6  # at a moment that suits the injury


# The injuries. Each starts a run, injures it, and resumes it where it was ended.


def sigkill(case: Case) -> None:
    case.fit()
    case.wait_for_a_moment()
    case.kill()
    case.resume()


def sigkill_in_a_write(case: Case) -> None:
    case.fit("--checkpoints.every_n_minutes", "0")  # after every batch
    case.wait_for_a_moment(latest=0.7)
    case.wait_for(lambda: list(case.home.glob("runs/*/*/checkpoints/.*.partial")), poll=0.0005)
    case.kill()
    if not list(case.run.glob("checkpoints/.*.partial")):  # it was in its place just before
        raise Missed
    case.resume()


def in_training(number: signal.Signals) -> Callable[[Case], None]:
    def injure(case: Case) -> None:
        case.fit()
        case.wait_for_a_moment(latest=0.7)
        case.kill(number)
        if "when this validation is over" in case.printed:
            raise Missed
        case.resume()

    return injure


def sigterm_in_validation(case: Case) -> None:
    case.fit()
    step = case.chance.choice([29, 59])  # the last of the first and of the second epoch
    case.wait_for(lambda: any(row["step"] == str(step) for row in case.rows()), poll=0.001)
    time.sleep(case.chance.uniform(0, 0.03) * case.whole.seconds)
    case.kill(signal.SIGTERM)
    if "when this validation is over" not in case.printed:
        raise Missed
    case.resume()


def full_disk(case: Case) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(case.home)]
    if platform.system() != "Linux" or subprocess.run(mount, capture_output=True).returncode:
        raise Skipped("needs a Linux that lets this user mount a tmpfs")
    try:
        case.fit()
        case.wait_for_a_moment(earliest=0.3, latest=0.7)
        case.fill_the_disk()
        if case.end() == 0:
            case.compare()
            raise Missed
        clear = "Traceback" not in case.printed and "make room" in case.printed and "--resume" in case.printed
        case.must(clear, "a full disk ends without one clear error")
        for path in case.run.glob("checkpoints/*.ckpt"):
            torch.load(path, weights_only=True)
        case.ballast.unlink()
        case.resume()
    finally:
        case.close()
        subprocess.run(["umount", "--lazy", str(case.home)], check=True)


def damaged(damage: Callable[[bytes, random.Random], bytes], *files: str) -> Callable[[Case], None]:
    def injure(case: Case) -> None:
        case.fit()
        case.wait_for_a_moment(earliest=0.4)  # there is a best one
        case.kill()
        for path in [case.run / "checkpoints" / file for file in files or ["last.ckpt"]]:
            path.write_bytes(damage(path.read_bytes(), case.chance))
        case.resume()

    return injure


def truncated(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(1, len(content))]


def with_a_bit_flipped(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]


def wandb_service_dies(case: Case) -> None:
    case.fit(tracker=())
    case.wait_for_a_moment(latest=0.7)
    if case.process.poll() is not None:
        raise Missed
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    (service,) = re.findall(rf"^ *(\d+) +{case.process.pid} +\S*wandb-core", listed, re.MULTILINE)
    os.kill(int(service), signal.SIGKILL)
    code = case.end()  # nothing to resume: training goes on
    case.must(code == 0, f"exit code {code}")
    case.must("CSV metrics continue" in case.printed, "it does not say that W&B is lost")
    case.compare()


def same_second(case: Case) -> None:
    for _ in range(2):
        case.fit()
    codes = [process.wait(180) for process in case.processes]
    case.must(codes == [0, 0], f"exit codes {codes}")
    runs = sorted(case.home.glob("runs/*/*"))
    case.must(len(runs) == 2, f"{len(runs)} run directories")
    if not runs[1].name.startswith(runs[0].name):
        raise Missed  # two different seconds
    case.compare()


INJURIES: dict[str, tuple[int, Callable[[Case], None]]] = {
    "SIGKILL at a random moment": (30, sigkill),
    "SIGKILL during a checkpoint write": (6, sigkill_in_a_write),
    "SIGTERM in training": (3, in_training(signal.SIGTERM)),
    "SIGTERM in validation": (3, sigterm_in_validation),
    "Ctrl-C (SIGINT)": (3, in_training(signal.SIGINT)),
    "disk full in mid-run, freed later": (3, full_disk),
    "SIGKILL, then last.ckpt truncated": (3, damaged(truncated)),
    "SIGKILL, then last.ckpt emptied": (3, damaged(lambda *_: b"")),
    "SIGKILL, then one bit of last.ckpt flipped": (6, damaged(with_a_bit_flipped)),
    "SIGKILL, then all but best.ckpt emptied": (3, damaged(lambda *_: b"", "last.ckpt", "previous.ckpt")),
    "W&B's service process killed": (3, wandb_service_dies),
    "two runs started in the same second": (3, same_second),
}


class Job(NamedTuple):
    injury: str
    number: int
    recipe: str


class Harness:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.whole: dict[str, Whole] = {}

    def leave_alone(self, recipe: str) -> None:
        with closing(Case(self.folder / f"whole-{recipe}", recipe, random.Random(self.seed))) as case:
            self.whole[recipe] = case.leave_alone()

    def injure(self, job: Job) -> str | None:
        """What was lost, an empty text where nothing was; None where the injury could not be done."""
        chance = random.Random(f"{self.seed} {job}")
        for attempt in range(ATTEMPTS):
            home = self.folder / f"{list(INJURIES).index(job.injury)}-{job.number}-{attempt}"
            with closing(Case(home, job.recipe, chance, self.whole[job.recipe])) as case:
                try:
                    INJURIES[job.injury][1](case)
                except Missed:
                    continue
                except Skipped:
                    return None
                except Exception as error:
                    return f"{job.recipe}: {type(error).__name__}: {error}"
                return ""
        return None


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default="", help="injuries whose name contains this")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the injuries")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()

    jobs = [
        Job(injury, number, list(RECIPES)[(place + number) % len(RECIPES)])
        for place, (injury, (count, _)) in enumerate(INJURIES.items())
        for number in range(1 if args.quick else count)
        if args.only in injury
    ]
    screen, started = Console(stderr=True), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="litcnn-faults-") as folder, ThreadPoolExecutor(args.jobs) as pool:
        harness = Harness(Path(folder), args.seed)
        recipes = sorted({job.recipe for job in jobs})
        list(track(pool.map(harness.leave_alone, recipes), "left alone", len(recipes), console=screen))
        found: dict[str, list[str | None]] = {job.injury: [] for job in jobs}
        for place, result in enumerate(track(pool.map(harness.injure, jobs), "injured", len(jobs), console=screen)):
            found[jobs[place].injury].append(result)
            if result:
                screen.print(f"{jobs[place].injury}, {result}", highlight=False, markup=False)

    rows = []
    for injury, results in found.items():
        done = [result for result in results if result is not None]
        runs = f"{len(done)}" if len(done) == len(results) else f"{len(done)} of {len(results)} could be done"
        rows.append((injury, runs, f"{done.count('')}", f"{len(done) - done.count('')}"))
    minutes = (time.monotonic() - started) / 60
    facts = f"{describe(note=args.note)}; {minutes:.0f} minutes, seed {args.seed}, one thread a run."
    publish("faults.py", facts, ("injury", "runs", "survived exactly", "lost"), rows, args.write)
    sys.exit(any(any(results) for results in found.values()))


if __name__ == "__main__":
    main()
