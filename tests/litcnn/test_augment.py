import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from litcnn.augment import (
    AlternatingFlip,
    ColorJitter,
    Cutout,
    PerImage,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
)
from litengine.data import BatchLoader, Draw
from litengine.data.augment import BATCH, splitmix64

ALL = [RandomCrop(), RandomCrop(4, "reflect"), RandomFlip(), AlternatingFlip(), Cutout(5)]
ALL += [RandomErasing(), RandomResizedCrop(), RandomRotation(20), ColorJitter(0.4, 0.4, 0.4)]
ALL += [PerImage(v2.TrivialAugmentWide()), PerImage(v2.RandomErasing(p=1.0))]


def draw(size: int, seed: int = 0, epoch: int = 0, batch: int = 0, indices: Sequence[int] | None = None) -> Draw:
    chosen = np.arange(size) if indices is None else np.array(indices)
    return Draw(seed, epoch, batch, size, slice(0, size), chosen, torch.device("cpu"))


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
def test_each_crop_is_one_of_the_81_of_its_own_image_uniformly(mode):
    images = random_images(1620, 1, 7, 6)  # higher than wide, so that the two cannot be confused
    cropped = RandomCrop(4, mode)(images, draw(1620))
    assert cropped.dtype == torch.uint8 and cropped.shape == images.shape
    counts = np.zeros((9, 9))
    for image, result in zip(images.numpy(), cropped.numpy(), strict=True):
        counts[crops(image, mode)[result.tobytes()]] += 1
    chi_square = ((counts - 20) ** 2 / 20).sum()  # of 80 degrees of freedom: 80 ± 12.6
    assert counts.min() > 0 and 80 - 4 * 12.6 < chi_square < 80 + 4 * 12.6


def test_flip_mirrors_about_half_and_nothing_else():
    images = random_images(4000, 1, 3, 4)
    flipped = RandomFlip()(images, draw(4000))
    assert flipped.dtype == torch.uint8
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert abs(int(mirrored.sum()) - 2000) < 4 * (4000 * 0.25) ** 0.5


@pytest.mark.parametrize(
    ("mode", "digest"),
    [
        ("zeros", "4fced0c2c3c1e9bcd0b5d3d3982fd914d09464ca4e185605800ea3648b823b5a"),
        ("reflect", "d8cc291c8d55cb4a961261a49beedcc66a601696d579a5659595314eaa71ead2"),
    ],
)
def test_crop_and_flip_give_the_pixels_they_always_gave(mode, digest):
    numbers = draw(64, seed=5, epoch=2, batch=3)
    result = RandomFlip()(RandomCrop(3, mode)(random_images(64, 3, 9, 7), numbers), numbers)
    assert hashlib.sha256(result.numpy().tobytes()).hexdigest() == digest


@pytest.mark.parametrize("augment", ALL)
def test_layout_in_memory_does_not_matter_and_the_input_stays_as_it_was(augment):
    images = random_images(20, 3, 12, 8)
    before = images.clone()
    expected = augment(images, draw(20))
    assert torch.equal(augment(images.contiguous(memory_format=torch.channels_last), draw(20)), expected)
    wider = torch.zeros(20, 3, 12, 16, dtype=torch.uint8)
    wider[..., ::2] = images
    assert torch.equal(augment(wider[..., ::2], draw(20)), expected)
    expected.fill_(7)
    assert torch.equal(images, before)


@pytest.mark.parametrize("augment", ALL)
def test_no_images_at_all_are_fine(augment):
    """What a process gets of a last batch with fewer images than processes."""
    result = augment(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), draw(0))
    assert result.shape == (0, 3, 8, 8) and result.dtype == torch.uint8


@pytest.mark.parametrize("augment", [RandomCrop(), RandomFlip(), Cutout(5)])
def test_numbers_are_a_function_of_seed_epoch_and_batch_alone(augment):
    images = random_images(64, 1, 8, 8)
    first = augment(images, draw(64, 1, 2, 3))
    torch.manual_seed(5)
    np.random.seed(5)  # global state must not matter
    assert torch.equal(augment(images, draw(64, 1, 2, 3)), first)
    for other in [(0, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3)]:
        assert not torch.equal(augment(images, draw(64, *other)), first)


