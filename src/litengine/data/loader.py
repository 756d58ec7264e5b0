"""The batch loader: whole batches of uint8 images, in an order that is a function of (seed, epoch, batch)."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from .augment import Augment, Draw
from .sources.shards import Shards

ORDER = 0x0DE2  # tags the random stream of the order, which differs from that of the augmentation
Batch = tuple[Tensor, Tensor]
Position = tuple[int, int]


class BatchLoader:
    """Yields (images uint8 (n, C, H, W), labels int64 (n,)) on `device`; a sized iterable that any Trainer takes.

    Nothing here is done image by image: a batch is one gather from the arrays, one copy to the device, and the
    augmentation of the whole batch there. Each of several processes gets its slice of the *same* batches: no image is
    padded or counted twice.

    Args:
        images, labels: uint8 (N, C, H, W) and int64 (N,), in memory, memory-mapped, or on `device`; images in shards
            too, which have an order of their own.
        batch_size: images a step, over all processes together.
        indices: int64, the images to use (a split); all by default.
        shuffle: a new order every epoch; else the order of `indices`.
        probabilities: float (n,), sum 1: with `shuffle`, an epoch draws as many images as there are, with replacement,
            each image with its probability; by default it takes every image once.
        augment: random changes, one after the other.
        seed: of order and augmentation.
        device: where the batches are wanted.
        rank, world_size: rank of this process, number of processes.
        position: asked once at the start of an iteration: (epoch, first batch), so that a resumed run continues in the
            middle of an epoch.
        prefetch: batches that one background thread makes ahead of the one in use, on a GPU in a stream of its own;
            0 for no thread. Its errors are raised where the batch is asked for, and it ends with the iterator.
    """

    def __init__(
        self,
        images: Tensor | Shards,
        labels: Tensor,
        batch_size: int,
        *,
        indices: np.ndarray | None = None,
        shuffle: bool = False,
        probabilities: np.ndarray | None = None,
        augment: Sequence[Augment] = (),
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        position: Callable[[], Position] = lambda: (0, 0),
        prefetch: int = 0,
    ) -> None:
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.indices = np.arange(len(labels)) if indices is None else indices
        self.shuffle = shuffle
        self.probabilities = probabilities
        self.augment = augment
        self.seed = seed
        self.device = torch.device(device)
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.prefetch = prefetch

    def __len__(self) -> int:
        full, rest = divmod(len(self.indices), self.batch_size)
        # BatchNorm cannot train on one image: if that would be the last batch, it joins the batch before
        return full + (rest > 1 or (rest == 1 and not (full and self.shuffle)))

    def size(self, number: int) -> int:
        """Images in batch `number` of an epoch, over all processes together."""
        start = number * self.batch_size
        return len(self.indices) - start if number == len(self) - 1 else self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        # A generator: `position` is asked at the first batch, not when the Trainer makes the iterator, which on a
        # resumed run is before it knows the epoch.
        epoch, start = self.position()
        order = self.order(epoch)
        if isinstance(self.images, Shards) and start < len(self):
            self.images.expect(np.concatenate([self.chosen(order, number) for number in range(start, len(self))]))
        if self.prefetch:
            yield from self._prefetched(order, epoch, start)
        else:
            for number in range(start, len(self)):
                yield self.batch(order, epoch, number)

    def state_dict(self) -> dict[str, int]:
        """Empty; its presence tells Lightning that the loader can be resumed. `position` says where."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None: ...

    def order(self, epoch: int) -> np.ndarray:
        """int64: the indices of all images in the order of this epoch."""
        if not self.shuffle:
            return self.indices
        generator = np.random.default_rng((ORDER, self.seed, epoch))
        if self.probabilities is not None:
            return generator.choice(self.indices, len(self.indices), p=self.probabilities)
        if isinstance(self.images, Shards):
            return self.images.order(self.indices, generator, self.batch_size)
        return generator.permutation(self.indices)

    def chosen(self, order: np.ndarray, number: int) -> np.ndarray:
        """int64 (n,): which images of the arrays this process's slice of batch `number` holds."""
        start = number * self.batch_size
        return order[start : start + self.size(number)][self._slice(number)]

    def batch(self, order: np.ndarray, epoch: int, number: int) -> Batch:
        """This process's slice of batch `number` of the epoch; no other batch is needed for it."""
        chosen = self.chosen(order, number)
        index = torch.from_numpy(chosen)
        images, labels = self._gather(self.images, index), self._gather(self.labels, index)
        draw = Draw(self.seed, epoch, number, self.size(number), self._slice(number), chosen, self.device)
        for augment in self.augment:
            images = augment(images, draw)
        return images, labels

    def is_repeated(self, number: int) -> bool:
        """Whether all processes train on all images of batch `number`, because it is too small to be divided."""
        size = self.size(number)
        # no network can be trained on no image, and BatchNorm not on one of an incomplete batch
        return self.shuffle and (size < self.world_size or size < min(2 * self.world_size, self.batch_size))

    def _slice(self, number: int) -> slice:
        """This process's share of a batch, or all of one that is too small. The mean of the gradients of all processes
        is the same."""
        size = self.size(number)
        if self.is_repeated(number):
            return slice(0, size)
        return slice(size * self.rank // self.world_size, size * (self.rank + 1) // self.world_size)

    def _gather(self, array: Tensor | Shards, index: Tensor) -> Tensor:
        """These rows, on the device."""
        if isinstance(array, Tensor) and array.device.type == self.device.type:
            return array.index_select(0, index.to(array.device, non_blocking=True))
        # uint8: a quarter of the bytes of float32 to move; from pinned memory they move while the GPU computes
        pinned = self.device.type == "cuda"
        rows = torch.empty((len(index), *array.shape[1:]), dtype=array.dtype, pin_memory=pinned)
        if isinstance(array, Tensor):
            torch.index_select(array, 0, index, out=rows)
        else:
            array.gather(index.numpy(), rows)
        return rows.to(self.device, non_blocking=pinned)

    def _prefetched(self, order: np.ndarray, epoch: int, start: int) -> Iterator[Batch]:
        """The batches from `start` on, made ahead by a thread."""
        # a stream of its own, or copying and augmenting would wait for the training steps queued before them
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

        def begin() -> None:
            if stream:
                torch.cuda.set_stream(stream)  # and its GPU: each thread begins on GPU 0

        def make(number: int) -> tuple[Batch, torch.cuda.Event | None]:
            return self.batch(order, epoch, number), stream.record_event() if stream else None

        thread = ThreadPoolExecutor(1, "batches", begin)
        pending: deque[Future[tuple[Batch, torch.cuda.Event | None]]] = deque()
        try:
            for number in range(start, len(self) + self.prefetch):
                if number < len(self):
                    pending.append(thread.submit(make, number))
                if number == len(self) - 1:
                    thread.shutdown(wait=False)  # once these are made: after the last batch nobody comes back here
                if number < start + self.prefetch:
                    continue
                batch, made = pending.popleft().result()
                if made:
                    training = torch.cuda.current_stream(self.device)
                    training.wait_event(made)
                    for tensor in batch:
                        tensor.record_stream(training)  # or its memory is given to a next batch while still in use
                yield batch
        finally:
            # without waiting: it may be the thread itself that collects a forgotten iterator
            thread.shutdown(wait=False, cancel_futures=True)
