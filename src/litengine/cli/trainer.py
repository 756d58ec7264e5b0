"""The verbs that the Trainer runs: LightningCLI, its defaults, and what each run gets."""

import json
import logging
import os
import re
import secrets
import warnings
from argparse import ArgumentError
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.profilers import PassThroughProfiler

from litengine import network as networks
from litengine import project, training
from litengine.cli import VERBS, errors
from litengine.cli.remembered import as_list, with_what_is_remembered
from litengine.cli.settings import Settings, configs_first, split_items
from litengine.data import Source
from litengine.distributed import is_lost_process
from litengine.inference.predictor import Ensemble, load
from litengine.inference.safe_config import check_can_be_read
from litengine.loggers import CSVMetrics
from litengine.terminal import print_line
from litengine.training import run_directory
from litengine.training.checkpoint_files import CheckpointFiles, read
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
    "with it (--dropout 0.2, --lr, --epochs). A flag changes one item of a list: --data.augment.0.padding 4. "
    "Configs may use ${VARIABLES} of the environment. Flags win over configs, later configs over earlier ones."
)
RESUME_HELP = "Resume a run: `last` (the newest unfinished), `auto` (the same of this name, or a new run), or its path."
NO_EFFECT = {  # arguments of the Trainer that change nothing here
    "limit_predict_batches": "the Trainer does not predict; use main.py predict",
    "use_distributed_sampler": "each process always gets its slice of every batch",
    "enable_autolog_hparams": "the config is always recorded",
    "enable_checkpointing": "a fit always writes its checkpoints; set checkpoints.* for how often",
    "model_registry": "checkpoints are files of the run; log_model of the W&B logger uploads them",
}
NOISE = (  # beginnings of Lightning's warnings about what works as it should
    r".*isinstance\(treespec, LeafSpec\)",
    "The `srun` command is available",  # wherever SLURM is installed
    "The number of training batches",  # fewer than log_every_n_steps: a small folder
    "Total length of `list` across ranks is zero",  # nothing is validated
    r"Found \d+ module\(s\) in eval mode",  # BatchNorm of frozen layers
    "No positive samples in targets",  # classes without images, which AUROC leaves out
    r"When using `Trainer\(accumulate_grad_batches",  # of the model's `optimizer_zero_grad`, which adds nothing
)


