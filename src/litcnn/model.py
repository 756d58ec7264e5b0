"""ImageClassifier: network, loss, metrics, optimizer, schedule and the three steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from litengine.metrics import MeanAUROC, MeanF1, MeanRecall
from litengine.module import ClassifierModule
from litengine.network_check import check_loss
from litengine.optim import check_settings, decay_rates, parameter_groups
from litengine.views import TTA

Name = Literal["acc", "acc_top5", "balanced_acc", "f1", "auroc"]
METRICS: dict[Name, Callable[[int], Metric]] = {  # called with the number of classes
    "acc": lambda classes: MulticlassAccuracy(classes, average="micro", validate_args=False),
    "acc_top5": lambda classes: MulticlassAccuracy(classes, top_k=min(5, classes), average="micro"),
    "balanced_acc": lambda classes: MeanRecall(classes, average="none"),  # these three over the classes with images
    "f1": lambda classes: MeanF1(classes, average="none"),
    "auroc": lambda classes: MeanAUROC(classes, average="none"),
}
Batch = tuple[Tensor, Tensor]  # images uint8 (N, C, H, W), labels int64 (N,)


class ImageClassifier(ClassifierModule):
    """Trains a network to classify images, and measures its accuracy.

    It takes images as the data gives them, uint8 (N, C, H, W), normalises them, and returns logits (N, classes).

    Args:
        network: maps float images (N, C, H, W) to logits (N, classes).
        optimizer: called with parameter groups; by default the article's Adam.
        lr_scheduler: called with the optimizer; by default the article's ReduceLROnPlateau, which watches `val/loss`.
            Leave `total_steps` (OneCycleLR) or `T_max` (CosineAnnealingLR) null; the length of the fit is filled in.
        parameter_groups: per-group overrides by role (`filters`, `matrices`, `norms`, `biases`, `others`), or by name
            or pattern of modules or parameters, such as `{norms: {lr: 0.1}, head: {lr: 0.01}}`. The `weight_decay` of
            norms and biases is 0 unless it is set here.
        layer_decay: multiplies the learning rate of each layer once more than that of the layer after it; 1 for none.
        loss: called with logits (N, classes) and labels (int64 (N,); float (N, classes) for mixed images), returns the
            mean over the images. By default cross entropy. Parameters of the loss itself are not optimized.
        class_weights: of cross entropy in training: a number for each class, or `balanced` for numbers inversely
            proportional to the training images of the classes.
        label_smoothing: of cross entropy in training: the part of the target that is spread over all classes, 0 to 1.
        metrics: of validation and test, by name; `configure_metrics` takes others.
        mixing: mixes training images and their targets: torchvision.transforms.v2.MixUp or CutMix.
        init_from: file with weights to start from: a checkpoint, a `.pth` or a `.safetensors` of the same architecture.
            A head of another size stays new.
        freeze: names or patterns of parameters or modules that are not trained, such as `[blocks]`.
        unfreeze_at_epoch: the epoch (from 0) in which they are trained again; null for never.
        channels_last: store images and filters as (N, H, W, C) in memory, in which convolutions are faster.
        compile: compile the network with `torch.compile`; a string is its `mode`. Checkpoints stay the same.
        cuda_graph: on one GPU, record the network's forward and backward once and replay them for every full training
            batch: fewer launches for the host. A compiled network is not recorded.
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
        layer_decay: float = 1.0,
        loss: nn.Module | None = None,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        metrics: Sequence[Name] = ("acc",),
        mixing: nn.Module | None = None,
        init_from: str | None = None,
        freeze: Sequence[str] = (),
        unfreeze_at_epoch: int | None = None,
        channels_last: bool = True,
        compile: bool | str = False,
        cuda_graph: bool = False,
        tta: TTA = "none",
    ) -> None:
        super().__init__(network, tta, channels_last, compile, init_from, freeze, unfreeze_at_epoch, cuda_graph)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"model.label_smoothing is {label_smoothing}: choose a fraction of 0 to 1")
        for name, value in {"label_smoothing": label_smoothing, "class_weights": class_weights}.items():
            if value and loss is not None:
                raise ValueError(
                    f"model.{name} is a setting of cross entropy: leave it out beside model.loss, or give it to that "
                    "loss"
                )
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.parameter_groups = parameter_groups
        self.layer_decay = layer_decay
        self.loss = loss
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing
        self.metric_names = metrics
        self.weights: Tensor | None = None  # of the classes
        self.mixing = mixing

    def on_fit_start(self) -> None:
        super().on_fit_start()
        weights = self.class_weights
        if weights == "balanced":
            images, present = sum(self.class_counts), sum(count > 0 for count in self.class_counts)
            weights = [images / (present * max(1, count)) for count in self.class_counts]
        if weights is not None and len(weights) != len(self.class_names):
            raise ValueError(f"model.class_weights has {len(weights)} numbers for {len(self.class_names)} classes")
        if weights is not None and min(weights) < 0:
            raise ValueError(f"model.class_weights has {min(weights)}: choose numbers of 0 or more")
        self.weights = None if weights is None else torch.tensor(weights, device=self.device)
        check_loss(self.compute_loss, len(self.class_names), self.device)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), uint8 0..255 or float 0..1."""
        logits: Tensor = self.network(self.normalize(images))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = self.normalize(batch[0]), batch[1]
        targets = labels
        if self.mixing is not None:
            one_hot = F.one_hot(labels, len(self.class_names)).to(images.dtype)  # (N, classes)
            images, targets = self.mixing(images, one_hot)
            labels = targets.argmax(1)  # the class with the largest part of the image
        logits, auxiliary = self.outputs(images)
        loss = self.compute_loss(logits, targets, self.label_smoothing, self.weights)
        for weight, others in auxiliary:
            loss = loss + weight * self.compute_loss(others, targets, self.label_smoothing, self.weights)
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

    def compute_loss(
        self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """The mean over the images; targets are labels, int64 (N,), or of mixed images, float (N, classes)."""
        if self.loss is None:
            return F.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing)
        loss: Tensor = self.loss(logits, targets)
        return loss

    def configure_metrics(self) -> MetricCollection:
        """Metrics of validation and test. A metric added here is logged, shown, reported, and can be monitored."""
        classes = len(self.class_names)
        return MetricCollection({name: METRICS[name](classes) for name in self.metric_names})

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.network, self.parameter_groups, self.frozen.parameters, self.layer_decay)
        optimizer = self.optimizer(groups)
        check_settings(self.parameter_groups or {}, optimizer)
        decay_rates(optimizer)
        return self.with_schedule(optimizer, self.lr_scheduler)
