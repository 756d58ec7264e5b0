"""The batch loader: whole batches of uint8 images, in an order that is a function of (seed, epoch, batch)."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from litcnn.data.augment import Augment, Draw

Batch = tuple[Tensor, Tensor]
Place = tuple[int, int]


class BatchLoader:
    """Yields (images uint8 (n, C, H, W), labels int64 (n,)) on `device`; a sized iterable that any Trainer takes.

    Nothing here is done image by image: a batch is one gather from the arrays, one copy to the device, and the
    augmentation of the whole batch there. Of several processes each gets its slice of the *same* batches: none is
    padded and none is seen twice.

    Args:
        images, labels: uint8 (N, C, H, W) and int64 (N,), in memory or memory-mapped.
        batch_size: images a step, over all processes together.
        indices: int64, the images to use (a split); all by default.
        shuffle: a new order every epoch; else the order of `indices`.
        augment: random changes, one after the other.
        seed: of order and augmentation.
        device: where the batches are wanted.
        rank, world_size: this process among all.
        place: asked once at the start of an iteration: (epoch, first batch), so that a resumed run goes on in the
            middle of an epoch.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        indices: np.ndarray | None = None,
        shuffle: bool = False,
        augment: Sequence[Augment] = (),
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        place: Callable[[], Place] = lambda: (0, 0),
    ) -> None:
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.indices = np.arange(len(labels)) if indices is None else indices
        self.shuffle = shuffle
        self.augment = augment
        self.seed = seed
        self.device = torch.device(device)
        self.rank = rank
        self.world_size = world_size
        self.place = place

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: `place` is asked at the first batch, not when the Trainer makes the iterator, which on a
        # resumed run is before it knows the epoch.
        epoch, start = self.place()
        order = self.order(epoch)
        for number in range(start, len(self)):
            yield self.batch(order, epoch, number)

    def state_dict(self) -> dict[str, int]:
        """Nothing: `place` tells where to go on. It is here because Lightning takes loaders without one for such as
        cannot be resumed."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None: ...

    def order(self, epoch: int) -> np.ndarray:
        """int64: the indices of all images in the order of this epoch."""
        if not self.shuffle:
            return self.indices
        return np.random.default_rng((self.seed, epoch)).permutation(self.indices)

    def batch(self, order: np.ndarray, epoch: int, number: int) -> Batch:
        """Batch `number` of the epoch, by itself: this process's slice of it."""
        chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
        first, last = (len(chosen) * part // self.world_size for part in (self.rank, self.rank + 1))
        index = torch.from_numpy(chosen[first:last])
        images = self._to_device(self.images[index])  # uint8: a quarter of the bytes of float32 to move
        labels = self._to_device(self.labels[index])
        draw = Draw(self.seed, epoch, number, len(chosen), slice(first, last), self.device)
        for augment in self.augment:
            images = augment(images, draw)
        return images, labels

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor.to(self.device)
        # from pinned memory the copy runs beside the computation of the batch before
        return tensor.pin_memory().to(self.device, non_blocking=True)
