"""The verbs that the Trainer runs, fit, validate and test: LightningCLI, its defaults, and what each run gets."""

import json
import logging
import os
import re
import secrets
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from litengine import project, training
from litengine.cli import errors
from litengine.cli.remembered import as_list, with_labelled_folder, with_what_is_remembered
from litengine.cli.settings import Settings, configs_first, defaults_of, full_path, plain
from litengine.data import Source
from litengine.distributed import is_lost_process
from litengine.inference.safe_config import check_can_be_read
from litengine.loggers import CSVMetrics
from litengine.network import accept_function, build_network, facts_taken, pretrained_weights, worth_recording
from litengine.terminal import print_line
from litengine.training import run_directory
from litengine.training.checkpoint_files import CheckpointFiles
from litengine.training.config_record import RECORDED
from litengine.training.initial_weights import copy_fitting
from litengine.training.launch import agree, cluster

TRAINER_DEFAULTS = {
    "max_epochs": 10,
    "logger": {"class_path": "litengine.loggers.Wandb"},
    "enable_model_summary": False,  # the first line says how many parameters there are
}
EPILOG = (
    "A flag may leave out init_args (--model.network.dropout 0.2), and all but the last name if no other setting ends "
    "with it (--dropout 0.2, --lr, --epochs). Of a list, a flag changes the last item: --data.augment.padding 4. "
    "Configs may use ${VARIABLES} of the environment. Flags win over configs, later configs over earlier ones."
)
RESUME_HELP = (
    "Go on with a run: `last` (the newest unfinished), `auto` (the same of this name, or a new run), or its path."
)


NO_EFFECT = {  # arguments of the Trainer that change nothing here
    "limit_predict_batches": "the Trainer does not predict; use main.py predict",
    "use_distributed_sampler": "each process always gets its slice of every batch",
    "enable_autolog_hparams": "the config is always recorded",
    "enable_checkpointing": "a fit always writes its checkpoints; set checkpoints.* for how often",
    "model_registry": "checkpoints are files of the run; log_model of the W&B logger uploads them",
}