class NoProfiler(PassThroughProfiler):
    """Lightning's own makes a hundred context managers a step."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing


class CLI(LightningCLI):
    """`fit`, `validate` and `test`, driven by YAML and flags. Another verb is a fit whose methods a subclass changes.

    Attributes:
        leaves_run: whether a fit leaves a checkpoint, and can be resumed.
    """

    leaves_run = True

    def __init__(self, args: list[str]) -> None:
        self.command = args
        self.verb = args[0] if args[0] in ("validate", "test") else "fit"  # for Lightning
        self.args = [self.verb, *args[1:]]
        self.notes: list[str] = []
        self.settings: dict[str, Any] | None = None  # of a fit, as they are recorded
        # ten lines that repeat our first one, and an advertisement
        for library in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(library).setLevel(logging.WARNING)
        # its own use of what torch 2.15 deprecates, at every start
        for noise in NOISE:
            warnings.filterwarnings("ignore", noise)
        if not torch.cuda.is_available():  # else Lightning's way to find that out loads a library at every step
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
        strict = {"allow_abbrev": False, "exit_on_error": False}  # `--trainer.max_epoch` is not max_epochs
        texts = {"prog": f"main.py {args[0]}", "description": VERBS[args[0]][1], "epilog": EPILOG}
        super().__init__(
            project.model_class(),
            project.data_class(),
            save_config_callback=None,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            parser_kwargs={**strict, self.verb: {**strict, **texts}},
            args=self.args,
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
        answer = agree("command line", lambda: json.dumps(with_what_is_remembered(full)))
        full, self.others = json.loads(answer)
        config = self._parsed(full)
        if config.ckpt_path and not any(word.startswith("--ckpt_path") for word in full):  # it stands in a config
            full, self.others = with_what_is_remembered([*full, "--ckpt_path", str(config.ckpt_path)])
            config = self._parsed(full)
        if config.seed_everything is True:  # Lightning's random seed is always 0
            seed = agree("seed", lambda: str(secrets.randbelow(2**31)))
            config = self._parsed([*full, "--seed_everything", seed])
        if not config.ckpt_path and self.verb != "fit":
            raise ValueError(f"{self.verb} needs the checkpoint of a fit: add --ckpt_path best.ckpt")
        Settings(full, self.verb_parser).check_effect(config)

    def _parsed(self, args: list[str]) -> Namespace:
        given = Settings(args, self.verb_parser).given
        paths = [setting.class_path for setting in given if setting.plain == "model.network"]
        # required arguments of the network that follow the data, with values that they have until it is known
        self.unknown = networks.accept_function(next(filter(None, reversed(paths)), ""))
        for setting in given:
            self.unknown.pop(setting.plain.removeprefix("model.network."), None)
        args, items = split_items(args)
        follow = [f"--model.network.init_args.{name}={value}" for name, value in self.unknown.items()]
        try:
            for key, number, name, value in items:
                silent = [word for word in args if not word.startswith("--print_config")]
                entries = as_list(self.parser.parse_args([*silent, *follow])[self.verb].get(key))
                if number >= len(entries):
                    raise ValueError(f"--{key}.{number}.{name}: {key} has {len(entries)} items, counted from 0")
                entries = [entry.as_dict() for entry in entries]
                entries[number].setdefault("init_args", {})[name] = value
                args = [*args, f"--{key}={json.dumps(entries)}"]
            self.config = self.parser.parse_args([*args, *follow])
        except ArgumentError as error:
            errors.stop(errors.explain(error, args, self.verb_parser))
        found: Namespace = self.config[self.verb]
        return found

    def instantiate_classes(self) -> None:
        config = self.config[self.verb]
        if not config.ckpt_path:
            self._fit_network_to_data(config)
        # what a checkpoint records: the network must be built from that alone
        spec = networks.worth_recording(config.model.network.as_dict())
        config.model.network = Namespace(**{**spec, "init_args": Namespace(**spec["init_args"])})  # type: ignore[no-untyped-call]
        if self.verb != "fit":
            config.verbose = False  # Lightning's table of results; ours says the same, once
        self._adapt_to_cpu(config.trainer)
        self._choose_run_dir(config)
        self._recorded, self.config = self.config, self.config.clone()
        try:
            network = self.config[self.verb].model.network = networks.build_network(spec)
            tensors = networks.pretrained_weights(spec) if self.verb == "fit" and not config.ckpt_path else None
            if tensors is not None:
                name = f"pretrained {spec['class_path'].rpartition('.')[2]}"
                print_line(f"{name}: {copy_fitting(network, tensors, name)}")
            super().instantiate_classes()
            if config.ckpt_path:
                self.model.expected = read(config.ckpt_path)["data"]
            if self.others:  # of the first one Lightning reads the checkpoint
                paths, trusted = [config.ckpt_path, *self.others], [project.package(), *config.trust]
                ensemble = Ensemble({path: load(path, self.trainer.strategy.root_device, trusted) for path in paths})
                self.model.members = [member.classifier for member in ensemble.members[1:]]
        except Exception:
            run_directory.discard(Path(config.trainer.default_root_dir))
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with what every run has: lines on the terminal, a report, a progress bar, and metrics.csv."""
        self.config = self._recorded  # with the network's settings in place of the network
        built = self.config_init[self.verb]
        settings = {**built.trainer, **kwargs}
        self._check_trainer(settings)
        callbacks, plugins = as_list(settings["callbacks"]), as_list(settings["plugins"])
        loggers = []
        if settings["barebones"]:
            settings["log_every_n_steps"] = None  # of a recipe; Lightning refuses it
        else:
            settings["profiler"] = settings["profiler"] or NoProfiler()
            callbacks += [training.Console(self.notes), training.BatchPicture(), training.DrawCurves()]
            callbacks += [built.checkpoints, built.numerics, training.LoggerSteps(), training.ExactResume()]
            callbacks += [training.FitTemperature(), training.WriteReport(["python", "main.py", *self.command])]
            if settings["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
                callbacks.append(training.ProgressBar())
            if self.settings is not None:
                callbacks.append(training.RecordConfig(self.settings))
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
        if settings["gradient_clip_algorithm"] and not settings["gradient_clip_val"]:
            raise ValueError("trainer.gradient_clip_algorithm has no effect alone: give trainer.gradient_clip_val too")
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
                "say why. `fit --resume last` continues from the last checkpoint"
            ) from error

    def after_fit(self) -> None:
        if not (self.leaves_run and self.config.fit.test_after_fit):
            return
        if path := self.config_init.fit.checkpoints.best_path(self.trainer):
            self.trainer.test(self.model, self.datamodule, ckpt_path=path, verbose=False)

    def _adapt_to_cpu(self, trainer: Namespace) -> None:
        """A recipe for GPUs runs on a CPU unchanged: what is for GPUs only gives way, and that is said."""
        gpu = CUDAAccelerator.is_available() or MPSAccelerator.is_available()
        if trainer.accelerator != "cpu" and (trainer.accelerator != "auto" or gpu):
            return
        if trainer.precision in ("16-mixed", "16", 16):
            # Intel's AMX multiplies bfloat16 some four times as fast as float32; other CPUs are several times slower
            capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
            given, trainer.precision = trainer.precision, "bf16-mixed" if capabilities.get("amx_bf16") else "32-true"
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
            settings = self.settings if self.leaves_run and not config.trainer.fast_dev_run else None
        elif not self.others:
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
            if "id" in arguments:  # W&B
                arguments.project = arguments.project or os.environ.get("WANDB_PROJECT") or project.package()
                arguments.name = arguments.name or os.environ.get("WANDB_NAME") or f"{config.name}/{directory.name}"
                arguments.id = arguments.id or run_directory.run_id(directory)

    def _fit_network_to_data(self, config: Namespace) -> None:
        """Gives the network the number of classes, channels and pixels of the data, if it takes such arguments."""
        parser = ArgumentParser()
        parser.add_subclass_arguments(Source, "source")
        source: Source = parser.instantiate(parser.parse_object({"source": config.data.source})).source
        source.prepare()
        network = config.model.network
        defaults = {**networks.defaults_of(network.class_path), **self.unknown}
        facts = networks.facts_taken(network.as_dict(), *source.image_shape, len(source.class_names))
        for name, value in facts.items():
            place = "init_args" if name in defaults else "dict_kwargs"
            arguments = network.get(place) or {}
            given = arguments.get(name, defaults.get(name))
            if given not in (value, defaults.get(name)) and list(given if isinstance(given, tuple) else ()) != value:
                raise ValueError(
                    f"model.network.{place}.{name} is {given}, but the data has {value}: leave it out, it follows the "
                    "data"
                )
            arguments[name] = value
            network[place] = arguments
