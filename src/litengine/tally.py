"""Loss, accuracy and metrics of a split, summed on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from litengine.distributed import reduced


class Tally:
    """Sums of the losses, correct predictions and images of a split, and its metrics. Adding waits for nothing.

    Args:
        split: of the names in `values`, such as `val/loss`.
        metrics: of probabilities (N, classes) and labels (N,), with the split as prefix.
        class_names: of the labels.
    """

    def __init__(
        self,
        split: str,
        device: torch.device,
        metrics: MetricCollection | None = None,
        class_names: Sequence[str] = (),
    ) -> None:
        self.split = split
        self.device = device
        self.metrics = metrics
        self.class_names = class_names
        self._present = torch.zeros(len(class_names), device=device)  # 1 for classes with images
        self.set(torch.zeros(3))

    def set(self, sums: Tensor) -> None:
        """Goes on from sums (3,): loss, correct predictions, images."""
        self._images = int(sums[2])
        self._loss, self._correct, _ = sums.to(self.device).clone()
        self._hits: list[Tensor] = []  # not in `_correct` yet: one operation less for each batch

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: the mean of its losses, logits (N, classes), labels int64 (N,)."""
        images = len(labels)
        self._loss.add_(loss, alpha=images)
        self._hits.append(logits.argmax(1) == labels)
        self._images += images
        if len(self._hits) >= 1000:
            self._settle()
        if self.metrics is not None:
            self._present.index_fill_(0, labels, 1)
            self.metrics.update(logits.float().softmax(1), labels)

    def sums(self) -> Tensor:
        """(3,): loss, correct predictions and images, over all processes."""
        self._settle()
        images = torch.full_like(self._loss, self._images)
        return reduced(torch.stack([self._loss, self._correct, images]), "sum")

    def values(self) -> dict[str, Tensor]:
        """Loss and metrics by name (without metrics, loss and `acc`), and starts again from zero.

        A metric with a value for each class has one name for each class that has images, such as `test/acc/cat`.
        """
        loss, correct, images = self.sums()
        self.set(torch.zeros(3))
        values = {f"{self.split}/loss": loss / images}
        if self.metrics is None:
            return {**values, f"{self.split}/acc": correct / images}
        present = reduced(self._present, "max").tolist()
        for name, value in self.metrics.compute().items():
            if value.ndim:
                rows = zip(self.class_names, value, present, strict=True)
                values |= {f"{name}/{label}": each for label, each, there in rows if there}
            else:
                values[name] = value
        self._present.zero_()
        self.metrics.reset()
        return values

    def higher_is_better(self, name: str) -> bool | None:
        """Whether more of a logged metric is better; None if it is unknown."""
        if "loss" in name.rpartition("/")[2]:
            return False
        if name == "train/acc":
            return True
        for key, metric in self.metrics.items() if self.metrics is not None else ():
            if f"{name}/".startswith(f"{key}/"):  # a metric may have a value for each class
                return metric.higher_is_better
        return None

    def _settle(self) -> None:
        if self._hits:
            self._correct += torch.cat(self._hits).sum()
            self._hits.clear()
