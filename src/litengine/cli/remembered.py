"""What a command line gets from the checkpoint or the run that it names."""

import inspect
import json
import re
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape

from litengine import project
from litengine.data.sources.pixels import Reading
from litengine.files import relative
from litengine.inference.predictor import checkpoints_in
from litengine.inference.safe_config import check_size, read_config
from litengine.loggers import Wandb
from litengine.network import is_spec
from litengine.terminal import print_line
from litengine.training import run_directory
from litengine.training.checkpoint_files import newest_intact, read


def with_what_is_remembered(args: list[str]) -> tuple[list[str], list[str]]:
    """Puts what a checkpoint, or the run to resume, remembers in front of all other settings: flags and configs win.

    Returns:
        The command line, with one checkpoint; the other checkpoints of a test, which averages them.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--ckpt_path", nargs="*", default=[])
    rest = parser.parse_known_args(args[1:])[1]
    parser.add_argument("--config", action="append")
    parser.add_argument("--trust", nargs="*", default=[])
    for option in ("--resume", "--name", "--runs", "--images"):
        parser.add_argument(option, nargs="?")
    given, others = parser.parse_known_args(args[1:])
    verb, paths = args[0], [path for path in given.ckpt_path if path != "null"]
    if verb == "test":
        paths = [str(file) for path in paths for file in checkpoints_in(Path(path))]
    elif len(paths) > 1:
        raise ValueError(f"{verb} takes one checkpoint, not {', '.join(paths)}: test and predict average several")
    if paths:
        recorded, source = _of_checkpoints(verb, paths, given.trust, given.images)
        return [verb, "--config", json.dumps(recorded), *rest, *source, "--ckpt_path", paths[0]], paths[1:]
    if verb == "fit" and given.resume not in (None, "null"):
        name = given.name or (Path(given.config[0]).stem if given.config else None)
        directory = run_directory.find(given.resume, given.runs or "runs", name)
        return (_continued(args, directory, longer=bool(others)) if directory else args), []
    return args, []


def _of_checkpoints(verb: str, paths: list[str], trust: list[str], images: str | None) -> tuple[Any, list[str]]:
    """The config of the first checkpoint; the option for `images`, all of a folder of class folders, in the size of
    the checkpoint's images, read as those were."""
    recorded = read_config(paths[0], [project.package(), *trust])
    if verb != "fit":
        directory = run_directory.run_dir_of(paths[0]) if len(paths) == 1 else None
        recorded["trainer"] = {"logger": tracker_of(directory) if directory else False}
    if not images:
        return recorded, []
    facts = read(paths[0])["data"]
    arguments = {"root": images, "test_fraction": 1, "image_size": facts["image_shape"][1:]}
    arguments |= asdict(Reading(**facts.get("reading", {})))
    source = {"class_path": "litengine.data.ImageFolder", "init_args": arguments}
    return recorded, ["--data.source", json.dumps(source)]


def _continued(args: list[str], directory: Path, longer: bool) -> list[str]:
    """The command line of a fit that resumes a run. Ends the program if the run is finished, unless it may be `longer`
    with new settings."""
    if run_directory.read_state(directory) == "finished" and not longer:
        print_line(
            f"{relative(directory)} is finished: to train longer, raise its limit, as in --trainer.max_epochs 100"
        )
        sys.exit(0)
    newest = newest_intact(directory / "checkpoints")
    for damage in newest.skipped:
        print_line(f"skipped: {damage}")
    if newest.path is None and newest.skipped:
        raise ValueError(f"no checkpoint of {relative(directory)} is intact: start the run anew, without --resume")
    place = ["--resume", str(directory), "--trainer.default_root_dir", str(directory)]
    if newest.path is None:
        print_line(f"{relative(directory)} ended before its first checkpoint: it starts again from its own config")
    else:
        place += ["--ckpt_path", str(newest.path)]
    remedy = "give its settings once more in a new run that begins with --ckpt_path"
    recorded = _config_of(directory, f"{remedy} {relative(directory)}/checkpoints/last.ckpt")
    return ["fit", "--config", json.dumps(recorded), *args[1:], *place]


def _config_of(directory: Path, remedy: str) -> Any:
    """The config that a run recorded, with the present name of the project's package."""
    path = directory / run_directory.CONFIG
    try:
        recorded = run_directory.read_config(directory)
        check_size(recorded)  # aliases make many values of a few
        recorded["trainer"]["logger"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{relative(path)} is missing or damaged ({reason}): {remedy}") from error
    return project.renamed(recorded, [project.package()])


def tracker_of(directory: Path) -> Any:
    """The W&B logger with which a test continues the run of its checkpoint; False if there is none.

    Only name and id come from the config.yaml beside the checkpoint. It may be a stranger's: with its entity, project
    or mode, the images of the test would be uploaded to where the stranger says.
    """
    try:
        recorded = _config_of(directory, "the W&B run of the fit, if there is one, does not get the results")
    except ValueError as error:
        print_line(escape(str(error)))
        return False
    wandb = "litengine.loggers.Wandb"
    specs = [each for each in as_list(recorded["trainer"]["logger"]) if is_spec(each) and each["class_path"] == wandb]
    if not specs:
        return False
    settings = given if isinstance(given := specs[0].get("init_args"), dict) else {}
    kept = {key: str(settings[key]) for key in ("name", "id") if settings.get(key)}
    if not re.fullmatch(r"[\w-]+", kept.get("id", "")):
        kept.pop("id", None)
    usual = inspect.signature(Wandb).parameters
    where = [
        key for key in ("project", "entity", "mode") if settings.get(key, usual[key].default) != usual[key].default
    ]
    if where:
        ignored = f"W&B's {', '.join(where)} in {relative(directory / run_directory.CONFIG)} is not used"
        print_line(escape(f"{ignored}: if the run is yours, give it by a flag"))
    return [{"class_path": wandb, "init_args": kept}]


def as_list(value: Any) -> list[Any]:
    """A Trainer argument that may be one, several, or switched on or off."""
    if isinstance(value, list | tuple):
        return list(value)
    return [] if value is None or isinstance(value, bool) else [value]
