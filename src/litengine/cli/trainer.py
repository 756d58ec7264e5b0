"""The verbs that the Trainer runs, fit, validate and test: LightningCLI, its defaults, and what each run gets."""

import inspect
import json
import logging
import os
import re
import sys
import uuid
import warnings
from argparse import ArgumentError
from argparse import ArgumentParser as PlainParser
from importlib import import_module
from inspect import isclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.markup import escape

from litengine import project, training
from litengine.cli import errors
from litengine.data import Source
from litengine.distributed import is_lost_process
from litengine.files import relative
from litengine.inference.safe_config import read_config
from litengine.loggers import CSVMetrics, Wandb
from litengine.network import build_network, worth_recording
from litengine.terminal import print_line
from litengine.training import run_directory
from litengine.training.checkpoint_files import CheckpointFiles, newest_intact
from litengine.training.launch import agree, check_size

VERBS = ("fit", "validate", "test")
TRAINER_DEFAULTS = {
    "max_epochs": 10,
    "logger": {"class_path": "litengine.loggers.Wandb"},
    "enable_model_summary": False,  # the first line says how many parameters there are
}
REPLACED_WHOLE = {"model.network", "data.source", "model.optimizer", "model.lr_scheduler"}
WHERE = ("project", "entity", "mode")  # settings of W&B that say where images go
RESUME_HELP = (
    "Go on with a run: `last` (the newest unfinished), `auto` (the same of this name, or a new run), or its path."
)


