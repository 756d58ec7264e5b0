import numpy as np
import pytest
import torch

from litcnn.data import BatchLoader, Draw, RandomCrop, RandomFlip


def draw(size: int, seed: int = 0, epoch: int = 0, batch: int = 0) -> Draw:
    return Draw(seed, epoch, batch, size, slice(0, size), torch.device("cpu"))


def random_images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))


def crops(image: np.ndarray, mode: str, padding: int = 4) -> dict[bytes, tuple[int, int]]:
    """All windows of the padded image, by their pixels: where each was cut."""
    settings = {"mode": "constant"} if mode == "zeros" else {"mode": mode}
    padded = np.pad(image, [(0, 0), (padding, padding), (padding, padding)], **settings)
    height, width = image.shape[1:]
    places = [(top, left) for top in range(2 * padding + 1) for left in range(2 * padding + 1)]
    return {padded[:, top : top + height, left : left + width].tobytes(): (top, left) for top, left in places}


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_each_crop_is_one_of_the_81_of_its_own_image(mode):
    images = random_images(300, 3, 12, 8)  # higher than wide, so that the two cannot be confused
    cropped = RandomCrop(4, mode)(images, draw(300))
    assert cropped.dtype == torch.uint8 and cropped.shape == images.shape
    places = []
    for image, result in zip(images.numpy(), cropped.numpy(), strict=True):
        possible = crops(image, mode)
        assert len(possible) == 81
        places.append(possible[result.tobytes()])
    assert len(set(places)) > 70  # the images of one batch move differently


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_crop_places_are_uniform(mode):
    images = random_images(1, 1, 6, 6).expand(8100, 1, 6, 6)
    possible = crops(images[0].numpy(), mode)
    found = [possible[result.tobytes()] for result in RandomCrop(4, mode)(images, draw(8100)).numpy()]
    counts = np.zeros((9, 9))
    np.add.at(counts, tuple(np.array(found).T), 1)
    assert counts.min() > 0
    chi_square = ((counts - 100) ** 2 / 100).sum()  # of 80 degrees of freedom: 80 ± 12.6
    assert 80 - 4 * 12.6 < chi_square < 80 + 4 * 12.6


def test_flip_mirrors_about_half_and_nothing_else():
    images = random_images(4000, 1, 3, 4)
    flipped = RandomFlip()(images, draw(4000))
    assert flipped.dtype == torch.uint8
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert abs(int(mirrored.sum()) - 2000) < 4 * (4000 * 0.25) ** 0.5


def test_crop_and_flip_give_one_of_the_162_and_draw_apart():
    images = random_images(500, 3, 8, 8)
    numbers = draw(500)
    result = RandomFlip()(RandomCrop()(images, numbers), numbers)
    flipped, right = [], []
    for image, changed in zip(images.numpy(), result.numpy(), strict=True):
        possible = crops(image, "zeros")
        mirrored = changed[:, :, ::-1]
        flipped.append(mirrored.tobytes() in possible)
        right.append(possible[mirrored.tobytes() if flipped[-1] else changed.tobytes()][1])
    assert abs(np.mean(flipped) - 0.5) < 4 * 0.5 / 500**0.5
    assert abs(np.corrcoef(flipped, right)[0, 1]) < 4 / 500**0.5


def test_input_is_left_as_it_was():
    images = random_images(20, 3, 8, 8)
    before = images.clone()
    RandomFlip()(RandomCrop()(images, draw(20)), draw(20))
    assert torch.equal(images, before)


@pytest.mark.parametrize("augment", [RandomCrop(), RandomFlip()])
def test_numbers_are_a_function_of_seed_epoch_and_batch_alone(augment):
    images = random_images(64, 1, 8, 8)
    first = augment(images, draw(64, 1, 2, 3))
    torch.manual_seed(5)
    np.random.seed(5)  # global state must not matter
    assert torch.equal(augment(images, draw(64, 1, 2, 3)), first)
    for other in [(0, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3)]:
        assert not torch.equal(augment(images, draw(64, *other)), first)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_slices_of_all_processes_are_together_the_same_batch(world_size):
    images, labels = random_images(50, 3, 8, 8), torch.arange(50)

    def batches(rank: int, world_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        augment = [RandomCrop(), RandomFlip()]
        ranks = {"rank": rank, "world_size": world_size}
        return list(BatchLoader(images, labels, 16, shuffle=True, augment=augment, **ranks))

    whole = batches(0, 1)
    parts = [batches(rank, world_size) for rank in range(world_size)]
    for number, (pixels, numbers) in enumerate(whole):
        assert torch.equal(torch.cat([part[number][0] for part in parts]), pixels)
        assert torch.equal(torch.cat([part[number][1] for part in parts]), numbers)


def test_reflecting_more_than_there_is_says_so():
    with pytest.raises(ValueError, match="cannot reflect 4 pixels of a 9x4 image: padding must be smaller"):
        RandomCrop(4, "reflect")(random_images(2, 3, 9, 4), draw(2))
    RandomCrop(4, "reflect")(random_images(2, 3, 5, 5), draw(2))


def test_padding_0_says_what_to_do():
    with pytest.raises(ValueError, match="padding 0 moves nothing: give 1 or more, or leave RandomCrop out"):
        RandomCrop(0)
