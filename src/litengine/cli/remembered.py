"""What a command line gets from the checkpoint or the run that it names."""

import inspect
import json
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape

from litengine import project
from litengine.files import relative
from litengine.inference.safe_config import check_size, read_config
from litengine.loggers import Wandb
from litengine.terminal import print_line
from litengine.training import run_directory
from litengine.training.checkpoint_files import newest_intact, read

WHERE = ("project", "entity", "mode")  # settings of W&B that say where images go


def with_what_is_remembered(args: list[str]) -> list[str]:
    """Puts what a checkpoint, or the run to resume, remembers in front of all other settings: flags and configs win."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--ckpt_path", "--resume", "--name", "--runs"):
        parser.add_argument(option, nargs="?")
    parser.add_argument("--config", "-c", action="append")
    parser.add_argument("--trust", nargs="*", default=[])
    given, others = parser.parse_known_args(args)
    verb, *rest = args or [""]
    if given.ckpt_path not in (None, "null"):
        remembered = read_config(given.ckpt_path, [project.package(), *given.trust])
        if verb in ("test", "validate"):
            remembered["trainer"] = {"logger": tracker_of(run_directory.run_dir_of(given.ckpt_path))}
        return [verb, "--config", json.dumps(remembered), *rest]
    if verb != "fit" or given.resume in (None, "null"):
        return args
    name = given.name or (Path(given.config[0]).stem if given.config else None)
    directory = run_directory.find(given.resume, given.runs or "runs", name)
    if directory is None:
        return args
    if run_directory.read_state(directory) == "finished" and others == ["fit"]:
        print_line(f"{relative(directory)} is finished: to go on, give it more, as in --trainer.max_epochs 100")
        sys.exit(0)
    newest = newest_intact(directory / "checkpoints")
    for damage in newest.skipped:
        print_line(f"passed over: {damage}")
    if newest.path is None and newest.skipped:
        raise ValueError(f"no checkpoint of {relative(directory)} is intact: start the run anew, without --resume")
    place = ["--resume", str(directory), "--trainer.default_root_dir", str(directory)]
    if newest.path is None:
        print_line(f"{relative(directory)} ended before its first checkpoint: it starts again from its own config")
    else:
        place += ["--ckpt_path", str(newest.path)]
    return ["fit", "--config", json.dumps(_config_of(directory)), *rest, *place]


def with_labelled_folder(args: list[str]) -> list[str]:
    """Replaces `test --images FOLDER` by the source that takes all images of a folder of class folders for the test, in
    the size of the checkpoint's images, read as those were."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--images")
    parser.add_argument("--ckpt_path", default="")
    given, others = parser.parse_known_args(args)
    if args[0] != "test" or not given.images or not given.ckpt_path:
        return args
    from litengine.data.sources.pixels import Reading

    facts = read(given.ckpt_path)["data"]
    reading = asdict(Reading(**facts.get("reading", {})))
    source = {"root": given.images, "test_fraction": 1, "image_size": facts["image_shape"][1], **reading}
    values = [f"--data.source.init_args.{name}={value}" for name, value in source.items() if value is not None]
    return [*others, "--ckpt_path", given.ckpt_path, "--data.source=litengine.data.ImageFolder", *values]


def _config_of(directory: Path) -> Any:
    """The config that a run recorded, with the present name of the project's package."""
    path = directory / run_directory.CONFIG
    try:
        recorded = yaml.safe_load(path.read_text("utf-8"))
        check_size(recorded)  # aliases make many values of a few
        recorded["trainer"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(
            f"{relative(path)} is missing or damaged ({str(error).partition(chr(10))[0]}): give its settings once more "
            f"in a new run that begins with --ckpt_path {relative(directory)}/checkpoints/last.ckpt"
        ) from error
    return project.renamed(recorded, [project.package()])


def tracker_of(directory: Path | None) -> Any:
    """The W&B logger with which a test continues the run of its checkpoint; False if there is none.

    Only name and id come from the config.yaml beside the checkpoint. It may be a stranger's: with its entity, project
    or mode, the images of the test would be uploaded to where the stranger says.
    """
    if directory is None:
        return False
    given = _config_of(directory)["trainer"]["logger"]
    ours = [logger for logger in as_list(given) if logger["class_path"] == "litengine.loggers.Wandb"]
    for logger in ours:
        settings = logger.get("init_args") or {}
        logger["init_args"] = {key: str(settings[key]) for key in ("name", "id") if settings.get(key)}
        usual = {key: parameter.default for key, parameter in inspect.signature(Wandb).parameters.items()}
        if ignored := [f"{key} {settings[key]}" for key in WHERE if settings.get(key, usual[key]) != usual[key]]:
            config = relative(directory / "config.yaml")
            print_line(
                escape(f"W&B's {', '.join(ignored)} in {config} is not used: if the run is yours, give it by a flag")
            )
    return ours or False


def as_list(value: Any) -> list[Any]:
    """A Trainer argument that may be one, several, or switched on or off."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
