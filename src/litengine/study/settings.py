"""What every run of a study has in common, as fit understands it, and the record of it in the study directory."""

import json
import subprocess
from argparse import ArgumentParser
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from litengine.study import child
from litengine.study.options import Options
from litengine.training.run_directory import relative, write_whole

# Where and how a run is carried out and watched, which is no part of its result
FREE = ("name", "runs", "trust", "test_after_fit", "resume", "ckpt_path")
FREE_OF_TRAINER = ("accelerator", "devices", "num_nodes", "strategy", "logger")
SHOWN = 4


def resolve(fit: list[str]) -> dict[str, Any]:
    """All settings that the options `fit` lead to, by asking fit itself.

    Raises:
        ValueError: where fit does not take them; the message is fit's.
    """
    import rich

    with rich.get_console().status("checking the settings"):
        asked = subprocess.run(
            [*child.PROGRAM, "fit", *fit, "--print_config"], env=child.environment(), capture_output=True, text=True
        )
    if asked.returncode:
        raise ValueError(child.reason(asked.stderr, asked.returncode) + _meant(fit))
    settings: dict[str, Any] = yaml.safe_load(asked.stdout)
    return settings


def directory_of(options: Options, settings: dict[str, Any], what: str) -> Path:
    """Where the study lies: named by --name, or after the first config and `what` is varied."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    configs = [path for path in parser.parse_known_args(options.fit)[0].config if not path.startswith("{")]
    base = Path(configs[0]).stem if configs else settings["data"]["source"]["class_path"].split(".")[-1].lower()
    return Path(options.runs).absolute() / (options.name or f"{base}-{what}")


def record(directory: Path, what: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes `study.json`, or compares with the one that is there: all runs of a study are of one kind.

    Args:
        directory: of the study.
        what: what is varied, as plain data.
        settings: those that every run shares.

    Raises:
        ValueError: where the study that was begun here is another one.
    """
    now = recordable(what, settings)
    path = directory / "study.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{relative(path)} is damaged ({error}): choose another --name") from error
        if different := differences(before, now):
            raise ValueError(
                f"{relative(directory)} holds a study with other settings: {different}; go on with those, or choose "
                "another --name"
            )
    else:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(now, indent=1) + "\n")


def recordable(what: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What makes a study the same study, as JSON gives it back."""
    kept = {key: value for key, value in settings.items() if key not in FREE}
    kept["trainer"] = {key: value for key, value in settings["trainer"].items() if key not in FREE_OF_TRAINER}
    plain: dict[str, Any] = json.loads(json.dumps({**what, "settings": kept}))
    return plain


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first few settings in which two records differ; nothing where they are the same."""
    old, new = dict(_flat(before)), dict(_flat(now))
    different = [key for key in {**old, **new} if old.get(key, KeyError) != new.get(key, KeyError)]
    told = [
        f"{key.removeprefix('settings.')} was {_written(old, key)}, is now {_written(new, key)}"
        for key in different[:SHOWN]
    ]
    return ", ".join(told) + (f", and {len(different) - SHOWN} more" if len(different) > SHOWN else "")


def _meant(fit: list[str]) -> str:
    """An option of the study that is near to one that fit got."""
    own = [f"--{name}" for name in Options._fields if name != "fit"]
    near = [match for given in fit for match in get_close_matches(given.partition("=")[0], own, 1, cutoff=0.8)]
    return f" (study has {near[0]})" if near else ""


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _written(settings: dict[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not there"
