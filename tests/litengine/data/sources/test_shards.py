import hashlib
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from project_for_tests import RandomCrop

from litengine.data import BatchLoader
from litengine.data.sources import shards as module
from litengine.data.sources.shards import LANES, Shards


class Store:
    """Images whose every pixel is the number of the image, modulo 256; notes which shards were read, and how many were
    open at most."""

    def __init__(self, images: int, per_shard: int) -> None:
        self.reads: list[int] = []
        self.lock = threading.Lock()
        pixels = (torch.arange(images) % 256).to(torch.uint8)
        self.pixels = pixels[:, None, None, None].expand(images, 3, 4, 4).contiguous()
        self.shards = Shards(self.read, (images, 3, 4, 4), per_shard)

    def read(self, shard: int) -> torch.Tensor:
        with self.lock:
            self.reads.append(shard)
        first = shard * self.shards.per_shard
        return self.pixels[first : first + self.shards.per_shard]

    @property
    def open(self) -> int:
        return len(self.shards._open)


def test_it_stands_for_a_tensor():
    store = Store(25, 10)
    images = store.shards
    assert len(images) == 25 and images.shape == store.pixels.shape
    assert images.dtype == store.pixels.dtype and images.device == store.pixels.device
    assert torch.equal(images[13], store.pixels[13])
    index = torch.tensor([24, 0, 0, 11])
    assert torch.equal(images[index], store.pixels[index])
    images[index].fill_(7)  # new memory
    assert torch.equal(images[index], store.pixels[index])
    del store.reads[:]
    for first in range(0, 25, 5):
        assert torch.equal(images[torch.arange(first, first + 5)], store.pixels[first : first + 5])
    assert store.reads == [1, 2] and store.open == 1  # neighbours are read once; 0 was still open


@pytest.mark.parametrize("batch_size", [1, 7, 24, 128])
@pytest.mark.parametrize(("images", "per_shard"), [(5, 10), (995, 10), (3203, 31)])
def test_an_order_has_every_image_once(images, per_shard, batch_size):
    indices = np.delete(np.arange(images), [1, 3])
    order = Store(images, per_shard).shards.order(indices, np.random.default_rng(0), batch_size)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), indices)


def test_an_order_is_a_function_of_its_generator():
    images = Store(1000, 10).shards
    first, other = (images.order(np.arange(1000), np.random.default_rng(seed), 32) for seed in (0, 1))
    assert (
        hashlib.sha256(first.tobytes()).hexdigest()
        == "633d384bc1b06cfe88e3c55635bef58083a00b701b2b63d1d0dd63f4ef3eb708"
    )
    assert not np.array_equal(first, other)
    few = Store(90, 10).shards.order(np.arange(90), np.random.default_rng(0), 32)
    assert np.array_equal(few, np.random.default_rng(0).permutation(90))


def test_a_batch_is_mixed_from_sixteen_shards_and_the_next_one_from_the_same():
    order = Store(3200, 20).shards.order(np.arange(3200), np.random.default_rng(0), 32)
    batches = [set(batch // 20) for batch in order.reshape(-1, 32)]
    assert all(len(batch) == LANES for batch in batches)
    changes = [len(batch - before) for before, batch in pairwise(batches)]
    assert changes == ([0] * 9 + [16]) * 9 + [0] * 9  # 2 images of each of 16 shards of 20


@pytest.mark.parametrize("processes", [2, 16])
def test_every_process_reads_shards_of_its_own(processes):
    images = Store(3200, 20).shards
    order = images.order(np.arange(3200), np.random.default_rng(0), 32).reshape(-1, processes, 32 // processes)
    read = [set(order[:, rank].ravel() // 20) for rank in range(processes)]
    assert sum(map(len, read)) == 160 == len(set.union(*read))


def test_in_an_epoch_each_shard_is_read_once_and_few_are_open():
    store = Store(3200, 20)
    most = 0
    for images, labels in BatchLoader(store.shards, torch.arange(3200), 32, shuffle=True):
        assert torch.equal(images, store.pixels[labels])
        most = max(most, store.open)
    assert sorted(store.reads) == list(range(160))
    assert most == 2 * LANES  # in use, and read ahead
    assert store.open <= LANES


def test_shards_are_read_ahead_of_their_use():
    store = Store(3200, 20)
    loader = BatchLoader(store.shards, torch.arange(3200), 32, shuffle=True)
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    needed = set(loader.order(0)[: 20 * 16] // 20)  # up to the batch in which the lanes change their shards
    ahead = set(loader.order(0)[20 * 16 : 2 * 20 * 16] // 20)
    store.shards._threads.shutdown(wait=True)
    assert set(store.reads) == needed | ahead


@pytest.mark.parametrize("start", [1, 99])
def test_a_resumed_epoch_has_the_same_batches_and_reads_what_they_need(start):
    store, again = Store(3203, 20), Store(3203, 20)
    options = {"shuffle": True, "augment": [RandomCrop(2)], "seed": 3}
    whole = list(BatchLoader(store.shards, torch.arange(3203), 32, **options))
    loader = BatchLoader(again.shards, torch.arange(3203), 32, position=lambda: (0, start), **options)
    for batch, other in zip(whole[start:], loader, strict=True):
        assert torch.equal(batch[0], other[0]) and torch.equal(batch[1], other[1])
    assert set(again.reads) == set(loader.order(0)[start * 32 :] // 20)


def test_several_processes_see_the_batches_of_one():
    processes = 3
    options = {"shuffle": True, "augment": [RandomCrop(2)], "seed": 3}
    alone = list(BatchLoader(Store(403, 10).shards, torch.arange(403), 32, **options))
    of_each = [
        list(BatchLoader(Store(403, 10).shards, torch.arange(403), 32, rank=rank, world_size=processes, **options))
        for rank in range(processes)
    ]
    for number, (images, labels) in enumerate(alone):
        assert torch.equal(torch.cat([batches[number][0] for batches in of_each]), images)
        assert torch.equal(torch.cat([batches[number][1] for batches in of_each]), labels)


def test_an_epoch_that_was_left_does_not_disturb_the_next():
    store = Store(3200, 20)
    epoch = 0
    loader = BatchLoader(store.shards, torch.arange(3200), 32, shuffle=True, position=lambda: (epoch, 0), prefetch=2)
    for _ in zip(range(13), loader, strict=False):
        pass
    epoch = 1
    for images, labels in loader:
        assert torch.equal(images, store.pixels[labels])
    assert store.open <= LANES


def test_what_goes_wrong_in_a_thread_is_raised_where_the_image_is_asked_for():
    def read(shard):
        if shard == 2:
            raise OSError("gone")
        return torch.zeros(10, 1, 2, 2, dtype=torch.uint8)

    batches = iter(BatchLoader(Shards(read, (40, 1, 2, 2), 10), torch.arange(40), 10))
    next(batches)
    next(batches)
    with pytest.raises(OSError, match="gone"):
        next(batches)


def test_four_threads_read(monkeypatch):
    together = threading.Barrier(module.READERS, timeout=10)

    def read(shard):
        together.wait()  # breaks unless so many are here at once
        return torch.zeros(1, 1, 2, 2, dtype=torch.uint8)

    images = Shards(read, (module.READERS, 1, 2, 2), 1)
    assert len(images[torch.arange(module.READERS)]) == module.READERS
