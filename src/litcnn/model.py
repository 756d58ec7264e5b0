"""ImageClassifier: network, loss, optimizer, schedule and metrics in one LightningModule."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from litengine.training.checkpoint_files import check_same_network
from litengine.distributed import reduced, share
from litengine.fsdp import FullySharded, run_with_others, shard
from litengine.optim import check_length, check_settings, make_schedule, parameter_groups
from litengine.views import TTA, average

Batch = tuple[Tensor, Tensor]
INITIAL_IMAGES = 5000  # that a network may look at before it is trained
TRAIN_METRICS = ("train/loss", "train/acc")


class Normalize(nn.Module):
    """Pixels to network input: uint8 0..255 (or float 0..1) images (N, C, H, W) to (pixels - mean) / std.

    Mean and std are no parameters and no buffers: what averages, counts or compares weights passes them by.
    """

    def __init__(self) -> None:
        super().__init__()
        self.set([0.0], [1.0])

    def set(self, mean: list[float], std: list[float]) -> None:
        """One number a channel, in units of 0..1. A channel without any variation is only shifted."""
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor([s or 1.0 for s in std]).view(-1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        return images.to(torch.float32, copy=True).sub_(self.mean * scale).div_(self.std * scale)


class ImageClassifier(LightningModule):
    """Trains a network to tell classes of images apart, and measures how well it does.

    It takes images as they come from the data, uint8 (N, C, H, W), normalises them and returns logits
    (N, classes): whoever has a checkpoint needs to know nothing about preprocessing beyond the image size.

    Args:
        network: any module that maps float images (N, C, H, W) to logits (N, classes). One with a method
            `initialize(images)` is shown up to 5,000 normalised training images before its training begins.
        optimizer: called with groups of parameters; by default the article's Adam.
        lr_scheduler: called with the optimizer; by default the article's ReduceLROnPlateau, which watches `val/loss`.
            Of a schedule with `total_steps` (OneCycleLR) or `T_max` (CosineAnnealingLR) give null or 0 (from Python it
            may be left out): it becomes the steps (it then moves every step) or epochs (every epoch) of the fit.
        parameter_groups: for parameters of one role (`filters`, `matrices`, `norms`, `biases`, `others`) what their
            group sets otherwise than the optimizer, such as `{norms: {lr: 0.1}}`. Of norms and biases the
            `weight_decay` is 0 unless it is set here.
        loss: called with logits (N, classes) and labels (int64 (N,), or where images are mixed float (N, classes)); the
            mean over the images. By default cross entropy. Weights of its own are not trained.
        label_smoothing: of cross entropy: part of the target spread over all classes, 0 to 1.
        mixing: mixes training images and their targets, such as torchvision.transforms.v2.MixUp or CutMix.
        channels_last: lay images and filters out as (N, H, W, C) in memory, which convolutions are faster with.
        compile: compile the network (`torch.compile`), in place: checkpoints are the same; the first batch waits.
        tta: test-time augmentation, in all that comes after training (test, predict, export, demo): logits are
            averaged over 2 (`flip`) or 6 (`flip+shift`) views of each image.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1e-3, weight_decay=1e-4),
        lr_scheduler: LRSchedulerCallable | None = lambda optimizer: ReduceLROnPlateau(
            optimizer, mode="min", factor=0.5, patience=5
        ),
        parameter_groups: Mapping[str, Mapping[str, bool | int | float | str]] | None = None,
        loss: nn.Module | None = None,
        label_smoothing: float = 0.0,
        mixing: nn.Module | None = None,
        channels_last: bool = True,
        compile: bool = False,
        tta: TTA = "none",
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"model.label_smoothing is {label_smoothing}: a fraction of 0 to 1 is needed")
        if label_smoothing and loss is not None:
            raise ValueError(
                "model.label_smoothing is of cross entropy: with model.loss leave it out, or give it to that"
            )
        self.normalize = Normalize()
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.parameter_groups = parameter_groups
        self.loss = loss
        self.label_smoothing = label_smoothing
        self.mixing = mixing
        self.channels_last = channels_last
        self.tta: TTA = tta
        self._compile = compile
        self.class_names: list[str] = []
        self.image_shape: tuple[int, ...] = ()
        self.metrics = nn.ModuleDict()
        self._statistics_given = False
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None
        self._schedule_states: list[dict[str, Any]] = []
        self._epochs: int | None = None  # of the fit, where the schedule wanted to know
        self._rate = 0.0

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), uint8 0..255 or float 0..1."""
        logits: Tensor = self.network(self._to_input(images))
        return logits

    def infer(self, images: Tensor) -> Tensor:
        """Logits (N, classes) as `forward`, with test-time augmentation where `tta` asks for it."""
        return average(self.network, self._to_input(images), self.tta)

    def _to_input(self, images: Tensor) -> Tensor:
        images = self.normalize(images)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    # What is known of the data, and travels with the weights

    def setup(self, stage: str) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise ValueError("ImageClassifier needs a datamodule that knows its classes: pass an ImageData")
        self.class_names = data.class_names
        self.image_shape = data.source.image_shape
        self._statistics_given = data.mean is not None
        if stage == "fit" or self._statistics_given:
            self.normalize.set(*data.statistics())
        if self.channels_last and not isinstance(self.trainer.strategy, FullySharded):
            self.network.to(memory_format=torch.channels_last)
        if stage == "fit" and hasattr(self.network, "initialize"):
            arrays, indices = data.part("train")
            images = arrays.images[torch.from_numpy(indices[:INITIAL_IMAGES])].to(self.trainer.strategy.root_device)
            initialize: Any = self.network.initialize
            initialize(self.normalize(images))
        if self._compile:
            self.network.compile()
            self._compile = False  # a test after a fit comes here again
        classes = len(self.class_names)
        for split in ("train", "val", "test"):
            # "disable": looking for NaN waits for the device at every step, and would leave it out of the mean
            self.metrics[f"{split}/loss"] = MeanMetric(nan_strategy="disable")
            self.metrics[f"{split}/acc"] = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.metrics["test/class_acc"] = MulticlassAccuracy(classes, average="none", validate_args=False)

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, FullySharded):
            shard(self.network, self.trainer.strategy.root_device, self.trainer.world_size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["data"] = {
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "mean": self.normalize.mean.flatten().tolist(),
            "std": self.normalize.std.flatten().tolist(),
        }
        # sums so far, of all processes: the checkpoint may be written in the middle of an epoch
        checkpoint["train_metrics"] = {
            name: {
                key: reduced(torch.as_tensor(value), "sum") for key, value in self._metric(name).metric_state.items()
            }
            for name in TRAIN_METRICS
        }
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
        check_same_network(self.state_dict(), checkpoint["state_dict"])
        if not self._statistics_given:
            self.normalize.set(data["mean"], data["std"])
        for name, sums in checkpoint["train_metrics"].items():
            metric = self._metric(name)
            for key, value in sums.items() if self.trainer.is_global_zero else ():
                setattr(metric, key, value.to(metric.device))
        self._rate = checkpoint.get("rate", self._rate)
        self._plateau_state = checkpoint.get("plateau")
        self._schedule_states = checkpoint["lr_schedulers"]
        made = [self._plateau] if self._plateau else [config.scheduler for config in self.trainer.lr_scheduler_configs]
        for schedule in made:  # they are there already where weights are spread over processes
            self._restore(schedule)

    # Optimizer and schedule

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(parameter_groups(self.network, self.parameter_groups))
        check_settings(self.parameter_groups or {}, optimizer)
        if self.lr_scheduler is None:
            return optimizer
        schedule, interval = make_schedule(
            self.lr_scheduler,
            optimizer,
            steps=lambda: int(self.trainer.estimated_stepping_batches),
            epochs=self._epochs_of_fit,
        )
        self._restore(schedule)
        if isinstance(schedule, ReduceLROnPlateau):
            # Stepped here, not by Lightning, which forgets to step it in the epoch that a resumed run starts in.
            self._plateau = schedule
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": interval}}

    def _restore(self, schedule: Any) -> None:
        """From the checkpoint, where there is one. Lightning restores what it steps, which only has to be as long."""
        if not isinstance(schedule, ReduceLROnPlateau):
            for state in self._schedule_states:
                check_length(schedule, state)
        elif self._plateau_state is not None:
            schedule.load_state_dict(self._plateau_state)

    def on_train_start(self) -> None:
        for config in self.trainer.lr_scheduler_configs:
            if self._epochs is not None and hasattr(config.scheduler, "T_max"):
                config.scheduler.T_max = self._epochs  # a resumed run may have been given more epochs

    def _epochs_of_fit(self) -> int:
        self._epochs = self.trainer.max_epochs
        if self._epochs is None or self._epochs < 0:  # max_steps was given
            batches = self.trainer.estimated_stepping_batches * self.trainer.accumulate_grad_batches
            self._epochs = math.ceil(batches / self.trainer.num_training_batches)
        return self._epochs

    # Steps. Metrics are summed on the device: nothing is read, logged or synchronised between two log steps.

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images, labels = self._to_input(batch[0]), batch[1]
        targets = labels
        if self.mixing is not None:
            images, targets = self.mixing(images, F.one_hot(labels, len(self.class_names)).float())  # (N, classes)
            labels = targets.argmax(1)  # the class that most of an image is of
        logits = self.network(images)
        loss = self._count("train", logits, labels, targets, self.label_smoothing, counted=self._is_mine(batch_index))
        # the mean over all images is wanted, whatever the size of the processes' slices
        part = share(len(labels), labels.device)
        # kept for the epoch's record: when that is written, a schedule may have changed it for the next epoch
        self._rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            accuracy = (logits.argmax(1) == labels).float().mean()
            shown = {"train/loss_step": loss.detach(), "train/acc_step": accuracy}
            shown = {name: reduced(value * part, "sum") for name, value in shown.items()}
            self.log_dict(shown, prog_bar=True, logger=False)
            self._record({**shown, "lr_step": self._rate}, self.global_step)
        return loss * (part * self.trainer.world_size)  # whose gradients are averaged over the processes

    def validation_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Probabilities (N, classes), float32."""
        images, labels = batch
        logits = run_with_others(self, images)
        self._count("val", logits, labels, labels)
        return logits.float().softmax(1)

    def test_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Probabilities (N, classes), float32."""
        images, labels = batch
        logits = run_with_others(self.infer, images)
        self._count("test", logits, labels, labels)
        if len(labels):
            self._metric("test/class_acc").update(logits, labels)
        return logits.float().softmax(1)

    def on_train_epoch_end(self) -> None:
        values: dict[str, Any] = {**self._epoch_values("train"), "lr": self._rate}
        self.log_dict(values, logger=False, sync_dist=True)
        self._record(values, self.global_step - 1)

    def on_validation_epoch_end(self) -> None:
        values = self._epoch_values("val")
        self.log_dict(values, prog_bar=True, sync_dist=True)
        # in a fit's validation too `trainer.training` is False
        if self._plateau is not None and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._plateau.step(values["val/loss"])

    def on_test_epoch_end(self) -> None:
        per_class = self._metric("test/class_acc")
        names = [f"test/acc/{name}" for name in self.class_names]
        self.log_dict(dict(zip(names, per_class.compute(), strict=True)), sync_dist=True)
        per_class.reset()
        self.log_dict(self._epoch_values("test"), sync_dist=True)

    def _count(
        self,
        split: str,
        logits: Tensor,
        labels: Tensor,
        targets: Tensor,
        label_smoothing: float = 0.0,
        counted: bool = True,
    ) -> Tensor:
        """The loss of a batch, which is `counted` in the split's metrics; targets are labels or (N, classes)."""
        if logits.shape[1:] != (len(self.class_names),):
            raise ValueError(
                f"the network gives logits of shape {list(logits.shape)} for {len(labels)} images, but the data has "
                f"{len(self.class_names)} classes: set the network's number of classes, in model.network.init_args "
                "(or dict_kwargs, for a function that takes any argument)"
            )
        if self.loss is None:
            loss = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
        else:
            loss = self.loss(logits, targets)
        if counted and len(labels):  # torchmetrics takes no empty batch
            # one value an image: `weight` is ignored where it does not look for NaN (torchmetrics issue 3434)
            self._metric(f"{split}/loss").update(loss.detach().expand(len(labels)))
            self._metric(f"{split}/acc").update(logits.detach(), labels)
        return loss

    def _is_mine(self, batch_index: int) -> bool:
        """Whether this process counts its training images: those that all have are counted by the first."""
        is_repeated = getattr(self.trainer.train_dataloader, "is_repeated", None)  # of `BatchLoader`
        return self.trainer.is_global_zero or is_repeated is None or not is_repeated(batch_index)

    def _record(self, values: dict[str, Any], step: int) -> None:
        """Hands metrics of training to the loggers at once. Lightning would hand them over only after the checkpoint
        of the same step was written: a run killed between the two, and resumed, would lack them."""
        numbers = {name: float(value) for name, value in values.items()}
        for logger in self.loggers:
            logger.log_metrics({**numbers, "epoch": self.current_epoch}, step)

    def _epoch_values(self, split: str) -> dict[str, Tensor]:
        """Loss and accuracy of a split over the epoch; counting starts again from nothing."""
        values: dict[str, Tensor] = {}
        for name in (f"{split}/loss", f"{split}/acc"):
            metric = self._metric(name)
            values[name] = metric.compute()
            metric.reset()
        return values

    def _metric(self, name: str) -> Metric:
        metric = self.metrics[name]
        assert isinstance(metric, Metric)
        return metric


def _shortened(names: list[str]) -> str:
    listed = ", ".join(names[:10])
    return f"{listed}, … ({len(names)} in all)" if len(names) > 10 else listed
