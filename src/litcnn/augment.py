"""Random changes to a whole batch of uint8 images, on its device; every image gets its own random draw."""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litengine.data import Augment, Draw


class RandomFlip(Augment):
    """Mirrors about half of the images left to right."""

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return _mirror(images, draw.to_device(draw.array(0, 1) == 1))


class AlternatingFlip(Augment):
    """Mirrors every image in every other epoch: a random half of them in even epochs, the others in odd epochs.

    Two epochs show each image from both sides; RandomFlip shows half of the images twice from the same side
    (Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU").
    """

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        return _mirror(images, (draw.per_image(0, 1) + draw.epoch) % 2 == 1)


class RandomCrop(Augment):
    """Pads `padding` pixels on every side and cuts a window of the old size at a random position.

    Args:
        padding: pixels; each image moves by -padding..padding in both directions.
        mode: fill the padding with `zeros` (black) or `reflect` the border.
    """

    def __init__(self, padding: int = 4, mode: Literal["zeros", "reflect"] = "zeros") -> None:
        if padding < 1:
            raise ValueError(f"RandomCrop padding {padding} moves nothing: choose 1 or more, or leave RandomCrop out")
        self.padding = padding
        self.mode = mode

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        number, channels, height, width = images.shape
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise ValueError(
                f"RandomCrop cannot reflect {self.padding} pixels of a {height}x{width} image: padding must be smaller"
            )
        top, left = draw.array(0, 2 * self.padding), draw.array(0, 2 * self.padding)
        padded = F.pad(images, (self.padding,) * 4, mode="constant" if self.mode == "zeros" else self.mode).contiguous()
        rows, columns = padded.shape[2:]
        area, volume = rows * columns, channels * rows * columns
        # A view of all windows, one for each start byte: index_select copies whole rows of pixels, advanced indexing
        # copies single pixels.
        last = (number - 1) * volume + 2 * self.padding * (columns + 1)  # below 0 without images
        windows = padded.as_strided((max(0, last + 1), channels, height, width), (1, area, columns, 1))
        return windows.index_select(0, draw.to_device(np.arange(number) * volume + top * columns + left))


class Cutout(Augment):
    """Hides one square of each image, with its centre anywhere in the image; the square is clipped at the border.

    The square gets the mean colour of its image. DeVries and Taylor 2017 ("Improved Regularization of Convolutional
    Neural Networks with Cutout") fill it with the mean of the dataset, which is not known before normalisation. They
    found 16 pixels best for CIFAR-10, 8 for CIFAR-100.

    Args:
        size: pixels; height and width of the square.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"Cutout size {size} hides nothing: choose 1 or more, or leave Cutout out")
        self.size = size

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        height, width = images.shape[2:]
        if self.size >= min(height, width):
            raise ValueError(f"Cutout of {self.size} pixels can hide all of a {height}x{width} image: choose fewer")
        sides = [draw.integers(0, length - 1) - self.size // 2 for length in (height, width)]
        return _hide(images, sides[0], sides[0] + self.size, sides[1], sides[1] + self.size)


class RandomErasing(Augment):
    """Hides one rectangle of some images with the mean colour of the image (Zhong et al. 2017).

    Args:
        probability: part of the images that are changed, 0 to 1.
        scale: smallest and largest area of the rectangle, as a fraction of the image.
        ratio: smallest and largest ratio of its width to its height.
    """

    def __init__(
        self,
        probability: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
    ) -> None:
        self.probability = _checked("RandomErasing probability", probability, 1)
        self.scale = scale
        self.ratio = ratio

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        height, width = images.shape[2:]
        rows, columns = _random_window(draw, self.scale, self.ratio)
        rows, columns = (rows * height).round().clamp(1, height), (columns * width).round().clamp(1, width)
        top = (draw.uniform(0, 1) * (height - rows + 1)).floor()
        left = (draw.uniform(0, 1) * (width - columns + 1)).floor()
        rows = rows * (draw.uniform(0, 1) < self.probability)  # a rectangle without rows hides nothing
        return _hide(images, top, top + rows, left, left + columns)


class RandomResizedCrop(Augment):
    """Cuts a window of random area and shape out of each image and resizes it to the image's size (bilinear).

    Args:
        scale: smallest and largest area of the window, as a fraction of the image.
        ratio: smallest and largest ratio of its width to its height.
    """

    def __init__(self, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        self.scale = scale
        self.ratio = ratio

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        rows, columns = _random_window(draw, self.scale, self.ratio)
        x, y = draw.uniform(-1, 1) * (1 - columns), draw.uniform(-1, 1) * (1 - rows)
        zero = torch.zeros_like(rows)
        return _resample(images, [columns, zero, x, zero, rows, y])


class RandomRotation(Augment):
    """Rotates each image about its centre (bilinear); corners outside the image become black.

    Args:
        degrees: largest angle in either direction.
    """

    def __init__(self, degrees: float) -> None:
        self.degrees = _checked("RandomRotation degrees", degrees)

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        height, width = images.shape[2:]
        # float64, because the last bit of a float32 depends on the position in the batch
        angle = draw.uniform(-self.degrees, self.degrees).double().deg2rad()
        cosine, sine = angle.cos().float(), angle.sin().float()
        zero = torch.zeros_like(sine)
        return _resample(images, [cosine, -sine * height / width, zero, sine * width / height, cosine, zero])


class ColorJitter(Augment):
    """Changes brightness, then contrast, then saturation of each image, as torchvision's `adjust_…` functions do.

    Args:
        brightness, contrast, saturation: the factor is uniform in max(0, 1 - value) .. 1 + value.
    """

    def __init__(self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> None:
        self.brightness = _checked("ColorJitter brightness", brightness)
        self.contrast = _checked("ColorJitter contrast", contrast)
        self.saturation = _checked("ColorJitter saturation", saturation)

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        brightness, contrast, saturation = (
            draw.uniform(max(0.0, 1 - each), 1 + each)[:, None, None, None]
            for each in (self.brightness, self.contrast, self.saturation)
        )
        pixels = (images.float() * brightness).clamp(0, 255)
        mean = _grey(pixels).mean((1, 2, 3), keepdim=True)
        pixels = (mean + (pixels - mean) * contrast).clamp(0, 255)
        grey = _grey(pixels)
        pixels = (grey + (pixels - grey) * saturation).clamp(0, 255)
        return pixels.round().to(torch.uint8)


class PerImage(Augment):
    """Any transform of torchvision.transforms.v2, applied to one image after the other.

    Each image has a random seed of its own, which is a function of (seed, epoch, batch, position). This is slower than
    the augmentations above, which change the whole batch.
    """

    thread_safe = False  # the transforms use torch's global generator

    def __init__(self, transform: nn.Module) -> None:
        self.transform = transform

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        seeds = draw.integers(0, 2**31 - 1).tolist()
        changed = []
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            for image, seed in zip(images, seeds, strict=True):
                torch.manual_seed(seed)
                try:
                    changed.append(self.transform(image))
                except (RuntimeError, TypeError, ValueError) as error:
                    name, shape = type(self.transform).__name__, list(image.shape)
                    raise ValueError(f"data.augment: {name} cannot change uint8 images {shape}: {error}") from error
        result = torch.stack(changed) if changed else images
        if result.shape != images.shape or result.dtype != torch.uint8:
            raise ValueError(
                f"data.augment: {type(self.transform).__name__} turns uint8 images {list(images.shape)} into "
                f"{result.dtype} {list(result.shape)}: choose a transform that keeps type and size"
            )
        return result


def _checked(name: str, value: float, most: float = math.inf) -> float:
    if not 0 <= value <= most:
        raise ValueError(f"{name} is {value}: choose 0 {f'to {most}' if most < math.inf else 'or more'}")
    return value


def _random_window(draw: Draw, scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Height and width of a random window for each image, as fractions of the image, float32 (n,)."""
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
        raise ValueError(
            f"scale {scale} and ratio {ratio}: the smaller number comes first, above 0; scale is at most 1"
        )
    # float64, because the last bit of a float32 depends on the position in the batch
    area, shape = draw.uniform(*scale).double(), draw.uniform(math.log(ratio[0]), math.log(ratio[1])).double().exp()
    return (area / shape).sqrt().clamp(max=1).float(), (area * shape).sqrt().clamp(max=1).float()


