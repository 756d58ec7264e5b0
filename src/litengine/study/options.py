"""The command line of `study`."""

import argparse
import re
from collections.abc import Callable
from typing import NoReturn

import yaml

EPILOG = """\
All other options and configs are those of fit, and every run gets them (main.py fit --help).

  main.py study --config configs/digits.yaml --folds 5
  main.py study --config configs/digits.yaml --seeds 0..4 --test true
  main.py study --config configs/digits.yaml --space configs/sweep.yaml --trials 20 --workers 2

The same command continues a study that was stopped. Results: runs/NAME/study.csv and study.png.
"""

# Options of fit that a study sets itself
REFUSED = {
    "resume": "the same command again continues a study",
    "ckpt_path": "every run of a study starts from scratch",
    "print_config": "`fit` prints the settings",
    "test_after_fit": "a study has --test true",
    "trainer.default_root_dir": "every run has its own directory under --runs",
}


class Options(argparse.Namespace):
    """Exactly one of `folds`, `seeds` and `space` is given. `fit` holds the options of fit in their order."""

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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)  # the command line prints it without the usage


def parse(args: list[str]) -> Options:
    """Parses the command line without the verb.

    Raises:
        ValueError: for options that are wrong, missing, or exclude each other.
    """
    parser = _Parser(
        prog="main.py study",
        usage="main.py study --config CONFIG (--folds N | --seeds A..B | --space FILE --trials N) [options of fit]",
        description="Train many times and vary one thing: the validation images, the seed, or settings to find the "
        "best.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    varied = parser.add_mutually_exclusive_group(required=True)
    varied.add_argument("--folds", type=_at_least(2), metavar="N", help="Cross-validation with N folds.")
    varied.add_argument("--seeds", type=parse_seeds, metavar="A..B", help="One run per seed: 0..4, or 0,3,7.")
    varied.add_argument("--space", metavar="FILE", help="Search: the settings to try, such as configs/sweep.yaml.")
    parser.add_argument("--trials", type=_at_least(1), metavar="N", help="Runs of the search, finished ones included.")
    storage = "Shares a search between machines: sqlite:///FILE, postgresql://…, or journal:FILE on a network disk."
    parser.add_argument("--storage", metavar="URL", help=f"{storage} Default: optuna.db in the study's directory.")
    parser.add_argument("--workers", type=_at_least(1), default=1, metavar="N", help="Runs at the same time (1).")
    parser.add_argument("--name", help="Name of the study; by default made from the config's name.")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="Folder of all run directories (runs).")
    test = "Also test: every run with folds and seeds, only the best trial of a search (false)."
    parser.add_argument(
        "--test", nargs="?", type=yaml.safe_load, choices=(True, False), const=True, default=False, help=test
    )
    options = Options()
    options.fit = parser.parse_known_args(args, options)[1]
    for name in ("trials", "storage"):
        if options.space is None and getattr(options, name) is not None:
            raise ValueError(f"--{name} belongs to a search: add --space configs/sweep.yaml, or leave it out")
    refused = dict(REFUSED)
    if options.folds is not None:
        refused |= dict.fromkeys(("data.folds", "data.fold"), "--folds varies it")
    if options.seeds is not None:
        refused["seed_everything"] = "--seeds varies it"
    for option in option_names(options.fit):
        if option in refused:
            raise ValueError(f"--{option} is not for a study ({refused[option]}): leave it out")
    return options


def option_names(args: list[str]) -> list[str]:
    """The names of the options in a command line, without dashes, values and the + that appends."""
    return [arg.lstrip("-").partition("=")[0].rstrip("+") for arg in args if arg.startswith("--")]


def parse_seeds(text: str) -> list[int]:
    """Parses `0..4`, `0,3,7`, or both as in `0..2,7`; raises argparse.ArgumentTypeError."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", part)
        if not match:
            raise argparse.ArgumentTypeError(f"{text!r}: give numbers of 0 or more, as in 0..4 or 0,3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise argparse.ArgumentTypeError(f"{text!r}: {first}..{last} descends, did you mean {last}..{first}?")
        seeds += range(first, last + 1)
    if len(seeds) > len({*seeds}):
        raise argparse.ArgumentTypeError(f"{text!r}: a seed that is repeated would only repeat its run")
    return seeds


def _at_least(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of {least} or more")
        return int(text)

    return whole_number
