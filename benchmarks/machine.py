"""What every benchmark here needs: two sides measured in turns, the machine in one line, a table in a page."""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- written by benchmarks/{} -->", "<!-- end -->"

T = TypeVar("T")


def arguments(documentation: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """The options that all scripts have; --rounds only where there is a number of them."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds, help="each side is measured once in every round")
    parser.add_argument("--quick", action="store_true", help="one round of next to nothing: shows that it runs")
    parser.add_argument("--write", type=absolute, metavar="PAGE", help="a Markdown page that gets the table")
    parser.add_argument("--note", help="what else the reader must know of the machine, such as other work on it")
    return parser


def absolute(path: str) -> Path:
    """Before the script goes to a working directory of its own."""
    return Path(path).absolute()


def alternate(what: str, sides: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each side gives in each round. Sides take turns, every round in the reverse order of the last: what else the
    machine does, and how warm it is, meets all of them alike."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(rounds):
        print(f"{what}: round {number + 1} of {rounds}", file=sys.stderr)  # no bar, whose thread would be measured too
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            found[name].append(sides[name]())
    return found


def middle(values: Sequence[float], form: str, unit: str = "") -> str:
    """The median, with the least and the most, each written as `form` says: "{:.1f}"."""
    return f"{form}{unit and ' '}{unit} ({form} to {form})".format(median(values), min(values), max(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratio of the medians, with the least and the most of those of single rounds."""
    single = [a / b for a, b in zip(ours, theirs, strict=True)]
    medians, least, most = (
        f"{value:.2f}" if value > 0.1 else f"{value:.2g}"
        for value in (median(ours) / median(theirs), min(single), max(single))
    )
    return f"**{medians}** ({least} to {most})"


def describe(device: str = "cpu", note: str | None = None) -> str:
    """When, with what and where something was measured."""
    # the cores this process may run on can be fewer than there are
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    versions = [f"{package} {version(package)}" for package in ("torch", "lightning", "wandb")]
    parts = [
        f"{datetime.now():%Y-%m-%d}",
        f"commit {commit}",
        torch.cuda.get_device_name() if device == "cuda" else f"CPU ({processor()})",
        f"{usable} of {os.cpu_count()} cores",
        *([note] if note else []),
        platform.system(),
        f"Python {platform.python_version()}",
        *versions,
    ]
    return ", ".join(parts)


def processor() -> str:
    """Its name, as far as the system tells."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def publish(
    name: str, facts: str, columns: Sequence[str], rows: Iterable[Sequence[str]], page: Path | None = None
) -> None:
    """Prints a table in Markdown under its facts; where a page is given, puts both between its markers of that name.

    Raises:
        ValueError: where the page has no such markers.
    """
    ruler = ["---", *["--:"] * (len(columns) - 1)]
    text = "\n".join([facts, "", *(f"| {' | '.join(cells)} |" for cells in (columns, ruler, *rows))])
    print(text, end="\n\n", flush=True)
    if page is None:
        return
    content, begin = page.read_text(), BEGIN.format(name)
    if begin not in content or END not in content[content.index(begin) :]:
        raise ValueError(f"{page} has no place for this table: give it a line {begin} and after it {END}")
    start = content.index(begin) + len(begin)
    page.write_text(f"{content[:start]}\n{text}\n{content[content.index(END, start) :]}")
