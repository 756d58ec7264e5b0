"""ClassifierModule: the base class of the project's model."""

import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from litengine.data import BatchLoader, Split
from litengine.data.sources.pixels import USUAL
from litengine.datamodule import ClassificationData
from litengine.distributed import reduced, share
from litengine.normalize import Normalize
from litengine.optim import Frozen, check_length, make_schedule
from litengine.tally import Tally
from litengine.terminal import print_line
from litengine.training.checkpoint_files import check_same_network
from litengine.training.cuda_graph import CudaGraph
from litengine.training.initial_weights import load_initial_weights
from litengine.views import TTA, average

INITIAL_IMAGES = 5000  # that a network with `initialize` gets before training
LISTED = 10  # class names in a message
# Weight of the loss of each auxiliary head, by the type of what the network returns in training: of the article of
# GoogLeNet, and of PyTorch's tutorial on fine-tuning
AUXILIARY_LOSS = {"GoogLeNetOutputs": 0.3, "InceptionOutputs": 0.4}


class ClassifierModule(LightningModule):
    """Base class of the project's model: checkpoints, exact resume, several processes and logging.

    The contract of a subclass:

    - `__init__` passes network, tta, channels_last, compile and cuda_graph to this class; its other arguments are free.
    - A batch is images (N, C, H, W), uint8, and labels (N,), int64. `self.normalize(images)` is the network's input.
    - `training_step` returns the mean loss over its images. It gets the logits of normalised images from
      `self.outputs(images)`. Each step calls `self.count(split, loss, logits, labels)`.
    - `validation_step` and `test_step` call `self.infer(images)` and return probabilities (N, classes).
    - `configure_metrics` returns a MetricCollection; validation and test log all of it. `self.class_names` is known.
    - `configure_optimizers` is Lightning's; `self.with_schedule(optimizer, factory)` makes a schedule of the right
      length that resumes exactly.
    - Prediction and export run `network` on normalised images, and nothing else of the subclass.
    - Hooks that this class defines call `super()` when overridden; state of the subclass belongs into
      `on_save_checkpoint` and `on_load_checkpoint`, as plain data and tensors.

    Args:
        network: maps float images (N, C, H, W) to logits (N, classes). If it has a method `initialize(images)`, that
            gets up to 5,000 normalised training images before training.
        tta: test-time augmentation in test, predict, export and demo (see `litengine.views`).
        channels_last: store images and filters as (N, H, W, C) in memory, in which convolutions are faster.
        compile: compile the network with `torch.compile`, in place: checkpoints are the same. A string is the `mode` of
            torch.compile, such as `reduce-overhead`.
        init_from: a file with weights that a fit starts from (see `litengine.training.initial_weights`).
        freeze: patterns of parameter or module names that are not trained, with BatchNorm in evaluation mode.
        unfreeze_at_epoch: the epoch (from 0) in which they are trained again; null for never.
        cuda_graph: on one GPU, record the network's forward and backward once and replay them for every full training
            batch (see `litengine.training.cuda_graph`). A compiled network is not recorded.
    """

    default_network: ClassVar[str] = ""  # class path that the command line uses if no network is given

    def __init__(
        self,
        network: nn.Module,
        tta: TTA = "none",
        channels_last: bool = True,
        compile: bool | str = False,
        init_from: str | None = None,
        freeze: Sequence[str] = (),
        unfreeze_at_epoch: int | None = None,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__()
        self.init_from = init_from
        self.frozen = Frozen(network, freeze)
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self.normalize = Normalize(channels_last)
        self.network = network
        self.tta: TTA = tta
        self.temperature = 1.0  # of a checkpoint (see `litengine.training.calibration`)
        self.members: list[Any] = []  # other classifiers, whose probabilities a test averages with its own
        self.has_schedule = True  # False: `with_schedule` makes none, because a callback sets the rate
        self.class_names: list[str] = []
        self.image_shape: tuple[int, ...] = ()
        self.class_counts: list[int] = []  # training images of each class; known in a fit
        self.metrics = nn.ModuleDict()
        self._compile = compile
        self._cuda_graph = cuda_graph and not compile
        self._graph: CudaGraph | None = None
        self._tallies: dict[str, Tally] = {}  # of each split
        self._counts_batch = True
        self._weight: Tensor | float = 1.0  # of the batch in the gradient of its step
        # of the last backward, without the loss scale
        self.backward_loss = self.gradient_norm = torch.zeros(())
        self._statistics_given = False
        self._plateau: ReduceLROnPlateau | None = None
        self._monitor = ""  # the metric that it watches
        self._plateau_state: dict[str, Any] | None = None
        self._schedule_states: list[dict[str, Any]] = []
        self._epochs: int | None = None  # of the fit, if the schedule needs it
        self._rate = 0.0
        self._resumed = False

    # What a project overrides or calls

    def configure_metrics(self) -> MetricCollection:
        """Metrics of probabilities (N, classes) and labels (N,), logged as `val/…` and `test/…`."""
        return MetricCollection({"acc": MulticlassAccuracy(len(self.class_names), average="micro")})

    def infer(self, images: Tensor, tta: TTA | None = None) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), averaged over the views of `tta`.

        By default they are those of prediction: averaged over the model's own views, divided by the temperature of the
        checkpoint; in a test of several checkpoints the logarithm of their mean probabilities.

        With several processes a small last batch may leave a process without images (N = 0), which many networks
        cannot take.
        """
        if not len(images):
            return self.infer(images.new_zeros(1, *images.shape[1:]), tta)[:0]
        if tta is not None:
            return average(self.network, self.normalize(images), tta)
        logits = average(self.network, self.normalize(images), self.tta) / self.temperature
        if not self.members:
            return logits
        each = torch.stack([logits, *(member.infer(images) for member in self.members)])
        return each.float().log_softmax(2).logsumexp(0) - math.log(len(each))

    def outputs(self, images: Tensor) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        """What the network makes of normalised images: its logits (N, classes), and those of its auxiliary heads, each
        with the weight of its loss. Only googlenet and inception_v3 have such heads, and only in training.

        Raises:
            ValueError: if the network returns anything else.
        """
        return _outputs(self.network(images) if self._graph is None else self._graph(images))

    def higher_is_better(self, name: str) -> bool | None:
        """Whether more of a logged metric, such as `val/acc`, is better; None if it is unknown."""
        if "loss" in name.rpartition("/")[2]:
            return False
        if name == "train/acc":
            return True
        for key, metric in self._collection("val").items() if "val" in self.metrics else ():
            if f"{name}/".startswith(f"{key}/"):  # a metric may have a value for each class
                return getattr(metric, "higher_is_better", None)
        return None

    def count(self, split: Split, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch to the metrics of a split. Nothing is read from the device between two log steps.

        Args:
            loss: the mean over the batch.
            logits: (N, classes).
            labels: int64 (N,).
        """
        loss, logits = loss.detach(), logits.detach()
        hits = logits.argmax(1) == labels
        if self._counts_batch and len(labels):
            self._tallies[split].add(loss, hits)
            if split in self.metrics:
                self._collection(split).update(logits.float().softmax(1), labels)
            if split == "test":
                self._class_accuracy.update(logits, labels)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0: never
        if split == "train" and every and (self.global_step + 1) % every == 0:
            self._tallies[split].settle()
            batch = torch.stack([loss.float() * len(labels), hits.sum(), torch.full_like(loss, len(labels)).float()])
            loss_sum, correct, images = reduced(batch, "sum")
            values = {"train/loss_step": loss_sum / images, "train/acc_step": correct / images}
            self.log_dict(values, prog_bar=True, logger=False)
            self._record({**values, "lr_step": self._rate}, self.global_step)

    def with_schedule(
        self, optimizer: Optimizer, factory: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau] | None
    ) -> Any:
        """What `configure_optimizers` returns: the optimizer with the schedule that `factory(optimizer)` makes.

        A missing `total_steps`, `T_max` or `total_epochs` becomes the length of the fit. Schedules with `total_steps`
        move every step, others every epoch. ReduceLROnPlateau watches its `monitor`, by default `val/loss`, or
        `train/loss` if nothing is validated.

        Raises:
            ValueError: if ReduceLROnPlateau watches a metric of validation and nothing is validated.
        """
        if factory is None or not self.has_schedule:
            return optimizer
        schedule, interval = make_schedule(
            factory,
            optimizer,
            steps=lambda: int(self.trainer.estimated_stepping_batches),
            epochs=self._epochs_of_fit,
        )
        self._restore(schedule)
        if isinstance(schedule, ReduceLROnPlateau):
            # This class steps it: Lightning does not step it in the epoch in which a run is resumed.
            self._plateau = schedule
            self._monitor = self._monitored(schedule)
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": interval}}

    # Start

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ClassificationData):
            raise ValueError(f"{type(self).__name__} needs the classes of the data: pass a data module of the project")
        self.class_names = data.class_names
        self.image_shape = data.image_shape
        if stage == "fit":
            self.class_counts = data.class_counts().tolist()
        self._statistics_given = data.mean is not None
        if stage == "fit" or self._statistics_given:
            self.normalize.set(*data.statistics())
        if self.normalize.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self._check_network(training=stage == "fit")
        if stage == "fit":
            self._freeze()
        if self._compile:
            self.network.compile(mode=None if self._compile is True else self._compile)
            self._compile = False  # `setup` runs again for a test after a fit
        metrics = self.configure_metrics()
        for split in ("val", "test"):
            self.metrics[split] = metrics.clone(prefix=f"{split}/")
        self._class_accuracy = MulticlassAccuracy(len(self.class_names), average="none", validate_args=False)
        self._tallies = {split: Tally(self.trainer.strategy.root_device) for split in ("train", "val", "test")}

    def on_fit_start(self) -> None:
        if self._resumed:
            return
        if self.init_from:
            loaded = load_initial_weights(self.network, self.init_from, self.class_names)
            print_line(f"{self.init_from}: {loaded}")
        elif hasattr(self.network, "initialize"):
            data: ClassificationData = self.trainer.datamodule  # type: ignore[attr-defined]
            initialize: Any = self.network.initialize
            initialize(self.normalize(data.first_images(INITIAL_IMAGES, self.device)))

    def _choose_graph(self) -> None:
        loader, trainer = self.trainer.train_dataloader, self.trainer
        # Gradients of accumulated batches would share the memory of the graph.
        if trainer.world_size > 1 or trainer.accumulate_grad_batches > 1 or not isinstance(loader, BatchLoader):
            self._graph = None
        elif self._cuda_graph and (self._graph is None or self._graph.is_outdated()):
            self._graph = CudaGraph(self.network, loader.size(0))

    def on_train_end(self) -> None:
        self._graph = None  # frees its memory

    def _freeze(self) -> None:
        if self.unfreeze_at_epoch is not None and self.trainer.world_size > 1:
            raise ValueError(
                "model.unfreeze_at_epoch works in one process only: DDP fixes the trained parameters at the start. Run "
                "a second fit with --model.init_from best.ckpt instead"
            )
        until = math.inf if self.unfreeze_at_epoch is None else self.unfreeze_at_epoch
        self.frozen.apply(self.current_epoch < until)

    def train(self, mode: bool = True) -> "ClassifierModule":
        super().train(mode)
        self.frozen.hold()
        return self

    def on_train_epoch_start(self) -> None:
        self._freeze()
        self._choose_graph()

    def _check_network(self, training: bool) -> None:
        """Sends two images through the network. One that needs the ordinary layout in memory gets it.

        Args:
            training: whether to try the training mode too.

        Raises:
            ValueError: if the network does not map two images to as many logits as there are classes.
        """
        try:
            try:
                found = self._try_network(training)
            except RuntimeError:
                if not self.normalize.channels_last:
                    raise
                self.normalize.channels_last = False
                self.network.to(memory_format=torch.contiguous_format)
                found = self._try_network(training)
                print_line("channels_last: off, because the network uses .view, which needs the ordinary layout")
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"the network cannot take images of shape {list(self.image_shape)}{_where(error)}: {reason}. Change "
                "the image size or the channels of the data, or the settings of the network"
            ) from error
        shape = [_outputs(each)[0].shape for each in found][-1]
        if training and shape != (2, len(self.class_names)):  # in a test, a checkpoint of other classes says more
            raise ValueError(
                f"the network gives logits of shape {list(shape)} for 2 images, but the data has "
                f"{len(self.class_names)} classes ({_shortened(self.class_names)}): set the network's number of "
                "classes, in model.network.init_args (or dict_kwargs, for a function that takes any argument)"
            )

    @torch.no_grad()
    def _try_network(self, training: bool) -> list[Any]:
        """What the network returns for two images, in training mode (if asked for) and in evaluation mode. Its random
        state, buffers and mode stay as they are."""
        mode, buffers = self.network.training, [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        try:
            with torch.random.fork_rng():
                images = self.normalize(torch.zeros(2, *self.image_shape, dtype=torch.uint8))
                modes = (True, False) if training else (False,)
                return [self.network.train(each)(images) for each in modes]
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)
            self.network.train(mode)

    def _epochs_of_fit(self) -> int:
        self._epochs = self.trainer.max_epochs
        if self._epochs is None or self._epochs < 0:  # max_steps is given
            self.trainer.fit_loop.setup_data()  # counts the batches
            batches = self.trainer.estimated_stepping_batches * self.trainer.accumulate_grad_batches
            self._epochs = math.ceil(batches / self.trainer.num_training_batches)
        return self._epochs

    def on_train_start(self) -> None:
        self._freeze()  # of the epoch in which a run is resumed
        self._choose_graph()
        for config in self.trainer.lr_scheduler_configs:
            if self._epochs is not None and hasattr(config.scheduler, "T_max"):
                config.scheduler.T_max = self._epochs  # a resumed run may have more epochs
        for optimizer in self.trainer.optimizers:
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    # torch's fused optimizers for CPUs give wrong numbers if the layouts in memory differ, as after a
                    # resume with another channels_last
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    def _monitored(self, schedule: ReduceLROnPlateau) -> str:
        given = getattr(schedule, "monitor", None)  # of lightning.pytorch.cli.ReduceLROnPlateau
        monitor = str(given or "val/loss")
        if not monitor.startswith(("train/", "val/")):
            raise ValueError(f"ReduceLROnPlateau watches {monitor}: choose a metric such as val/loss or train/loss")
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not monitor.startswith("val/") or (self.trainer.limit_val_batches != 0 and data.subset("val") is not None):
            return monitor
        if given:
            raise ValueError(
                f"ReduceLROnPlateau watches {monitor}, but nothing is validated: let it watch train/loss, or validate"
            )
        print_line("nothing is validated: ReduceLROnPlateau watches train/loss")
        return "train/loss"

    def _step_plateau(self, values: dict[str, Any]) -> None:
        if self._plateau is None:
            return
        if self._monitor in values:
            self._plateau.step(values[self._monitor])
        elif self._monitor.partition("/")[0] in {name.partition("/")[0] for name in values}:
            raise ValueError(f"ReduceLROnPlateau watches {self._monitor!r}, but there are {', '.join(values)}")

    # Every step

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        labels, loader = batch[1], self.trainer.train_dataloader
        loader = loader if isinstance(loader, BatchLoader) else None
        part = share(len(labels), labels.device) * self.trainer.world_size
        self._weight = part * self._part_of_step(batch_idx, loader)
        # The rate is recorded before the step: at the end of the epoch a schedule may have changed it.
        self._rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        # A batch smaller than the number of processes is trained on by all of them, and counted by the first.
        self._counts_batch = self.trainer.is_global_zero or not (loader and loader.is_repeated(batch_idx))

    def _part_of_step(self, batch_idx: int, loader: BatchLoader | None) -> float:
        """The images of a batch, as a fraction of those of its optimizer step, times accumulate_grad_batches, by which
        Lightning divides each loss. 1 if batches have equal sizes and the epoch does not end within the step."""
        number = self.trainer.accumulate_grad_batches
        if number == 1:
            return 1.0
        first = batch_idx - batch_idx % number
        step = range(first, int(min(first + number, self.trainer.num_training_batches)))
        sizes = [loader.size(index) if loader else 1 for index in step]
        return sizes[batch_idx - first] * number / sum(sizes)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        # The gradient of a step is the mean over its images: DDP averages over processes, Lightning over accumulated
        # batches, but these may differ in size.
        weighted = loss if isinstance(self._weight, float) and self._weight == 1 else loss * self._weight
        super().backward(weighted, *args, **kwargs)
        gradients = [each.grad for each in parameters(self.trainer.optimizers[0]) if each.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        self.backward_loss, self.gradient_norm = loss.detach(), norm
        if scaler := getattr(self.trainer.precision_plugin, "scaler", None):
            scale = scaler.scale(torch.ones_like(norm))  # unlike get_scale, this does not wait for the device
            self.backward_loss, self.gradient_norm = self.backward_loss / scale, norm / scale

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            # not by Lightning, which refuses fused optimizers and computes the norm again
            clip_grads_with_norm_(parameters(optimizer), gradient_clip_val, self.gradient_norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    # Every epoch

    def on_train_epoch_end(self) -> None:
        values: dict[str, Any] = {**self._loss_and_accuracy("train"), "lr": self._rate}
        self.log_dict(values, logger=False, sync_dist=True)
        self._record(values, self.global_step - 1)
        self._step_plateau(values)

    def on_validation_epoch_end(self) -> None:
        self._counts_batch = True
        values = self._values("val")
        self.log_dict(values, prog_bar=True, sync_dist=True)
        # `trainer.training` is False in a fit's validation too
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._step_plateau(values)

    def on_validation_epoch_start(self) -> None:
        self._counts_batch = True

    def on_test_epoch_start(self) -> None:
        self._counts_batch = True

    def on_test_epoch_end(self) -> None:
        per_class = self._class_accuracy.compute()
        self._class_accuracy.reset()
        self.log_dict({f"test/acc/{n}": v for n, v in zip(self.class_names, per_class, strict=True)}, sync_dist=True)
        self.log_dict(self._values("test"), sync_dist=True)

    def _loss_and_accuracy(self, split: Split) -> dict[str, Tensor]:
        loss, correct, images = self._tallies[split].sums()
        self._tallies[split].reset()
        return {f"{split}/loss": loss / images, f"{split}/acc": correct / images}

    def _values(self, split: Split) -> dict[str, Tensor]:
        """Loss and all metrics of a split. A metric with a value for each class has one name for each."""
        values = {f"{split}/loss": self._loss_and_accuracy(split)[f"{split}/loss"]}
        collection = self._collection(split)
        for name, value in collection.compute().items():
            if value.ndim == 0:
                values[name] = value
            else:
                values |= {f"{name}/{label}": each for label, each in zip(self.class_names, value, strict=True)}
        collection.reset()
        return values

    def _collection(self, split: Split) -> MetricCollection:
        found = self.metrics[split]
        assert isinstance(found, MetricCollection)
        return found

    def _record(self, values: dict[str, Any], step: int) -> None:
        """Hands training metrics to the loggers at once. Lightning hands them over after the checkpoint of the same
        step is written: a run that is killed in between, and resumed, would lack them."""
        numbers = {name: float(value) for name, value in values.items()}
        for logger in self.loggers:
            logger.log_metrics({**numbers, "epoch": self.current_epoch}, step)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["data"] = {
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "mean": self.normalize.mean.flatten().tolist(),
            "std": self.normalize.std.flatten().tolist(),
            "tta": self.tta,
            "channels_last": self.normalize.channels_last,
        }
        reading = self.trainer.datamodule.source.reading  # type: ignore[attr-defined]
        if reading != USUAL:
            checkpoint["data"]["reading"] = asdict(reading)
        checkpoint["train_sums"] = self._tallies["train"].sums()  # the epoch may be unfinished
        checkpoint["rate"] = self._rate  # best.ckpt is written before the epoch's record
        if self._plateau is not None:
            checkpoint["plateau"] = self._plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = checkpoint["data"]
        if self.class_names and data["class_names"] != self.class_names:
            raise ValueError(
                f"the checkpoint knows the classes {_shortened(data['class_names'])}, but the data has "
                f"{_shortened(self.class_names)}: use data with the same classes, in the same order"
            )
        if self.image_shape and data["image_shape"] != list(self.image_shape):
            raise ValueError(
                f"the checkpoint was trained on images of shape {data['image_shape']}, but the data has "
                f"{list(self.image_shape)}: give the source the checkpoint's image size"
            )
        check_same_network(self.state_dict(), checkpoint["state_dict"])
        if not self._statistics_given:
            self.normalize.set(data["mean"], data["std"])
        if self._tallies and self.trainer.is_global_zero:
            self._tallies["train"].set(checkpoint["train_sums"])
        self.temperature = data.get("temperature", 1.0)
        self._resumed = True
        self._rate = checkpoint["rate"]
        self._plateau_state = checkpoint.get("plateau")
        self._schedule_states = checkpoint["lr_schedulers"]

    def _restore(self, schedule: LRScheduler | ReduceLROnPlateau) -> None:
        """Restores a plateau schedule from the checkpoint. Lightning restores the others; only their length is
        checked here."""
        if not isinstance(schedule, ReduceLROnPlateau):
            for state in self._schedule_states:
                check_length(schedule, state)
        elif self._plateau_state is not None:
            schedule.load_state_dict(self._plateau_state)


def parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _outputs(found: Any) -> tuple[Tensor, list[tuple[float, Tensor]]]:
    weight = AUXILIARY_LOSS.get(type(found).__name__)
    if weight is not None:
        return found[0], [(weight, logits) for logits in found[1:] if logits is not None]
    if not isinstance(found, Tensor):
        raise ValueError(f"the network returns a {type(found).__name__}: a tensor of logits (N, classes) is needed")
    return found, []


def _where(error: Exception) -> str:
    """The line of the network's code that failed, if it is not in torch."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "torch" not in Path(f.filename).parts]
    own = [frame for frame in frames if Path(frame.filename) != Path(__file__)]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _shortened(names: list[str]) -> str:
    listed = ", ".join(names[:LISTED])
    return f"{listed}, … ({len(names)} in all)" if len(names) > LISTED else listed