def test_splitmix64_gives_the_published_numbers():
    """Those that every implementation gives, such as the ones on Rosetta Code."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    start = np.array([1234567], dtype=np.uint64)
    assert splitmix64(start, np.arange(5)).tolist() == expected
    assert splitmix64(start, np.array([4, 1])).tolist() == [expected[4], expected[1]]
    assert splitmix64(np.zeros(1, dtype=np.uint64), np.arange(2)).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_numbers_per_image_follow_the_image_and_the_seed_alone():
    whole = draw(1000, seed=3).per_image(0, 99)
    some = [7, 999, 0, 7, 512]
    assert draw(5, seed=3, epoch=4, batch=9, indices=some).per_image(0, 99).tolist() == whole[some].tolist()
    assert (draw(1000, seed=4).per_image(0, 99) == whole).sum() < 40  # 10 by chance


def test_alternating_flip_mirrors_each_image_in_every_other_epoch():
    images = random_images(4000, 1, 3, 4)
    mirrored = []
    for epoch in range(4):
        order = np.random.default_rng(epoch).permutation(4000)  # batches differ from epoch to epoch
        result = torch.empty_like(images)
        for batch, indices in enumerate(np.split(order, 10)):
            result[indices] = AlternatingFlip()(images[indices], draw(400, 1, epoch, batch, indices))
        is_mirrored = (result == images.flip(3)).flatten(1).all(1)
        assert (is_mirrored ^ (result == images).flatten(1).all(1)).all()
        mirrored.append(is_mirrored)
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[0], mirrored[2]) and torch.equal(mirrored[1], mirrored[3])
    assert abs(int(mirrored[0].sum()) - 2000) < 4 * (4000 * 0.25) ** 0.5
    other_seed = AlternatingFlip()(images, draw(4000, 2, 0))
    assert not torch.equal(other_seed, AlternatingFlip()(images, draw(4000, 1, 0)))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_is_a_square_of_the_mean_colour_cut_off_at_the_border(size):
    images = random_images(400, 3, 9, 7)
    numbers = np.random.default_rng((BATCH, 0, 0, 0))
    centres = zip(*(numbers.integers(0, length, 400).tolist() for length in (9, 7)), strict=True)
    result = Cutout(size)(images, draw(400))
    assert result.dtype == torch.uint8
    seen = set()
    for image, changed, (row, column) in zip(images.numpy(), result.numpy(), centres, strict=True):
        top, left = row - size // 2, column - size // 2
        hidden = np.s_[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
        expected = image.copy()
        expected[hidden] = np.floor(image.mean((1, 2)) + 0.5)[:, None, None]
        assert np.array_equal(changed, expected)
        seen.add((row, column))
    assert len(seen) == 9 * 7  # every pixel is a centre


@pytest.mark.parametrize("world_size", [3])
def test_slices_of_all_processes_are_together_the_same_batch(world_size):
    images, labels = random_images(51, 3, 8, 8), torch.arange(51)

    def batches(rank: int, world_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        ranks = {"rank": rank, "world_size": world_size}
        return list(BatchLoader(images, labels, 15, shuffle=True, augment=ALL, **ranks))  # the last one of 6

    whole = batches(0, 1)
    parts = [batches(rank, world_size) for rank in range(world_size)]
    for number, (pixels, numbers) in enumerate(whole):
        assert torch.equal(torch.cat([part[number][0] for part in parts]), pixels)
        assert torch.equal(torch.cat([part[number][1] for part in parts]), numbers)


@pytest.mark.gpu
@pytest.mark.parametrize("augment", ALL)
def test_a_gpu_gives_the_same_pixels(augment):
    """Sums of float arithmetic may round to the next of the 256 levels."""
    images = random_images(100, 3, 12, 8)
    on_gpu = draw(100)
    on_gpu.device = torch.device("cuda")
    found = augment(images.cuda(), on_gpu).cpu()
    torch.testing.assert_close(found.int(), augment(images, draw(100)).int(), atol=1, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: RandomCrop(4, "reflect")(images, draw(2)), "cannot reflect 4 pixels of a 9x4 image"),
        (lambda images: RandomCrop(0), "padding 0 moves nothing: choose 1 or more, or leave RandomCrop out"),
        (lambda images: Cutout(0), "Cutout size 0 hides nothing: choose 1 or more, or leave Cutout out"),
        (lambda images: Cutout(4)(images, draw(2)), "Cutout of 4 pixels can hide all of a 9x4 image: choose fewer"),
        (lambda images: RandomRotation(-10), "RandomRotation degrees is -10: choose 0 or more"),
        (lambda images: RandomErasing(1.5), "RandomErasing probability is 1.5: choose 0 to 1"),
        (lambda images: RandomResizedCrop((1.0, 0.5))(images, draw(2)), r"scale \(1.0, 0.5\) and ratio .*: .* smaller"),
        (lambda images: PerImage(v2.Normalize([0.5], [0.5]))(images, draw(2)), "Normalize cannot change uint8 images"),
        (lambda images: PerImage(v2.Resize(5))(images, draw(2)), "choose a transform that keeps type and size"),
        (lambda images: PerImage(v2.ToDtype(torch.float32))(images, draw(2)), "choose a transform that keeps type"),
    ],
)
def test_what_cannot_work_says_so(change, words):
    with pytest.raises(ValueError, match=words):
        change(random_images(2, 3, 9, 4))


def smooth_images(number: int) -> torch.Tensor:
    """Images without sharp edges, on which two ways to interpolate agree."""
    coarse = torch.rand(number, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, (24, 16), mode="bicubic").clamp(0, 1) * 255).round().byte()


def test_rotation_is_that_of_torchvision():
    images = smooth_images(20)
    rotated = RandomRotation(40)(images, draw(20))
    angles = draw(20).uniform(-40, 40)
    for image, result, angle in zip(images, rotated, angles.tolist(), strict=True):
        expected = reference.rotate(image, angle, interpolation=v2.InterpolationMode.BILINEAR)
        assert (result.int() - expected.int()).abs().max() <= 2  # of 255
    assert angles.abs().max() > 20


def test_resized_crop_takes_windows_inside_the_image_with_area_and_shape_asked_for():
    column, row = torch.meshgrid(torch.arange(16), torch.arange(24), indexing="xy")
    ramp = torch.stack([10 * column, 8 * row, column + row]).byte()  # bilinear interpolation of a ramp is exact
    changed = RandomResizedCrop((0.25, 0.9))(ramp.expand(50, 3, 24, 16), draw(50)).float()
    numbers = draw(50)
    area, shape = numbers.uniform(0.25, 0.9), numbers.uniform(np.log(3 / 4), np.log(4 / 3)).exp()
    rows, columns = (area / shape).sqrt().clamp(max=1), (area * shape).sqrt().clamp(max=1)
    x = (changed[:, 0, 12, 1:-1] / 10).diff(dim=1).mean(1)  # columns of the image for each column of the result
    y = (changed[:, 1, 1:-1, 8] / 8).diff(dim=1).mean(1)
    torch.testing.assert_close(x, columns, atol=0.02, rtol=0)
    torch.testing.assert_close(y, rows, atol=0.02, rtol=0)
    centres = torch.stack([changed[:, 0, 12, 7:9].mean(1) / 10 + 0.5, changed[:, 1, 11:13, 8].mean(1) / 8 + 0.5])
    assert (centres[0] - 8 * columns > -0.2).all() and (centres[0] + 8 * columns < 16.2).all()
    assert (centres[1] - 12 * rows > -0.2).all() and (centres[1] + 12 * rows < 24.2).all()
    whole = smooth_images(5)
    assert torch.equal(RandomResizedCrop((1.0, 1.0), (1.0, 1.0))(whole, draw(5)), whole)


def test_jitter_is_that_of_torchvision_image_by_image():
    images = random_images(30, 3, 8, 8)
    changed = ColorJitter(0.4, 0.5, 0.6)(images, draw(30))
    numbers = draw(30)
    factors = [numbers.uniform(1 - each, 1 + each).tolist() for each in (0.4, 0.5, 0.6)]
    for image, result, brightness, contrast, saturation in zip(images, changed, *factors, strict=True):
        expected = reference.adjust_brightness(image.float() / 255, brightness)
        expected = reference.adjust_saturation(reference.adjust_contrast(expected, contrast), saturation)
        assert (result.float() - 255 * expected).abs().max() <= 0.51
    assert torch.equal(ColorJitter()(images, draw(30)), images)


def test_erased_rectangles_have_the_areas_asked_for():
    images = torch.zeros(2000, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 0, :4] = 255  # the mean is 1, so that the filled rectangle differs from black
    changed = RandomErasing(0.5, (0.1, 0.2))(images, draw(2000))
    areas = (changed != images).any(1).flatten(1).float().mean(1)
    erased = areas > 0
    assert abs(int(erased.sum()) - 1000) < 100
    assert areas[erased].min() > 0.07 and areas[erased].max() < 0.23
    assert areas[erased].mean().item() == pytest.approx(0.15, abs=0.01)


def test_any_transform_of_torchvision_gets_a_seed_for_each_image_and_leaves_the_global_state():
    images = random_images(6, 3, 8, 8)
    state = torch.get_rng_state()
    changed = PerImage(v2.RandomRotation(90))(images, draw(6))
    assert torch.equal(torch.get_rng_state(), state)
    again = PerImage(v2.RandomRotation(90))(images[2:4], Draw(0, 0, 0, 6, slice(2, 4), np.arange(2, 4), images.device))
    assert torch.equal(again, changed[2:4])  # another process sees the same
    assert not torch.equal(changed, images)