def _resample(images: Tensor, matrix: list[Tensor]) -> Tensor:
    """The images through an affine map from output to input coordinates, both -1 to 1; six tensors (n,), row by row."""
    if not len(images):
        return images
    y, x = ((2 * torch.arange(length, device=images.device) + 1) / length - 1 for length in images.shape[2:])
    # not F.affine_grid: the last bits of its matrix product depend on the number of images
    rows = [each[:, None, None] for each in matrix]
    grid = torch.stack([rows[i] * x + rows[i + 1] * y[:, None] + rows[i + 2] for i in (0, 3)], dim=-1)  # (N, H, W, 2)
    sampled = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.round().clamp(0, 255).to(torch.uint8)


def _grey(pixels: Tensor) -> Tensor:
    """(n, 1, H, W): luma of (n, 3, H, W) as torchvision has it; of another number of channels their mean."""
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    weights = torch.tensor([0.2989, 0.587, 0.114], device=pixels.device).view(3, 1, 1)
    return (pixels * weights).sum(1, keepdim=True)


def _hide(images: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Fills a rectangle of each image, clipped at the border, with the image's mean colour. All bounds are (n,)."""
    height, width = images.shape[2:]
    row, column = (torch.arange(length, device=images.device) for length in (height, width))
    rows = (row >= top[:, None]) & (row < bottom[:, None])
    columns = (column >= left[:, None]) & (column < right[:, None])
    hidden = rows[:, None, :, None] & columns[:, None, None, :]  # (N, 1, H, W)
    # integers, because sums of floats differ between devices
    total = images.sum((2, 3), dtype=torch.int32)
    mean = ((total + height * width // 2) // (height * width)).to(torch.uint8)[:, :, None, None]
    return images + hidden * (mean - images)  # exact modulo 256; torch.where is five times slower on bytes


def _mirror(images: Tensor, which: Tensor) -> Tensor:
    """The images, those where `which` (bool (N,)) is True mirrored left to right."""
    mirrored = images.flip(3)
    if images.device.type != "cpu":
        return torch.where(which[:, None, None, None], mirrored, images)
    keep = ~which.numpy()
    mirrored.numpy()[keep] = images.numpy()[keep]  # numpy copies whole images, torch single bytes
    return mirrored
