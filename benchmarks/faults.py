"""Injures real runs, resumes them, and compares every bit with runs that nobody touched.

python benchmarks/faults.py                              # some 270 processes: 40 minutes or more on one core
python benchmarks/faults.py --quick                      # one run of each injury
python benchmarks/faults.py --write docs/reliability.md  # puts both tables into that page
"""

import json
import os
import platform
import random
import re
import shutil
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
from case import RECIPES, SECONDS, Case, Lost, Missed, Skipped, Whole
from every_checkpoint import EXACT, REFUSED
from machine import arguments, describe, publish
from rich.console import Console
from rich.progress import track
from wandb_stand_in import StandIn, values_in

ATTEMPTS = 6  # at a moment that suits the injury

SAME, REFUSAL = "the same end", "refused before training"  # all else is lost
Verdicts = list[str]

# The injuries. Each starts a run, injures it, and resumes it where it was ended. Most are one case; the others return
# the verdict of each case.


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
    codes = [process.wait(SECONDS) for process in case.processes]
    case.must(codes == [0, 0], f"exit codes {codes}")
    runs = sorted(case.home.glob("runs/*/*"))
    case.must(len(runs) == 2, f"{len(runs)} run directories")
    if not runs[1].name.startswith(runs[0].name):
        raise Missed  # two different seconds
    case.compare()


def every_checkpoint(case: Case) -> Verdicts:
    recipe = list(EXACT)[case.number]
    case.start(recipe, program=[sys.executable, "-m", "every_checkpoint"])
    case.must(case.end() == 0, f"{recipe} fails")
    count, different = json.loads((case.home / "found.json").read_text())
    lost = [f"{recipe}, from {checkpoint}: {wrong}" for checkpoint, wrong in different.items()]
    return [SAME] * (count - len(lost)) + lost


def inexact_setting(case: Case) -> Verdicts:
    case.start(*list(REFUSED.values())[case.number])
    case.must_be_refused("error: ")
    case.must(not list(case.home.glob("runs/*/*/config.yaml")), "it leaves a run directory")
    return [REFUSAL]


def two_resumes(case: Case) -> Verdicts:
    case.fit()
    case.wait_for_a_moment(latest=0.5)
    case.kill()
    for _ in range(2):
        case.start("--resume", "last")
    codes = [process.wait(SECONDS) for process in case.processes[1:]]
    case.compare()
    if codes == [0, 0]:
        raise Missed  # one had finished before the other one began
    case.must(sorted(codes) == [0, 2], f"exit codes {codes}")
    case.must(sum("is in use by process" in log.read_text() for log in case.logs) == 1, "it does not say why")
    return [SAME, REFUSAL]


def live_run(case: Case) -> Verdicts:
    case.fit()
    case.wait_for_a_moment(latest=0.7)
    live = case.process
    live.send_signal(signal.SIGSTOP)  # it waits for the other one
    case.start("--resume", case.chance.choice(["last", str(case.run)]))
    case.must_be_refused("is in use by process")
    live.send_signal(signal.SIGCONT)
    case.must(live.wait(SECONDS) == 0, "the live run fails")
    case.compare()
    return [SAME, REFUSAL]


STATE_FILES = (
    "state.json", "of another run", ".lock", "config.yaml",
    "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/best.ckpt",
)  # fmt: skip
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "removed": lambda *_: None, "emptied": lambda *_: b"", "truncated": truncated, "bit flipped": with_a_bit_flipped,
}  # fmt: skip


def state_file(case: Case) -> Verdicts:
    case.fit()
    case.wait_for_a_moment(earliest=0.4)
    case.kill()
    (what, damage), run, intact = list(DAMAGES.items())[case.number], case.run, case.home / "intact"
    verdicts: Verdicts = []
    other = case.home / "runs/other/2000-01-01_00-00-00/state.json"
    other.parent.mkdir(parents=True)
    shutil.copy(run / "config.yaml", other.parent)
    shutil.copytree(run, intact)
    for name in STATE_FILES:
        shutil.rmtree(run)
        shutil.copytree(intact, run)
        other.write_bytes((intact / "state.json").read_bytes())
        path = other if name == "of another run" else run / name
        content = damage(path.read_bytes(), case.chance)
        path.unlink() if content is None else path.write_bytes(content)
        case.start("--resume", "last" if path == other else str(run))
        try:
            if case.end() == 2:
                case.must_be_refused("error: ")
                verdicts.append(REFUSAL)
            else:
                case.must(case.end() == 0, f"resuming fails with {case.process.returncode}")
                case.compare()
                verdicts.append(SAME)
        except Lost as error:
            verdicts.append(f"{name} {what}: {error}")
    return verdicts


