"""ClassifierModule: the base class of the project's model."""

from collections.abc import Callable, Sequence
from math import inf, log
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from litengine import optimizer_step
from litengine.data import BatchLoader, Split
from litengine.datamodule import ClassificationData
from litengine.network_check import check_network, check_same_data, logits_of
from litengine.normalize import Normalize
from litengine.optim import Frozen, Plateau, check_length, epochs_of_fit, make_schedule
from litengine.tally import Tally
from litengine.terminal import print_line
from litengine.training.checkpoint_files import check_same_network
from litengine.training.checkpoints import wrong_direction
from litengine.training.cuda_graph import CudaGraph
from litengine.training.hooks import shorten_steps
from litengine.training.initial_weights import load_initial_weights
from litengine.views import TTA, average

INITIAL_IMAGES = 5000  # that a network with `initialize` gets before training


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
        compile: compile the network with `torch.compile`; a string is its `mode`. Checkpoints stay the same.
        init_from: a file with weights that a fit starts from (see `litengine.training.initial_weights`).
        freeze, unfreeze_at_epoch: patterns and epoch of `litengine.optim.Frozen`.
        cuda_graph: whether to use `litengine.training.cuda_graph`. A compiled network is not recorded.
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
        self.frozen = Frozen(network, freeze, unfreeze_at_epoch)
        self.normalize = Normalize(channels_last)
        self.network = network
        self.tta: TTA = tta
        self.temperature = 1.0  # of a checkpoint (see `litengine.training.calibration`)
        self.members: list[Any] = []  # other classifiers, whose probabilities a test averages with its own
        self.has_schedule = True  # False: `with_schedule` makes none, because a callback sets the rate
        self.expected: dict[str, Any] = {}  # facts of the data in the checkpoint that the command line names
        self.class_names: list[str] = []
        self.image_shape: tuple[int, ...] = ()
        self.class_counts: list[int] = []  # training images of each class; known in a fit
        self.metrics = nn.ModuleDict()
        self.backward_loss = self.gradient_norm = torch.zeros(())  # of the last backward, without the loss scale
        self._compile = compile
        self._cuda_graph = cuda_graph and not compile
        self._graph: CudaGraph | None = None
        self._tallies: dict[str, Tally] = {}  # of each split
        self._is_counted = True  # the training batch
        self._weight: Tensor | float = 1.0  # of the batch in the gradient of its step
        self._rate = 0.0
        self._plateau: Plateau | None = None
        self._loaded: dict[str, Any] = {}  # of the schedules in a checkpoint

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of each hook, 44 times a step: torch looks each time whether it is a parameter
        if name in self.__dict__ and not isinstance(value, (Tensor, nn.Module)):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # What a project overrides or calls

    def configure_metrics(self) -> MetricCollection:
        """Metrics of probabilities (N, classes) and labels (N,), logged as `val/…` and `test/…`."""
        return MetricCollection({"acc": MulticlassAccuracy(len(self.class_names), average="micro")})

    def infer(self, images: Tensor, tta: TTA | None = None) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), averaged over the views of `tta`.

        By default they are those of prediction: averaged over the model's own views, divided by the temperature of the
        checkpoint; in a test of several checkpoints the logarithm of their mean probabilities.
        """
        if not len(images):  # many networks cannot take none: a small last batch leaves some processes without images
            return self.infer(images.new_zeros(1, *images.shape[1:]), tta)[:0]
        if tta is not None:
            return average(self.network, self.normalize(images), tta)
        logits = average(self.network, self.normalize(images), self.tta) / self.temperature
        if not self.members:
            return logits
        each = torch.stack([logits, *(member.infer(images) for member in self.members)])
        return each.float().log_softmax(2).logsumexp(0) - log(len(each))

    def outputs(self, images: Tensor) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        """What the network makes of normalised images: its logits (N, classes), and those of its auxiliary heads, each
        with the weight of its loss. Only googlenet and inception_v3 have such heads, and only in training.

        Raises:
            ValueError: if the network returns anything else.
        """
        return logits_of(self.network(images) if self._graph is None else self._graph(images))

    def higher_is_better(self, name: str) -> bool | None:
        """Whether more of a logged metric, such as `val/acc`, is better; None if it is unknown."""
        return self._tallies["val"].higher_is_better(name) if self._tallies else None

    def count(self, split: Split, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch to the metrics of a split. Nothing is read from the device between two log steps.

        Args:
            loss: the mean over the batch.
            logits: (N, classes).
            labels: int64 (N,).
        """
        loss, logits = loss.detach(), logits.detach()
        if len(labels) and (split != "train" or self._is_counted):
            self._tallies[split].add(loss, logits, labels)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # 0: never
        if split == "train" and every and (self.global_step + 1) % every == 0:
            batch = Tally("train", labels.device)
            batch.add(loss, logits, labels)
            values = {f"{name}_step": value for name, value in batch.values().items()}
            # after a `log_dict` Lightning would read these values at the end of every batch
            self.trainer.callback_metrics.update(values)
            self.trainer.progress_bar_metrics.update(values)  # type: ignore[arg-type]
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
        trainer, data = self.trainer, self.trainer.datamodule  # type: ignore[attr-defined]
        schedule, interval = make_schedule(
            factory, optimizer, lambda: int(trainer.estimated_stepping_batches), lambda: epochs_of_fit(trainer)
        )
        if not isinstance(schedule, ReduceLROnPlateau):  # Lightning restores it
            for state in self._loaded.get("lr_schedulers", ()):
                check_length(schedule, state)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": interval}}
        # This class steps it: Lightning does not step it in the epoch in which a run is resumed.
        validates = trainer.limit_val_batches != 0 and data.subset("val") is not None
        self._plateau = Plateau(schedule, validates)
        if wrong := wrong_direction(self, "ReduceLROnPlateau", self._plateau.monitor, schedule.mode):
            raise ValueError(wrong)
        if self._loaded.get("plateau"):
            schedule.load_state_dict(self._loaded["plateau"])
        if not validates:
            print_line(f"nothing is validated: ReduceLROnPlateau watches {self._plateau.monitor}")
        return optimizer

    # Start

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ClassificationData):
            raise ValueError(f"{type(self).__name__} needs the classes of the data: pass a data module of the project")
        self.class_names = data.class_names
        self.image_shape, self.reading = data.image_shape, data.source.reading
        if stage == "fit":
            self.class_counts = data.class_counts().tolist()
        if stage == "fit" or data.mean is not None:
            self.normalize.set(*data.statistics())
        if self.normalize.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if self.expected:
            check_same_data(self.expected, self.class_names, self.image_shape)
        check_network(self.network, self.normalize, self.image_shape, self.class_names, training=stage == "fit")
        if stage == "fit":
            if self.frozen.until < inf and self.trainer.world_size > 1:
                raise ValueError(
                    "model.unfreeze_at_epoch works in one process only: DDP fixes the trained parameters at the start. "
                    "Run a second fit with --model.init_from best.ckpt instead"
                )
            self.frozen.begin(self.current_epoch)
        if self._compile:
            self.network.compile(mode=None if self._compile is True else self._compile)
            self._compile = False  # `setup` runs again for a test after a fit
        metrics = self.configure_metrics()
        self.metrics["val"], self.metrics["test"] = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")
        device = self.trainer.strategy.root_device
        self._tallies["train"] = Tally("train", device)
        for split, of_split in self.metrics.items():
            self._tallies[split] = Tally(split, device, cast("MetricCollection", of_split), self.class_names)

    def on_fit_start(self) -> None:
        if self._loaded:
            return
        if self.init_from:
            print_line(f"{self.init_from}: {load_initial_weights(self.network, self.init_from, self.class_names)}")
        elif initialize := getattr(self.network, "initialize", None):
            data: ClassificationData = self.trainer.datamodule  # type: ignore[attr-defined]
            initialize(self.normalize(data.first_images(INITIAL_IMAGES, self.device)))

    def on_train_start(self) -> None:
        ClassifierModule.on_train_epoch_start(self)  # not called by Lightning in the epoch in which a run is resumed
        for optimizer in self.trainer.optimizers:
            optimizer_step.match_layouts(optimizer)
        shorten_steps(self.trainer)

    # Every step

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        trainer, loader = self.trainer, self.trainer.train_dataloader
        self._weight = optimizer_step.weight_of_batch(trainer, batch_idx, batch[1])
        # The rate is recorded before the step: at the end of the epoch a schedule may have changed it.
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        # A batch smaller than the number of processes is trained on by all of them, and counted by the first.
        repeated = not trainer.is_global_zero and isinstance(loader, BatchLoader) and loader.is_repeated(batch_idx)
        self._is_counted = not repeated

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        weighted = loss if isinstance(self._weight, float) and self._weight == 1 else loss * self._weight
        super().backward(weighted, *args, **kwargs)
        self.backward_loss, self.gradient_norm = optimizer_step.loss_and_norm(self.trainer, loss.detach())

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        optimizer_step.zero_grad(optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            # not by Lightning, which refuses fused optimizers and computes the norm again
            clip_grads_with_norm_(optimizer_step.parameters(optimizer), gradient_clip_val, self.gradient_norm)
        elif gradient_clip_val:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    # Every epoch

    def on_train_epoch_start(self) -> None:
        self.frozen.begin(self.current_epoch)
        loader, trainer = self.trainer.train_dataloader, self.trainer
        # Gradients of accumulated batches would share the memory of the graph.
        if trainer.world_size > 1 or trainer.accumulate_grad_batches > 1 or not isinstance(loader, BatchLoader):
            self._graph = None
        elif self._cuda_graph and (self._graph is None or self._graph.is_outdated()):
            self._graph = CudaGraph(self.network, loader.size(0))

    def train(self, mode: bool = True) -> "ClassifierModule":
        super().train(mode)
        self.frozen.hold()
        return self

    def on_train_epoch_end(self) -> None:
        values: dict[str, Any] = {**self._tallies["train"].values(), "lr": self._rate}
        self.log_dict(values, logger=False, sync_dist=True)
        self._record(values, self.global_step - 1)
        if self._plateau is not None:
            self._plateau.step("train", values)

    def on_validation_epoch_end(self) -> None:
        values = self._tallies["val"].values()
        self.log_dict(values, prog_bar=True, sync_dist=True)
        # `trainer.training` is False in a fit's validation too
        if self._plateau is not None and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._plateau.step("val", values)

    def on_test_epoch_end(self) -> None:
        self.log_dict(self._tallies["test"].values(), sync_dist=True)

    def on_train_end(self) -> None:
        self._graph = None  # frees its memory

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
        if reading := self.reading.facts():
            checkpoint["data"]["reading"] = reading
        checkpoint["train_sums"] = self._tallies["train"].sums()  # the epoch may be unfinished
        checkpoint["rate"] = self._rate  # best.ckpt is written before the epoch's record
        if self._plateau is not None:
            checkpoint["plateau"] = self._plateau.schedule.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = checkpoint["data"]
        check_same_data(data, self.class_names, self.image_shape)
        check_same_network(self.state_dict(), checkpoint["state_dict"])
        if self.trainer.datamodule.mean is None:  # type: ignore[attr-defined]
            self.normalize.set(data["mean"], data["std"])
        if self.trainer.is_global_zero:
            self._tallies["train"].set(checkpoint["train_sums"])
        self.temperature = data.get("temperature", 1.0)
        self._rate = checkpoint["rate"]
        self._loaded = {name: checkpoint.get(name) for name in ("plateau", "lr_schedulers")}
