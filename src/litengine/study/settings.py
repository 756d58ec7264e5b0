"""The settings that all runs of a study share, and the check that a study continues with the same ones."""

import argparse
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from litengine import project
from litengine.files import relative, write_whole
from litengine.study import child
from litengine.study.options import Options

# Settings that may differ when a study continues: they do not change results
FREE = ("name", "runs", "trust", "test_after_fit", "resume", "ckpt_path")
FREE_OF_TRAINER = ("accelerator", "devices", "num_nodes", "strategy", "logger")
SHOWN = 4  # differences in a message


def resolve(fit: list[str]) -> dict[str, Any]:
    """All settings that the options `fit` give, as `fit --print_config` prints them; a ValueError if fit refuses."""
    import rich

    command = [*project.command(), "fit", *fit, "--print_config"]
    with rich.get_console().status("checking the settings"):
        done = subprocess.run(command, env=child.environment(), capture_output=True, text=True)
    if done.returncode:
        raise ValueError(child.reason(done.stderr, done.returncode))
    settings: dict[str, Any] = yaml.safe_load(done.stdout)
    return settings


def directory_of(options: Options, settings: dict[str, Any], varied: str) -> Path:
    """The study's directory: `--name`, or the stem of the first config and what is varied."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    configs = [path for path in parser.parse_known_args(options.fit)[0].config if not path.startswith("{")]
    base = Path(configs[0]).stem if configs else settings["data"]["source"]["class_path"].rpartition(".")[2].lower()
    return Path(options.runs).absolute() / (options.name or f"{base}-{varied}")


def record(directory: Path, now: dict[str, Any]) -> None:
    """Writes `study.json`; if it exists, raises a ValueError unless it has the same settings."""
    path = directory / "study.json"
    if not path.is_file():
        write_whole(path, json.dumps(now, indent=1) + "\n")
        return
    try:
        before = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{relative(path)} is damaged ({error}): choose another --name") from error
    check_same(before, now, relative(directory))


def recordable(varied: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that must stay the same, as plain JSON data."""
    kept = {key: value for key, value in settings.items() if key not in FREE}
    kept["trainer"] = {key: value for key, value in settings["trainer"].items() if key not in FREE_OF_TRAINER}
    plain: dict[str, Any] = json.loads(json.dumps({**varied, "settings": kept}))
    return plain


def check_same(before: dict[str, Any], now: dict[str, Any], where: str) -> None:
    """Raises a ValueError that names the first differences of two records."""
    old, new = dict(_flat(before)), dict(_flat(now))
    keys = [key for key in {**old, **new} if old.get(key, "not set") != new.get(key, "not set")]
    if not keys:
        return
    changes = ", ".join(
        f"{key.removeprefix('settings.')} was {old.get(key, 'not set')}, is now {new.get(key, 'not set')}"
        for key in keys[:SHOWN]
    )
    more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    raise ValueError(
        f"{where} holds a study with other settings: {changes}{more}; use those settings, or choose another --name"
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys, and values as JSON."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)