class Parser(LightningArgumentParser):
    """Knows which verb it parses, and tells what was wrong in one message."""

    def __init__(self, *args: Any, verb: str = "", **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # or `--trainer.max_epoch` would pass for max_epochs
        super().__init__(*args, **kwargs)
        self.verb = verb

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        self.verbs = super().add_subcommands(*args, **kwargs)
        return self.verbs

    def error(self, message: str, ex: Exception | None = None) -> Any:
        if not self.exit_on_error:  # a class inside a union: another of its types may fit yet
            super().error(message, ex)
        main = getattr(self, "parent_parser", self)
        errors.stop(errors.explain(message, main.args, main.verbs.choices))


class CLI(LightningCLI):
    """`fit`, `validate` and `test`, driven by YAML and flags."""

    def __init__(self, args: list[str]) -> None:
        self.args = args
        self.notes: list[str] = []
        # Lightning tells, over ten lines, what our first line says, and advertises its own tracker
        for library in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(library).setLevel(logging.WARNING)
        # its own use of what torch 2.15 deprecates, at every start
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
        warnings.filterwarnings("ignore", "The `srun` command is available")  # said wherever SLURM is installed
        super().__init__(
            project.model_class(),
            project.data_class(),
            save_config_callback=training.RecordConfig,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            parser_kwargs={verb: {"verb": verb} for verb in VERBS},
            parser_class=Parser,
            args=args,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {verb: skipped for verb, skipped in LightningCLI.subcommands().items() if verb in VERBS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str | None, help="Name of the run; by default that of the first config.")
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all run directories.")
        parser.add_argument("--trust", nargs="*", type=str, default=[], help="Packages that a checkpoint may name too.")
        parser.add_lightning_class_args(training.Checkpoints, "checkpoints")
        parser.add_lightning_class_args(training.CheckNumerics, "numerics")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        model, data = project.model_class(), project.data_class()
        defaults = {"model.network": model.default_network, "data.source": data.default_source}
        parser.set_defaults({key: {"class_path": path} for key, path in defaults.items() if path})
        # jsonargparse hands the default arguments of a class on to the class that replaces it, such as the widths of
        # the default network to another network that has widths
        parser.set_defaults(dict.fromkeys(errors.classes_given(self.args) & REPLACED_WHOLE))
        if getattr(parser, "verb", "") == "fit":
            parser.add_argument("--test_after_fit", type=bool, default=False, help="Test the best checkpoint at once.")
            parser.add_argument("--resume", type=str | None, help=RESUME_HELP)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # decided by the first of several processes: another may see an older state of a shared disk
        args = json.loads(agree("command line", lambda: json.dumps(with_what_is_remembered(args))))
        self.config = parser.parse_args(args)
        path = self.config[self.config.subcommand].ckpt_path
        if path and not any(arg.startswith("--ckpt_path") for arg in args):  # it stands in a config
            self.config = parser.parse_args(with_what_is_remembered([*args, "--ckpt_path", str(path)]))
        config = self.config[self.config.subcommand]
        for group in ("trainer", "model", "data"):  # jsonargparse lets a bare value pass for a group
            if not isinstance(config[group], Namespace):
                parser.error(f"{group} is {config[group]}, but must be a group of settings, as in {group}: {{…}}")
        if not config.ckpt_path and self.config.subcommand != "fit":
            parser.error(f"{self.config.subcommand} needs the checkpoint of a fit: add --ckpt_path best.ckpt")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if not config.ckpt_path:
            fit_network_to_data(config)
        # what a checkpoint records: the network must be built from that alone
        network: dict[str, Any] = worth_recording(config.model.network.as_dict())
        config.model.network = Namespace(**{**network, "init_args": Namespace(**network["init_args"])})
        if self.subcommand in ("test", "validate"):
            config.verbose = False  # Lightning's table of results; ours says the same, once
        self._adapt_to_cpu(config.trainer)
        self._choose_run_dir(config)

    def instantiate_classes(self) -> None:
        self._recorded = self.config
        self.config = self.config.clone()
        model = self.config[self.subcommand].model
        try:
            model.network = build_network(model.network.as_dict())
            super().instantiate_classes()
        except Exception:
            run_directory.discard_empty(Path(self.config[self.subcommand].trainer.default_root_dir))
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """The Trainer with what every run has: lines on the terminal, a report, a progress bar, and metrics.csv."""
        self.config = self._recorded  # with the network's settings in place of the network
        settings = self.config_init[self.subcommand]["trainer"]
        if re.search("fsdp|deepspeed|modelparallel", str(settings["strategy"]).lower()):
            raise ValueError(
                f"trainer.strategy {settings['strategy']} splits the weights over the processes, and checkpoints here "
                "hold whole weights: use --trainer.strategy ddp"
            )
        extra = [*_as_list(settings["callbacks"]), training.Console(self.notes), training.BatchPicture()]
        extra += [training.WriteReport(["python", "main.py", *self.args])]
        extra += [training.ExactResume(), training.StopOnSignal()]
        if settings["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in extra):
            extra.append(training.ProgressBar())
        loggers = []
        if self.subcommand == "fit":
            loggers = [*_as_list(settings["logger"]), CSVMetrics(settings["default_root_dir"])]
        elif self.subcommand == "test":  # the tracker of the run, so that it gets the report
            loggers = _as_list(settings["logger"])
        plugins = [*_as_list(settings["plugins"]), CheckpointFiles()]
        trainer = super().instantiate_trainer(callbacks=extra, logger=loggers, plugins=plugins, **kwargs)
        check_size(trainer.num_nodes, trainer.num_devices)
        return trainer

    def fit(self, **kwargs: Any) -> None:
        try:
            self.trainer.fit(**kwargs)
        except torch.OutOfMemoryError as error:
            raise ValueError(training.explain_out_of_memory(error, self.config.fit.data.batch_size)) from error
        except RuntimeError as error:
            if not is_lost_process(error):
                raise
            raise OSError(
                "another process of this run has ended or cannot be reached; its own words, or the log of its machine, "
                "say why. `fit --resume last` goes on from the last checkpoint"
            ) from error

    def after_fit(self) -> None:
        best = next(c for c in self.trainer.checkpoint_callbacks if isinstance(c, training.Checkpoints))
        if self.config.fit.test_after_fit and (path := best.best_path(self.trainer)):
            self.trainer.test(self.model, self.datamodule, ckpt_path=path, verbose=False)

    def _adapt_to_cpu(self, trainer: Namespace) -> None:
        """A recipe for GPUs runs on a CPU unchanged: what is for GPUs only gives way, and that is said."""
        gpu = CUDAAccelerator.is_available() or MPSAccelerator.is_available()
        if trainer.accelerator != "cpu" and (trainer.accelerator != "auto" or gpu):
            return
        if trainer.precision in ("16-mixed", "16", 16):
            given, trainer.precision = trainer.precision, "bf16-mixed" if multiplies_bf16() else "32-true"
            self.notes.append(f"{trainer.precision} in place of {given}, which is for GPUs")
        if trainer.sync_batchnorm:
            trainer.sync_batchnorm = False
            self.notes.append("no sync_batchnorm, which is for GPUs")

    def _choose_run_dir(self, config: Namespace) -> None:
        """A fit gets a new run directory; an evaluation writes into that of its checkpoint."""
        files = [Path(file.relative) for file in config.get("config") or [] if file is not None]
        config.name = config.name or (files[0].stem if files else config.data.source.class_path.split(".")[-1].lower())
        evaluated = run_directory.run_dir_of(config.ckpt_path) if self.subcommand != "fit" else None
        if not config.trainer.default_root_dir:
            config.trainer.default_root_dir = str(evaluated or run_directory.new_run_dir(config.runs, config.name))
        directory = Path(config.trainer.default_root_dir)
        for logger in _as_list(config.trainer.logger):
            arguments = logger.init_args
            # a tracker's own folder lies inside the run directory too
            if "save_dir" in arguments:
                arguments.save_dir = str(directory / arguments.save_dir)
            if "project" in arguments:  # in the config of the run, so that a resumed run continues the tracker's
                arguments.name = arguments.name or f"{config.name}/{directory.name}"
                arguments.id = arguments.id or os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]  # of a sweep


def run_verb(args: list[str]) -> None:
    """Runs a command line that begins with one of the verbs."""
    CLI(args)


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in hardware (Intel's AMX), some four times as fast as float32;
    where it does not, bfloat16 is several times slower."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


def with_what_is_remembered(args: list[str]) -> list[str]:
    """Puts what a checkpoint, or the run to resume, remembers in front of all other settings: flags and configs win."""
    parser = PlainParser(add_help=False, allow_abbrev=False)
    for option in ("--ckpt_path", "--resume", "--name", "--runs"):
        parser.add_argument(option, nargs="?")
    parser.add_argument("--config", "-c", action="append")
    parser.add_argument("--trust", nargs="*", default=[])
    given, others = parser.parse_known_args(args)
    verb, *rest = args or [""]
    if given.ckpt_path not in (None, "null"):
        remembered = read_config(given.ckpt_path, [project.package(), *given.trust])
        if verb == "test":
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
    place = ["--trainer.default_root_dir", str(directory), "--ckpt_path", str(newest.path or "null")]
    recorded = yaml.safe_load((directory / "config.yaml").read_text("utf-8"))
    return ["fit", "--config", json.dumps(project.renamed(recorded, [project.package()])), *rest, *place]


def tracker_of(directory: Path | None) -> Any:
    """The W&B logger with which a test continues the run of its checkpoint; False if there is none.

    Only name and id come from the config.yaml beside the checkpoint. It may be a stranger's: with its entity, project
    or mode, the images of the test would be uploaded to where the stranger says.
    """
    if directory is None:
        return False
    given = yaml.safe_load((directory / "config.yaml").read_text())["trainer"]["logger"]
    ours = [logger for logger in _as_list(given) if logger["class_path"] == "litengine.loggers.Wandb"]
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


def fit_network_to_data(config: Namespace) -> None:
    """Gives the network the number of classes, channels and pixels of the data, where it takes such arguments.

    Raises:
        ValueError: where the user asked for something else.
    """
    source = _build_source(config.data.source)
    source.prepare()
    channels, height, _ = source.image_shape
    facts = {"num_classes": len(source.class_names), "in_channels": channels, "image_size": height}
    arguments = config.model.network.get("init_args") or {}
    defaults = _default_arguments(config.model.network.class_path)
    for name in [name for name in facts if name in arguments]:
        if arguments[name] not in (facts[name], defaults.get(name)):
            raise ValueError(
                f"model.network.init_args.{name} is {arguments[name]}, but the data has {facts[name]}: leave it out, "
                "it follows the data"
            )
        arguments[name] = facts[name]


def _build_source(spec: Namespace) -> Source:
    parser = ArgumentParser()
    parser.add_subclass_arguments(Source, "source")
    source: Source = parser.instantiate(parser.parse_object({"source": spec})).source
    return source


def _default_arguments(network: str) -> dict[str, Any]:
    """What a network's arguments are where they are not given; nothing where that cannot be told."""
    module, _, name = network.rpartition(".")
    parser = ArgumentParser(exit_on_error=False)
    try:
        target = getattr(import_module(module), name)
        add: Any = parser.add_class_arguments if isclass(target) else parser.add_function_arguments
        add(target, fail_untyped=False)
        return dict(parser.get_defaults().items())
    except (ImportError, AttributeError, ValueError, ArgumentError):
        return {}


def _as_list(value: Any) -> list[Any]:
    """Trainer arguments that may be one, several, or switched on or off."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