def fit_online(case: Case, server: StandIn) -> None:
    case.environment |= {**server.environment, "WANDB_MODE": "online", "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
    case.fit(tracker=())
    case.wait_for_a_moment(latest=0.5)


def must_have_all(server: StandIn, case: Case) -> None:
    (recorded,) = server.runs.values()
    case.must(recorded.values == values_in(case.run / "metrics.csv"), "W&B has not the values of metrics.csv")


def wandb_refuses(case: Case) -> None:
    with closing(StandIn()) as server:
        fit_online(case, server)
        server.fault("files", status := case.chance.choice([401, 403, 404, 409]))
        case.must(case.end() == 0, "the fit fails")
        case.compare()
        said = re.findall(r"`wandb (sync [^`]+)`", case.printed)
        case.must(said and f"refuses data: {status}" in case.printed, "it does not say that W&B refuses")
        server.faults.clear()
        case.start(*said[-1].split(), program=[sys.executable, "-m", "wandb"])
        case.must(case.end() == 0, "wandb sync fails")
        must_have_all(server, case)


def wandb_after_sigkill(case: Case) -> None:
    with closing(StandIn()) as server:
        fit_online(case, server)
        case.kill()
        case.resume()
        must_have_all(server, case)


KILLS: dict[str, tuple[int, Callable[[Case], Verdicts | None]]] = {
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
MORE: dict[str, tuple[int, Callable[[Case], Verdicts | None]]] = {
    f"resume from every checkpoint of {len(EXACT)} recipes": (len(EXACT), every_checkpoint),
    "setting without an exact resume": (len(REFUSED), inexact_setting),
    "two resumes at once": (6, two_resumes),
    "resume of a live run": (6, live_run),
    f"SIGKILL, then one of {len(STATE_FILES)} state files damaged": (len(DAMAGES), state_file),
    "W&B refuses in mid-run": (8, wandb_refuses),
    "SIGKILL and resume, W&B online": (8, wandb_after_sigkill),
}
TABLES, INJURIES = {"kills": KILLS, "more": MORE}, KILLS | MORE


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

    def injure(self, job: Job) -> Verdicts:
        """The verdict of each case; none if the injury could not be done."""
        chance = random.Random(f"{self.seed} {job}")
        for attempt in range(ATTEMPTS):
            home = self.folder / f"{list(INJURIES).index(job.injury)}-{job.number}-{attempt}"
            with closing(Case(home, job.recipe, chance, self.whole[job.recipe])) as case:
                case.number = job.number
                try:
                    return INJURIES[job.injury][1](case) or [SAME]
                except Missed:
                    continue
                except Skipped:
                    break
                except Exception as error:
                    return [f"{job.recipe}: {type(error).__name__}: {error}"]
        return []


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", default="", help="injuries whose name contains this")
    parser.add_argument("--table", choices=TABLES, help="only this table")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the injuries")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()

    jobs = [
        Job(injury, number, list(RECIPES)[(place + number) % len(RECIPES)])
        for place, (injury, (count, _)) in enumerate(INJURIES.items())
        for number in range(1 if args.quick else count)
        if args.only in injury and injury in TABLES.get(args.table, INJURIES)
    ]
    screen, started = Console(stderr=True), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="litcnn-faults-") as folder, ThreadPoolExecutor(args.jobs) as pool:
        harness = Harness(Path(folder), args.seed)
        recipes = sorted({job.recipe for job in jobs})
        list(track(pool.map(harness.leave_alone, recipes), "left alone", len(recipes), console=screen))
        found: dict[str, list[Verdicts]] = {job.injury: [] for job in jobs}
        for place, result in enumerate(track(pool.map(harness.injure, jobs), "injured", len(jobs), console=screen)):
            found[jobs[place].injury].append(result)
            for lost in {*result} - {SAME, REFUSAL}:
                screen.print(f"{jobs[place].injury}, {lost}", highlight=False, markup=False)

    minutes, all_lost = (time.monotonic() - started) / 60, 0
    facts = f"{describe(note=args.note)}; {minutes:.0f} minutes, seed {args.seed}, one thread a run."
    for table, injuries in TABLES.items():
        rows = []
        for injury, results in found.items():
            if injury in injuries:
                verdicts = [verdict for result in results for verdict in result]
                exact, refused, missed = verdicts.count(SAME), verdicts.count(REFUSAL), results.count([])
                lost = len(verdicts) - exact - refused
                all_lost += lost
                cases = f"{len(verdicts)}" + f" ({missed} could not be done)" * (missed > 0)
                rows.append((injury, cases, f"{exact}", f"{refused}", f"{lost}"))
        if rows:
            columns = ("injury", "cases", "exact", REFUSAL, "lost")
            publish(f"faults.py {table}", facts, columns, rows, args.write)
    sys.exit(all_lost > 0)


if __name__ == "__main__":
    main()
