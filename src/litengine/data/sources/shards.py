"""Images in shards, too many for memory or far away: a few shards are open, and the next ones are read ahead."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
import torch
from torch import Tensor

LANES = 16  # shards that a shuffled batch is mixed from; as many more are read ahead
READERS = 4  # threads: one connection to an object store is slower than a network


class Shards:
    """uint8 images (N, C, H, W) in shards of `per_shard` each (the last may have fewer), read when they are needed.

    It takes the place of a tensor: `images[3]` and `images[index]` give tensors, in new memory. To read ahead, say
    which images come next (`expect`), in an order that opens few shards at a time (`order`).

    Args:
        read: returns a shard, by its number: uint8 (n, C, H, W); several threads call it.
        shape: (N, C, H, W).
        per_shard: images in each shard.
    """

    dtype = torch.uint8
    device = torch.device("cpu")

    def __init__(self, read: Callable[[int], Tensor], shape: tuple[int, int, int, int], per_shard: int) -> None:
        self.shape = shape
        self.per_shard = per_shard
        self._read = read
        self._threads: ThreadPoolExecutor | None = None
        self._lock = Lock()  # an abandoned epoch may still be reading while the next one begins
        self._open: dict[int, Future[Tensor]] = {}
        self._upcoming: deque[int] = deque()  # shards to read ahead, in the order they are needed
        self._expected = np.zeros(-(-shape[0] // per_shard), dtype=np.int64)  # images of each shard still to come

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | Tensor) -> Tensor:
        """One image (C, H, W), or those of an int64 index (n,)."""
        if isinstance(index, int):
            return self[torch.tensor([index])][0]
        images = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        self.gather(index.numpy(), images)
        return images

    def gather(self, rows: np.ndarray, out: Tensor) -> None:
        """Copies the images `rows`, int64 (n,), into `out`, uint8 (n, C, H, W)."""
        shards = rows // self.per_shard
        with self._lock:
            needed = {shard: self._begin(shard) for shard in np.unique(shards).tolist()}
            for shard, reading in needed.items():
                places = np.flatnonzero(shards == shard)
                chosen = torch.from_numpy(rows[places] - shard * self.per_shard)
                out.index_copy_(0, torch.from_numpy(places), reading.result().index_select(0, chosen))
                self._expected[shard] -= len(places)
            # those of this call stay open: without `expect`, their neighbours are often needed next
            for shard in [*self._open]:
                if shard not in needed and self._expected[shard] <= 0:
                    del self._open[shard]
            self._read_ahead()

    def expect(self, rows: np.ndarray) -> None:
        """These images, int64 (n,), are needed next, in this order; replaces an earlier call. Their shards are read
        ahead, and closed after the last image."""
        shards = rows // self.per_shard
        first = np.unique(shards, return_index=True)[1]
        with self._lock:
            self._expected = np.bincount(shards, minlength=len(self._expected))
            self._upcoming = deque(shards[np.sort(first)].tolist())
            self._open = {shard: reading for shard, reading in self._open.items() if self._expected[shard]}
            self._read_ahead()

    def order(self, indices: np.ndarray, generator: np.random.Generator, batch_size: int) -> np.ndarray:
        """The images `indices`, int64 ascending, shuffled for batches of `batch_size`.

        Shards come in random order, and so do the images of a shard. There are up to 16 lanes, with different shards;
        a batch takes as many images from each, one lane after the other. So each of several processes, which gets a
        slice of every batch, reads other shards. What is left when the first lane ends is shuffled as a whole, as are
        all images if there are fewer shards than lanes.
        """
        lanes = max(count for count in range(1, LANES + 1) if batch_size % count == 0)
        ends = np.flatnonzero(np.diff(indices // self.per_shard)) + 1
        depth, share = (len(ends) + 1) // lanes, batch_size // lanes
        if depth == 0:
            return generator.permutation(indices)
        of_shards = [generator.permutation(rows) for rows in np.split(indices, ends)]
        visited = [of_shards[number] for number in generator.permutation(len(of_shards))]
        lane = [np.concatenate(visited[first : first + depth]) for first in range(0, lanes * depth, depth)]
        length = min(map(len, lane)) // share * share
        mixed = np.stack([rows[:length] for rows in lane]).reshape(lanes, -1, share)  # (lanes, batches, share)
        left = np.concatenate([*(rows[length:] for rows in lane), *visited[lanes * depth :]])
        return np.concatenate([mixed.swapaxes(0, 1).ravel(), generator.permutation(left)])

    def _read_ahead(self) -> None:
        while self._upcoming and len(self._open) < 2 * LANES:
            if self._expected[shard := self._upcoming.popleft()] > 0:
                self._begin(shard)

    def _begin(self, shard: int) -> Future[Tensor]:
        if shard not in self._open:
            self._threads = self._threads or ThreadPoolExecutor(READERS, "shards")
            self._open[shard] = self._threads.submit(self._read, shard)
        return self._open[shard]
