"""ImageClassifier: network, loss, metrics, optimizer, schedule and the three steps."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from litengine.module import ClassifierModule
from litengine.optim import check_settings, parameter_groups
from litengine.views import TTA

Batch = tuple[Tensor, Tensor]  # images uint8 (N, C, H, W), labels int64 (N,)


class ImageClassifier(ClassifierModule):
    """Trains a network to classify images, and measures its accuracy.

    It takes images as the data gives them, uint8 (N, C, H, W), normalises them, and returns logits (N, classes).

    Args:
        network: maps float images (N, C, H, W) to logits (N, classes).
        optimizer: called with parameter groups; by default the article's Adam.
        lr_scheduler: called with the optimizer; by default the article's ReduceLROnPlateau, which watches `val/loss`.
            Leave `total_steps` (OneCycleLR) or `T_max` (CosineAnnealingLR) null; the length of the fit is filled in.
        parameter_groups: per-group overrides by role (`filters`, `matrices`, `norms`, `biases`, `others`), such as
            `{norms: {lr: 0.1}}`. The `weight_decay` of norms and biases is 0 unless it is set here.
        loss: called with logits (N, classes) and labels (int64 (N,); float (N, classes) for mixed images), returns the
            mean over the images. By default cross entropy. Parameters of the loss itself are not optimized.
        label_smoothing: of cross entropy: the part of the target that is spread over all classes, 0 to 1.
        mixing: mixes training images and their targets: torchvision.transforms.v2.MixUp or CutMix.
        channels_last: store images and filters as (N, H, W, C) in memory, in which convolutions are faster.
        compile: compile the network with `torch.compile`; checkpoints stay the same.
        tta: test-time augmentation in test, predict, export and demo: logits are averaged over 2 (`flip`) or 6
            (`flip+shift`) views of each image.

    Raises:
        ValueError: for a setting that cannot work.
    """

    default_network = "litcnn.networks.CNN"

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
        super().__init__(network, tta=tta, channels_last=channels_last, compile=compile)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"model.label_smoothing is {label_smoothing}: choose a fraction of 0 to 1")
        if label_smoothing and loss is not None:
            raise ValueError(
                "model.label_smoothing is a setting of cross entropy: leave it out beside model.loss, or give it to "
                "that loss"
            )
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.parameter_groups = parameter_groups
        self.loss = loss
        self.label_smoothing = label_smoothing
        self.mixing = mixing

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), uint8 0..255 or float 0..1."""
        logits: Tensor = self.network(self.normalize(images))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = self.normalize(batch[0]), batch[1]
        targets = labels
        if self.mixing is not None:
            images, targets = self.mixing(images, F.one_hot(labels, len(self.class_names)).to(images.dtype))  # (N, classes)
            labels = targets.argmax(1)  # the class with the largest part of the image
        logits = self.network(images)
        loss = self.compute_loss(logits, targets, self.label_smoothing)
        self.count("train", loss, logits, labels)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities (N, classes), float32."""
        images, labels = batch
        logits = self.infer(images, tta="none")
        self.count("val", self.compute_loss(logits, labels), logits, labels)
        return logits.float().softmax(1)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities (N, classes), float32."""
        images, labels = batch
        logits = self.infer(images)
        self.count("test", self.compute_loss(logits, labels), logits, labels)
        return logits.float().softmax(1)

    def compute_loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The mean over the images; targets are labels, int64 (N,), or of mixed images, float (N, classes)."""
        if self.loss is None:
            return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
        loss: Tensor = self.loss(logits, targets)
        return loss

    def configure_metrics(self) -> MetricCollection:
        """Metrics of validation and test. A metric added here is logged, shown, reported, and can be monitored."""
        classes = len(self.class_names)
        return MetricCollection({"acc": MulticlassAccuracy(classes, average="micro", validate_args=False)})

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(parameter_groups(self.network, self.parameter_groups))
        check_settings(self.parameter_groups or {}, optimizer)
        return self.with_schedule(optimizer, self.lr_scheduler)
