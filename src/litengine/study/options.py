"""The command line of `study`: its own options, and those that it passes on to `fit`."""

import argparse
import re
from argparse import ArgumentParser
from typing import NamedTuple, NoReturn

EPILOG = """\
All other options and configs are those of fit, and every run gets them (main.py fit --help).

  main.py study --config configs/digits.yaml --folds 5
  main.py study --config configs/digits.yaml --seeds 0..4 --test true
  main.py study --config configs/digits.yaml --space configs/sweep.yaml --trials 20 --workers 2

A study that was stopped goes on with the same command. What it found: runs/NAME/study.csv and study.png.
"""

# Options of fit that a study answers itself
TAKEN = {
    "resume": "a study goes on by itself: the same command again",
    "ckpt_path": "every run of a study starts from scratch",
    "print_config": "`fit` prints the settings",
    "test_after_fit": "a study has --test true",
    "trainer.default_root_dir": "every run of a study has a directory of its own; the folder of all is --runs",
}


class Options(NamedTuple):
    """What was asked for. Exactly one of `folds`, `seeds` and `space` is given; `trials` goes with `space`.

    `fit` are the options of fit, as they were given.
    """

    folds: int | None
    seeds: list[int] | None
    space: str | None
    trials: int | None
    storage: str | None
    workers: int
    name: str | None
    runs: str
    test: bool
    fit: list[str]


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)  # told by the front door, without the usage


def make_parser() -> ArgumentParser:
    parser = _Parser(
        prog="main.py study",
        usage="main.py study --config CONFIG (--folds N | --seeds A..B | --space FILE --trials N) [options of fit]",
        description="Train many times and vary one thing: the validation images, the seed, or settings in search of "
        "the best.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--folds", type=int, metavar="N", help="Cross-validation: hold out each Nth of the images once."
    )
    parser.add_argument("--seeds", metavar="A..B", help="One run a seed: 0..4, or 0,3,7.")
    parser.add_argument("--space", metavar="FILE", help="Search: the settings to try, such as configs/sweep.yaml.")
    parser.add_argument("--trials", type=int, metavar="N", help="Runs of the search, those done before included.")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="Where machines share a search: a database such as sqlite:///search.db or postgresql://…, or "
        "journal:FILE on a network disk. By default optuna.db in the directory of the study.",
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="Runs at the same time (1).")
    parser.add_argument("--name", help="Name of the study; by default made from that of the config.")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="Folder of all run directories (runs).")
    parser.add_argument(
        "--test",
        nargs="?",
        const="true",
        default="false",
        choices=["true", "false"],
        help="Read the test set: every run is tested; of a search only the best (false).",
    )
    return parser


def parse(args: list[str]) -> Options:
    """Takes `args` (without the verb) apart.

    Raises:
        ValueError: for options that are wrong, missing, or exclude each other.
    """
    known, fit = make_parser().parse_known_args(args)
    given = [f"--{name}" for name in ("folds", "seeds", "space") if getattr(known, name) is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} exclude each other" if given else "say what to vary"
        raise ValueError(f"{what}: give one of --folds 5, --seeds 0..4, --space configs/sweep.yaml")
    for name in ("trials", "storage"):
        if known.space is None and getattr(known, name) is not None:
            raise ValueError(f"--{name} belongs to a search: add --space configs/sweep.yaml, or leave it out")
    if known.space is not None and known.trials is None:
        raise ValueError("say how many runs the search has: --trials 20")
    for name, least in {"folds": 2, "trials": 1, "workers": 1}.items():
        value = getattr(known, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}: {least} or more is needed")
    refused = dict(TAKEN)
    if known.folds is not None:
        refused |= dict.fromkeys(("data.folds", "data.fold"), "--folds varies it")
    if known.seeds is not None:
        refused["seed_everything"] = "--seeds varies it"
    for option in options_in(fit):
        if option in refused:
            raise ValueError(f"--{option} is not for a study ({refused[option]}): leave it out")
    seeds = None if known.seeds is None else parse_seeds(known.seeds)
    return Options(**{**vars(known), "seeds": seeds, "test": known.test == "true"}, fit=fit)


def options_in(args: list[str]) -> list[str]:
    """The names of the options in a command line, without dashes, values and the + that appends."""
    return [arg.lstrip("-").partition("=")[0].rstrip("+") for arg in args if arg.startswith("--")]


def parse_seeds(text: str) -> list[int]:
    """`0..4` or `0,3,7`, or both: `0..2,7`.

    Raises:
        ValueError: for anything else, for a range that is upside down, for a seed that comes twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", part)
        if not match:
            raise ValueError(f"--seeds is {text}: give numbers of 0 or more, as in 0..4 or 0,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError(f"--seeds is {text}: {first}..{last} is upside down, did you mean {last}..{first}?")
        seeds += range(first, last + 1)
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"--seeds is {text}: seed {twice[0]} comes more than once, and would give the same run again")
    return seeds
