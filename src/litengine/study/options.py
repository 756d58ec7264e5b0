"""The command line of `study`, and the settings of fit that all runs of a study share."""

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import rich
import yaml

from litengine import project
from litengine.study import child

EPILOG = """\
All other options and configs are those of fit, and every run gets them (main.py fit --help).

  main.py study --config configs/digits.yaml --folds 5
  main.py study --config configs/digits.yaml --seeds 0..4 --test true
  main.py study --config configs/digits.yaml --space configs/sweep.yaml --trials 20 --workers 2

The same command continues a study that was stopped. Results: runs/NAME/study.csv and study.png.
"""
# Settings that may differ when a study continues: they do not change results
FREE = re.compile(
    r"settings\.(name|runs|trust|test_after_fit|resume|ckpt_path|trainer\.(accelerator|devices|num_nodes|strategy|logger))\b"
)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)  # the command line prints it without the usage


def parse(args: list[str]) -> argparse.Namespace:
    """Parses the command line without the verb. Exactly one of `folds`, `seeds` and `space` is given; `fit` holds the
    options of fit in their order. Raises a ValueError for options that are wrong, missing, or exclude each other."""
    parser = Parser(
        prog="main.py study",
        usage="main.py study --config CONFIG (--folds N | --seeds A..B | --space FILE --trials N) [options of fit]",
        description="Train many times and vary one thing: validation images, seed, or settings to find the best.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    varied = parser.add_mutually_exclusive_group(required=True)
    varied.add_argument("--folds", type=int, metavar="N", help="Cross-validation with N folds.")
    varied.add_argument("--seeds", type=parse_seeds, metavar="A..B", help="One run per seed: 0..4, or 0,3,7.")
    varied.add_argument("--space", metavar="FILE", help="Search: the settings to try, such as configs/sweep.yaml.")
    add = parser.add_argument
    add("--trials", type=int, metavar="N", help="Runs of the search, finished ones included.")
    add("--workers", type=int, default=1, metavar="N", help="Runs at the same time (1).")
    add("--name", help="Name of the study; by default made from the config's name.")
    add("--runs", default="runs", metavar="DIR", help="Folder of all run directories (runs).")
    test = "Also test: every run with folds and seeds, only the best trial of a search (false)."
    add("--test", nargs="?", type=yaml.safe_load, choices=(True, False), const=True, default=False, help=test)
    options, fit = parser.parse_known_args(args)
    options.fit = fit
    for name, least in {"folds": 2, "trials": 1, "workers": 1}.items():
        if (number := getattr(options, name)) is not None and number < least:
            raise ValueError(f"--{name} is {number}: give a whole number of {least} or more")
    if options.space is None and options.trials:
        raise ValueError("--trials belongs to a search: add --space configs/sweep.yaml, or omit it")
    own = {"resume", "ckpt_path", "print_config", "test_after_fit", "trainer.default_root_dir"}
    if options.folds:
        own |= {"data.folds", "data.fold"}
    if options.seeds:
        own |= {"seed_everything"}
    if refused := own & {*option_names(options.fit)}:
        raise ValueError(f"--{refused.pop()} is not an option of this study, which sets it for each run: leave it out")
    return options


def option_names(args: list[str]) -> list[str]:
    """The names of the options in a command line, without dashes, values and the + that appends."""
    return [arg.lstrip("-").partition("=")[0].rstrip("+") for arg in args if arg.startswith("--")]


def parse_seeds(text: str) -> list[int]:
    """Parses `0..4`, `0,3,7`, or both as in `0..2,7`; raises argparse.ArgumentTypeError."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", part)
        found = range(int(match[1]), int(match[2] or match[1]) + 1) if match else ()
        if not found or {*found} & {*seeds}:
            raise argparse.ArgumentTypeError(f"{text!r}: give different numbers of 0 or more, as in 0..4 or 0,3,7")
        seeds += found
    return seeds


def resolve(fit: list[str]) -> dict[str, Any]:
    """All settings that the options `fit` give, as `fit --print_config` prints them; a ValueError if fit refuses."""
    command = [*project.command(), "fit", *fit, "--print_config"]
    with rich.get_console().status("checking the settings"):
        done = subprocess.run(command, env=child.environment(), capture_output=True, text=True)
    if done.returncode:
        raise ValueError(child.reason(done.stderr, done.returncode))
    settings: dict[str, Any] = yaml.safe_load(done.stdout)
    return settings


def directory_of(options: argparse.Namespace, settings: dict[str, Any], varied: str) -> Path:
    """The study's directory: `--name`, or the stem of the first config and what is varied."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    configs = [path for path in parser.parse_known_args(options.fit)[0].config if not path.startswith("{")]
    base = Path(configs[0]).stem if configs else settings["data"]["source"]["class_path"].rpartition(".")[2].lower()
    return Path(options.runs).absolute() / (options.name or f"{base}-{varied}")


def check_same(before: dict[str, Any], now: dict[str, Any], where: str) -> None:
    """Compares two records, `settings` and what is varied. Raises a ValueError that names the first differences."""
    old, new = dict(_flat(before)), dict(_flat(now))
    changes = [
        f"{key.removeprefix('settings.')} was {old.get(key, 'not set')}, is now {new.get(key, 'not set')}"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and not FREE.match(key)
    ]
    if changes:
        shown = ", ".join(changes[:4] + [f"and {len(changes) - 4} more"] * (len(changes) > 4))
        raise ValueError(
            f"{where} holds a study with other settings: {shown}; use those settings, or choose another --name"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys, and values as JSON."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)
