"""Loss and accuracy of a split, summed on the device."""

import torch
from torch import Tensor

from litengine.distributed import reduced


class Tally:
    """Sum of the losses, correct predictions and images of a split. Adding waits for nothing and launches little."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.set(torch.zeros(3, device=device))

    def set(self, sums: Tensor) -> None:
        """Goes on from sums (3,): loss, correct predictions, images."""
        self._loss, self._correct, images = sums.to(self.device).clone()
        self._images = int(images)
        self._hits: list[Tensor] = []  # not in `_correct` yet: one operation less for each batch

    def add(self, loss: Tensor, hits: Tensor) -> None:
        """A batch.

        Args:
            loss: the mean over the batch.
            hits: bool (N,), whether a prediction is correct.
        """
        self._loss.add_(loss, alpha=len(hits))
        self._hits.append(hits)
        self._images += len(hits)
        if len(self._hits) >= 1000:
            self.settle()

    def settle(self) -> None:
        """Adds up what was put off."""
        if self._hits:
            self._correct += torch.cat(self._hits).sum()
            self._hits.clear()

    def sums(self) -> Tensor:
        """(3,): loss, correct predictions and images, over all processes."""
        self.settle()
        images = torch.full_like(self._loss, self._images)
        return reduced(torch.stack([self._loss, self._correct, images]), "sum")

    def reset(self) -> None:
        self.set(torch.zeros(3, device=self.device))
