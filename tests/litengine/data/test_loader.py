import gc
import hashlib
import threading
import time
from itertools import chain, islice

import numpy as np
import pytest
import torch
from helpers import trainer
from lightning.pytorch import LightningModule
from project_for_tests import AlternatingFlip, RandomCrop, RandomFlip

from litengine.data import Augment, BatchLoader


def loader(images: int = 13, batch_size: int = 4, **options) -> BatchLoader:
    """Over images whose every pixel is the number of the image, which is the label too."""
    numbers = torch.arange(images)
    pixels = numbers.to(torch.uint8)[:, None, None, None].expand(images, 3, 6, 6)
    return BatchLoader(pixels, numbers, batch_size, **options)


def labels(batches) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_image_comes_once_an_epoch_with_its_label(epoch):
    batches = list(loader(shuffle=True, position=lambda: (epoch, 0)))
    assert [len(numbers) for _, numbers in batches] == [4, 4, 5]  # a last image alone joins the batch before
    assert sorted(chain(*labels(batches))) == list(range(13))
    for images, numbers in batches:
        assert images.dtype == torch.uint8 and numbers.dtype == torch.int64
        assert torch.equal(images, numbers.to(torch.uint8)[:, None, None, None].expand(-1, 3, 6, 6))


@pytest.mark.parametrize(
    ("images", "sizes"), [(13, [4, 4, 5]), (14, [4, 4, 4, 2]), (12, [4, 4, 4]), (1, [1]), (5, [5])]
)
def test_a_last_training_batch_of_one_image_joins_the_batch_before(images, sizes):
    made = loader(images, shuffle=True)
    assert [len(numbers) for numbers in labels(made)] == [made.size(number) for number in range(len(made))] == sizes
    evaluated = loader(images)
    assert len(evaluated) == len(list(evaluated)) == -(-images // 4)


def test_order_is_a_function_of_seed_and_epoch():
    orders = {(seed, epoch): loader(100, seed=seed, shuffle=True).order(epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len({order.tobytes() for order in orders.values()}) == 4
    torch.manual_seed(9)
    np.random.seed(9)  # global state must not matter
    for (seed, epoch), order in orders.items():
        assert np.array_equal(loader(100, seed=seed, shuffle=True).order(epoch), order)


def test_first_order_of_seed_0_is_what_it_always_was():
    order = loader(1000, shuffle=True).order(0)
    assert order.dtype == np.int64
    assert (
        hashlib.sha256(order.tobytes()).hexdigest()
        == "a7f4cf788607f06c5abe6f6d0ef3dd3e1505c40cedf2d8d965eb3768c4dc5990"
    )


def test_the_images_are_those_of_the_indices():
    assert labels(loader(indices=np.array([5, 2, 9, 0, 7]), batch_size=2)) == [[5, 2], [9, 0], [7]]
    assert sorted(chain(*labels(loader(indices=np.array([5, 2, 9]), shuffle=True)))) == [2, 5, 9]


def random_loader(**options) -> BatchLoader:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    settings = {"shuffle": True, "augment": [RandomCrop(2), RandomFlip(), AlternatingFlip()], "seed": 3} | options
    return BatchLoader(torch.from_numpy(pixels), torch.arange(30), 7, **settings)


@pytest.mark.parametrize("start", [0, 2, 4, 5])
def test_from_the_middle_of_an_epoch_it_goes_on_with_the_same_batches(start):
    whole, alone = list(random_loader(position=lambda: (1, 0))), random_loader()
    assert same(list(random_loader(position=lambda: (1, start))), whole[start:])
    assert same([alone.batch(alone.order(1), 1, number) for number in range(start, 5)], whole[start:])


def test_another_epoch_has_other_augmentation():
    def by_label(epoch: int) -> torch.Tensor:
        images, numbers = (torch.cat(parts) for parts in zip(*random_loader(position=lambda: (epoch, 0)), strict=True))
        return images[numbers.argsort()]

    assert (by_label(0) == by_label(1)).flatten(1).all(1).sum() < 10


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_share_each_batch_without_gap_or_double(world_size):
    ranks = [{"rank": rank, "world_size": world_size} for rank in range(world_size)]
    evaluated = [labels(loader(**ways)) for ways in ranks]  # a slice may be empty
    for batch, *pieces in zip(labels(loader()), *evaluated, strict=True):
        sizes = [len(piece) for piece in pieces]
        assert list(chain(*pieces)) == batch and max(sizes) - min(sizes) <= 1
    trained = [labels(loader(shuffle=True, **ways)) for ways in ranks]
    for batch, *pieces in zip(labels(loader(shuffle=True)), *trained, strict=True):
        if len(batch) < max(world_size, min(2 * world_size, 4)):  # too small to share: all take it whole
            assert all(piece == batch for piece in pieces)
        else:
            assert list(chain(*pieces)) == batch and min(map(len, pieces)) > 0
    for ways in ranks:
        made = loader(shuffle=True, indices=np.array([12, 3, 5, 8, 0, 1, 9]), **ways)
        chosen = [made.chosen(made.order(0), number) for number in range(len(made))]
        assert all(indices.dtype == np.int64 for indices in chosen)
        assert [indices.tolist() for indices in chosen] == labels(made)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_position_is_asked_at_the_first_batch_and_once(prefetch):
    asked = []

    def place():
        asked.append(True)
        return 0, 0

    iterator = iter(loader(position=place, prefetch=prefetch))
    assert asked == []
    next(iterator)
    next(iterator)
    assert asked == [True]


def test_images_are_not_copied_where_they_lie():
    pixels = torch.zeros(10, 1, 2, 2, dtype=torch.uint8)
    made = BatchLoader(pixels, torch.arange(10), 5)
    next(iter(made))[0].fill_(255)
    assert made.images is pixels and pixels.sum() == 0


# A background thread


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def none_left() -> bool:
    """Whether the threads have ended, or do so once their batch is made."""
    for thread in threads():
        thread.join(10)
    return not threads()


class Counted(Augment):
    """Counts its batches, and cannot make number `broken`."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken
        self.made = 0

    def __call__(self, images, draw):
        if draw.batch == self.broken:
            raise RuntimeError(f"batch {draw.batch} is broken")
        self.made += 1
        return images


@pytest.mark.parametrize(("prefetch", "start"), [(1, 0), (2, 2), (9, 4), (2, 5)])
def test_batches_made_ahead_are_the_same_in_the_same_order(prefetch, start):
    def place():
        return 1, start

    for rank in range(2):
        ranks = {"rank": rank, "world_size": 2}
        ahead = list(random_loader(position=place, prefetch=prefetch, **ranks))
        assert same(ahead, list(random_loader(position=place, **ranks)))
    assert none_left()


def test_no_more_batches_are_made_ahead_than_asked_for():
    counted = Counted()
    iterator = iter(loader(40, augment=[counted], prefetch=2))
    assert counted.made == 0
    for taken in range(1, 6):
        next(iterator)
        deadline = time.monotonic() + 10
        while counted.made < taken + 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)  # it would go on now
        assert counted.made == taken + 2
    iterator.close()
    assert none_left()


@pytest.mark.parametrize("taken", [1, 5])
def test_the_thread_ends_with_a_forgotten_iterator_and_after_the_last_batch(taken):
    iterator = iter(random_loader(prefetch=2))
    assert len(list(islice(iterator, taken))) == taken  # the Trainer knows the length, and asks for no other batch
    if taken < 5:
        assert len(threads()) == 1
        del iterator
    assert none_left()


def test_a_closed_iterator_finishes_the_batch_at_hand_and_makes_no_other():
    gate, made = threading.Event(), []

    class Gated(Augment):
        def __call__(self, images, draw):
            made.append(draw.batch)
            assert draw.batch == 0 or gate.wait(10)
            return images

    iterator = iter(random_loader(augment=[Gated()], prefetch=2))
    next(iterator)  # number 1 is at hand now, number 2 waits behind it
    iterator.close()
    gate.set()
    assert none_left()
    assert made in ([0], [0, 1])


@pytest.mark.parametrize("broken", [0, 1, 3])
def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_asked_for(broken):
    iterator = iter(random_loader(augment=[Counted(broken)], prefetch=2))
    assert len(list(islice(iterator, broken))) == broken
    with pytest.raises(RuntimeError, match=f"batch {broken} is broken"):
        next(iterator)
    assert none_left()


class Recorder(LightningModule):
    """Keeps the labels it was trained on, and may raise at a step."""

    def __init__(self, raises_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []
        self.raises_at = raises_at

    def training_step(self, batch, batch_index):
        if len(self.seen) == self.raises_at:
            raise RuntimeError("not this one")
        self.seen.append(batch[1].tolist())
        return (batch[0].float().mean() * self.weight).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("settings", [{"limit_train_batches": 2}, {"max_steps": 7}])
def test_a_fit_with_prefetch_sees_the_same_and_leaves_no_thread(settings):
    def fitted(prefetch: int) -> Recorder:
        model = Recorder()
        made = trainer(**settings)
        batches = random_loader(prefetch=prefetch, position=lambda: (made.current_epoch, 0))
        made.fit(model, batches)
        return model

    model, plain = fitted(2), fitted(0)
    assert model.seen == plain.seen and torch.equal(model.weight, plain.weight)
    assert none_left()


def test_a_fit_that_fails_leaves_no_thread():
    with pytest.raises(RuntimeError, match="not this one"):
        trainer().fit(Recorder(raises_at=2), random_loader(prefetch=2))
    gc.collect()
    assert none_left()


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_on_a_gpu_have_the_same_bits(prefetch):
    on_gpu = list(random_loader(device="cuda", prefetch=prefetch))
    assert all(tensor.is_cuda for batch in on_gpu for tensor in batch)
    assert same([(images.cpu(), numbers.cpu()) for images, numbers in on_gpu], list(random_loader()))
    assert none_left()
    made = random_loader(device="cuda", prefetch=prefetch)
    made.images, made.labels = made.images.cuda(), made.labels.cuda()
    assert same([(images.cpu(), numbers.cpu()) for images, numbers in made], list(random_loader()))


@pytest.mark.gpu
def test_a_busy_gpu_gets_each_batch_whole():
    """The copy of a batch is waited for, and its memory is not given to another one too early."""
    pixels = np.random.default_rng(0).integers(0, 256, (4096, 3, 64, 64), dtype=np.uint8)
    made = BatchLoader(torch.from_numpy(pixels), torch.arange(4096), 256, device="cuda", prefetch=2, shuffle=True)
    busy, sums = torch.randn(4096, 4096, device="cuda"), []
    for images, numbers in made:
        busy = torch.nn.functional.normalize(busy @ busy)  # so that steps queue up
        sums.append((numbers, images.sum((1, 2, 3), dtype=torch.int64)))
        del images, numbers
    numbers, found = (torch.cat(parts).cpu().numpy() for parts in zip(*sums, strict=True))
    assert sorted(numbers) == list(range(4096))
    assert np.array_equal(found, pixels.sum((1, 2, 3), dtype=np.int64)[numbers])
