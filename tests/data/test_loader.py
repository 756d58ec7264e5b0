import hashlib
from itertools import chain

import numpy as np
import pytest
import torch

from litcnn.data import BatchLoader, RandomCrop, RandomFlip


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
    batches = list(loader(shuffle=True, place=lambda: (epoch, 0)))
    assert [len(numbers) for _, numbers in batches] == [4, 4, 4, 1]  # the last, short one is kept
    assert sorted(chain(*labels(batches))) == list(range(13))
    for images, numbers in batches:
        assert images.dtype == torch.uint8 and numbers.dtype == torch.int64
        assert torch.equal(images, numbers.to(torch.uint8)[:, None, None, None].expand(-1, 3, 6, 6))


@pytest.mark.parametrize(("images", "batch_size", "batches"), [(13, 4, 4), (12, 4, 3), (3, 4, 1), (13, 1, 13)])
def test_length_is_the_number_of_batches(images, batch_size, batches):
    assert len(loader(images, batch_size)) == len(list(loader(images, batch_size))) == batches


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
        == "53a300350ed625a67b89562c48a14439ad4d18f85501db3fa7da4fd028d2f54a"
    )


def test_without_shuffle_the_order_is_that_of_the_indices():
    assert labels(loader(indices=np.array([5, 2, 9, 0, 7]), batch_size=2)) == [[5, 2], [9, 0], [7]]


def test_shuffled_indices_stay_within_their_split():
    assert sorted(chain(*labels(loader(indices=np.array([5, 2, 9]), shuffle=True)))) == [2, 5, 9]


def random_loader(**options) -> BatchLoader:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    augment = [RandomCrop(2), RandomFlip()]
    return BatchLoader(torch.from_numpy(pixels), torch.arange(30), 7, shuffle=True, augment=augment, seed=3, **options)


def test_a_batch_by_itself_is_the_one_of_the_whole_epoch():
    whole = list(random_loader(place=lambda: (4, 0)))
    alone = random_loader()
    assert same(
        [alone.batch(alone.order(4), 4, number) for number in (3, 0, 4, 2, 1)], [whole[n] for n in (3, 0, 4, 2, 1)]
    )


@pytest.mark.parametrize("start", [0, 2, 4, 5])
def test_from_the_middle_of_an_epoch_it_goes_on_with_the_same_batches(start):
    whole = list(random_loader(place=lambda: (1, 0)))
    assert same(list(random_loader(place=lambda: (1, start))), whole[start:])


def test_another_epoch_has_other_augmentation():
    def by_label(epoch: int) -> torch.Tensor:
        images, numbers = (torch.cat(parts) for parts in zip(*random_loader(place=lambda: (epoch, 0)), strict=True))
        return images[numbers.argsort()]

    assert (by_label(0) == by_label(1)).flatten(1).all(1).sum() < 10


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_share_each_batch_without_gap_or_double(world_size):
    whole = labels(loader(shuffle=True))
    parts = [labels(loader(shuffle=True, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert [list(chain(*pieces)) for pieces in zip(*parts, strict=True)] == whole
    sizes = [[len(piece) for piece in pieces] for pieces in zip(*parts, strict=True)]
    assert all(max(size) - min(size) <= 1 for size in sizes)


def test_place_is_asked_at_the_first_batch_and_once():
    asked = []

    def place():
        asked.append(True)
        return 0, 0

    iterator = iter(loader(place=place))
    assert asked == []
    next(iterator)
    next(iterator)
    assert asked == [True]


def test_images_are_not_copied_where_they_lie():
    pixels = torch.zeros(10, 1, 2, 2, dtype=torch.uint8)
    made = BatchLoader(pixels, torch.arange(10), 5)
    next(iter(made))[0].fill_(255)
    assert made.images is pixels and pixels.sum() == 0