class CLI(LightningCLI):
    """`fit`, `validate` and `test`, driven by YAML and flags."""

    def __init__(self, args: list[str]) -> None:
        self.verb = args[0]
        self.args = args
        self.notes: list[str] = []
        self.settings: dict[str, Any] | None = None  # of a fit, as they are recorded
        # ten lines that repeat our first one, and an advertisement
        for library in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(library).setLevel(logging.WARNING)
        # its own use of what torch 2.15 deprecates, at every start
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")
        warnings.filterwarnings("ignore", "The `srun` command is available")  # said wherever SLURM is installed
        strict = {"allow_abbrev": False, "exit_on_error": False}  # `--trainer.max_epoch` is not max_epochs
        super().__init__(
            project.model_class(),
            project.data_class(),
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            parser_kwargs={**strict, self.verb: {**strict, "epilog": EPILOG}},
            args=args,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # only ever called on an instance
        return {self.verb: LightningCLI.subcommands()[self.verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        self.verb_parser = parser
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
        parser.set_defaults(dict.fromkeys(Settings(self.args, parser).replaced()))
        if self.verb == "test":
            parser.add_argument("--images", type=str | None, help="Test on this folder of class folders instead.")
        if self.verb == "fit":
            parser.add_argument("--test_after_fit", type=bool, default=False, help="Test the best checkpoint at once.")
            parser.add_argument("--resume", type=str | None, help=RESUME_HELP)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        full = configs_first(Settings(args, self.verb_parser).with_full_names(args))
        # decided by the first of several processes: another may see an older state of a shared disk
        full = json.loads(agree("command line", lambda: json.dumps(with_what_is_remembered(full))))
        config = self._parsed(full)
        if config.ckpt_path and not any(word.startswith("--ckpt_path") for word in full):  # it stands in a config
            full = with_what_is_remembered([*full, "--ckpt_path", str(config.ckpt_path)])
            config = self._parsed(full)
        if config.seed_everything is True:  # Lightning's random seed is always 0
            seed = agree("seed", lambda: str(secrets.randbelow(2**31)))
            config = self._parsed([*full, "--seed_everything", seed])
        for group in ("trainer", "model", "data"):  # jsonargparse lets a bare value pass for a group
            if not isinstance(config[group], Namespace):
                raise ValueError(f"{group} is {config[group]}, but must be a group of settings, as in {group}: {{…}}")
        if not config.ckpt_path and self.verb != "fit":
            raise ValueError(f"{self.verb} needs the checkpoint of a fit: add --ckpt_path best.ckpt")
        Settings(full, self.verb_parser).check_overridden(config)

    def _parsed(self, args: list[str]) -> Namespace:
        try:
            self.config = self.parser.parse_args([*args, *self._placeholders(args)])
        except ArgumentError as error:
            errors.stop(errors.explain(str(error), args, self.verb_parser))
        found: Namespace = self.config[self.verb]
        return found

    def _placeholders(self, args: list[str]) -> list[str]:
        """Flags for the required arguments of the network that follow the data, if they are not given."""
        given = Settings(args, self.verb_parser).given
        paths = [s.value for s in given if s.key in ("model.network", "model.network.class_path")]
        path = next((path for path in reversed(paths) if re.fullmatch(r"[A-Za-z_][\w.]*", path)), "")
        self.unknown = accept_function(full_path("model.network", path))
        for setting in given:
            if plain(setting.key).startswith("model.network."):
                self.unknown.pop(plain(setting.key).removeprefix("model.network."), None)
        return [f"--model.network.init_args.{name}={value}" for name, value in self.unknown.items()]

    def before_instantiate_classes(self) -> None:
        config = self.config[self.verb]
        if not config.ckpt_path:
            fit_network_to_data(config, self.unknown)
        # what a checkpoint records: the network must be built from that alone
        network = worth_recording(config.model.network.as_dict())
        config.model.network = Namespace(**{**network, "init_args": Namespace(**network.get("init_args", {}))})  # type: ignore[no-untyped-call]
        if self.verb in ("test", "validate"):
            config.verbose = False  # Lightning's table of results; ours says the same, once
        self._adapt_to_cpu(config.trainer)
        self._choose_run_dir(config)

    def instantiate_classes(self) -> None:
        self._recorded = self.config
        self.config = self.config.clone()
        config, model = self.config[self.verb], self.config[self.verb].model
        try:
            spec = model.network.as_dict()
            model.network = build_network(spec)
            tensors = pretrained_weights(spec) if self.verb == "fit" and not config.ckpt_path else None
            if tensors is not None:
                name = spec["class_path"].rpartition(".")[2]
                print_line(f"pretrained {name}: {copy_fitting(model.network, tensors, f'pretrained {name}')}")
            super().instantiate_classes()
        except Exception:
            run_directory.discard(Path(self.config[self.verb].trainer.default_root_dir))
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with what every run has: lines on the terminal, a report, a progress bar, and metrics.csv."""
        self.config = self._recorded  # with the network's settings in place of the network
        built = self.config_init[self.verb]
        settings = {**built.trainer, **kwargs}
        self._check_trainer(settings)
        callbacks = as_list(settings["callbacks"])
        loggers, plugins = [], as_list(settings["plugins"])
        if settings["barebones"]:
            settings["log_every_n_steps"] = None  # of a recipe; Lightning refuses it
        if not settings["barebones"]:
            callbacks += [training.Console(self.notes), training.BatchPicture(), training.DrawCurves()]
            callbacks += [built.checkpoints, built.numerics, training.LoggerSteps(), training.ExactResume()]
            callbacks.append(training.FitTemperature())
            callbacks.append(training.WriteReport(["python", "main.py", *self.args]))
            if settings["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
                callbacks.append(training.ProgressBar())
            if self.settings is not None:
                callbacks.append(training.RecordConfig(self.verb_parser, self.config[self.verb], self.settings))
            if not settings["fast_dev_run"]:  # a test gets the tracker of the run, so that it stands beside the fit
                loggers = as_list(settings["logger"])
                loggers += [CSVMetrics(settings["default_root_dir"])] if self.verb == "fit" else []
            callbacks.append(training.StopOnSignal())  # after all that save
            plugins.append(CheckpointFiles())
        trainer = Trainer(**{**settings, "callbacks": callbacks, "logger": loggers or False, "plugins": plugins})
        if group := cluster():
            group.validate_settings(trainer.num_devices, trainer.num_nodes)
        elif trainer.num_nodes > 1:
            raise ValueError(
                f"trainer.num_nodes is {trainer.num_nodes}, but this process was started alone: start it on each "
                "machine with torchrun, or all with srun (docs/scale.md), or give --trainer.num_nodes 1"
            )
        return trainer

    def _check_trainer(self, settings: dict[str, Any]) -> None:
        """Raises ValueError for an argument of the Trainer that would have no effect, or that is not carried out."""
        for name, why in NO_EFFECT.items():
            if settings[name] not in (None, self.verb_parser.get_default(f"trainer.{name}")):
                raise ValueError(f"trainer.{name} {settings[name]} has no effect here: {why}")
        if re.search("fsdp|deepspeed|modelparallel", str(settings["strategy"]).lower()):
            raise ValueError(
                f"trainer.strategy {settings['strategy']} splits the weights over the processes, and checkpoints here "
                "hold whole weights: use --trainer.strategy ddp"
            )

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
        path = self.config_init.fit.checkpoints.best_path(self.trainer)
        if self.config.fit.test_after_fit and path:
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
        given, settings = config.trainer.default_root_dir, None
        if self.verb == "fit":
            self.settings = training.as_settings(self.verb_parser, config)
            check_can_be_read({key: self.settings[key] for key in RECORDED})
            settings = None if config.trainer.fast_dev_run else self.settings  # a debug fit leaves nothing to resume
        else:
            given = given or run_directory.run_dir_of(config.ckpt_path)
        if (self.verb == "fit" and config.resume in (None, "auto")) or given is None:
            given = run_directory.new_run_dir(config.runs, config.name, settings, given)
        directory = Path(given)
        config.trainer.default_root_dir = str(directory)
        for logger in as_list(config.trainer.logger):
            arguments = logger.init_args
            # a tracker's own folder lies inside the run directory too
            if "save_dir" in arguments:
                arguments.save_dir = str(directory / arguments.save_dir)
            if "project" in arguments:
                arguments.project = arguments.project or os.environ.get("WANDB_PROJECT") or project.package()
                arguments.name = arguments.name or os.environ.get("WANDB_NAME") or f"{config.name}/{directory.name}"
                arguments.id = arguments.id or run_directory.run_id(directory)


def run_verb(args: list[str]) -> None:
    """Runs a command line that begins with one of the verbs."""
    try:
        CLI(with_labelled_folder(args))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not any("checkpoint_connector" in frame.filename and "restore" in frame.name for frame in frames):
            raise
        place = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        raise ValueError(f"the checkpoint cannot be restored: {type(error).__name__}: {error} ({place})") from error


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 in hardware (Intel's AMX), some four times as fast as float32;
    where it does not, bfloat16 is several times slower."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16"))


def fit_network_to_data(config: Namespace, unknown: Mapping[str, Any]) -> None:
    """Gives the network the number of classes, channels and pixels of the data, if it takes such arguments.

    Args:
        unknown: required arguments of the network with placeholders as their values.

    Raises:
        ValueError: if the user asked for something else.
    """
    source = _build_source(config.data.source)
    source.prepare()
    network, defaults = config.model.network, defaults_of(config.model.network.class_path) or {}
    defaults = {**defaults, **unknown}
    facts = facts_taken(network.as_dict(), *source.image_shape, len(source.class_names))
    for name, value in facts.items():
        place = "init_args" if name in defaults else "dict_kwargs"
        arguments = network.get(place) or {}
        given = arguments.get(name, defaults.get(name))
        if given not in (value, defaults.get(name)) and list(given if isinstance(given, tuple) else ()) != value:
            raise ValueError(
                f"model.network.{place}.{name} is {given}, but the data has {value}: leave it out, it follows the data"
            )
        arguments[name] = value
        network[place] = arguments


def _build_source(spec: Namespace) -> Source:
    parser = ArgumentParser()
    parser.add_subclass_arguments(Source, "source")
    source: Source = parser.instantiate(parser.parse_object({"source": spec})).source
    return source
