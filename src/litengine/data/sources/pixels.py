"""From an image of any size and mode to uint8 (3, size, size).

This file is also a program: `decode.py` starts it as a worker process. It therefore imports nothing but Pillow and
numpy: a worker starts in a tenth of a second instead of waiting for torch.
"""

import json
import math
import signal
import sys
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Suffixes of the files that are taken for images, in lower case.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"},
)

# What a file may be, whatever its suffix says. Not all that Pillow knows: PostScript it would hand to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# (index of the image, what is wrong, whether the file could be opened at all)
Failure = tuple[int, str, bool]


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, as `convert("RGB")` does it: alpha is dropped, not blended; an animation gives
    its first frame. The one exception are 16 bits of grey: Pillow would clip them, nearly all to white; here they
    are scaled. Raises ValueError for pixels without a known range (32-bit integers above 65535, floats)."""
    if image.mode == "F":
        raise ValueError("has float pixels, whose range is not known: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"has pixels from {grey.min()} to {grey.max()}: save it with 8 or 16 bits")
        image = Image.fromarray((grey.astype(np.float64) / 257).round().astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours as directly, without Pillow's warning
    return image.convert("RGB")


def to_pil(image: Any) -> Image.Image:
    """A PIL image, upright as its EXIF orientation says; a tensor or array, uint8 or float from 0 to 1 (which is
    rounded to 8 bits), (H, W), (C, H, W) or (H, W, C) with one, three or four channels, as one. Where three sizes
    could be read both ways, channels come first. Raises ValueError for any other."""
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image)
    if not hasattr(image, "__array__"):
        raise ValueError(
            f"is a {type(image).__name__}, which has no shape: a PIL image, an array or a tensor is needed"
        )
    array: NDArray[Any] = image.numpy(force=True) if hasattr(image, "numpy") else np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ValueError(f"has shape {tuple(array.shape)}; (H, W), (C, H, W) or (H, W, C) is needed")
    if array.size == 0:
        raise ValueError(f"has shape {tuple(array.shape)}: no pixels")
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
            raise ValueError(f"has floats from {array.min():.3g} to {array.max():.3g}; 0..1 is needed, not normalised")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"has type {array.dtype}; uint8, or floats from 0 to 1, are needed")
    return Image.fromarray(np.ascontiguousarray(array))


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize the shorter side to `size` (bilinear, antialiased) and crop the centre: uint8 (3, size, size).

    The same pixels as torchvision's Resize(size) and CenterCrop(size) give. Takes RGB.
    """
    width, height = image.size
    short = min(width, height)
    if short == 0:
        raise ValueError("has no pixels")
    if short != size:
        width, height = int(size * width / short), int(size * height / short)
        if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):  # a thread of pixels: a bomb only once it is resized
            raise ValueError(f"is {image.width}x{image.height}, too long for a shorter side of {size} pixels")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if (width, height) != (size, size):
        image = image.crop((left, top, left + size, top + size))
    pixels: NDArray[np.uint8] = np.asarray(image)
    return np.moveaxis(pixels, 2, 0)  # (size, size, 3) -> (3, size, size)


def decode(path: str, size: int) -> NDArray[np.uint8]:
    """The image in `path`, upright as its EXIF orientation says: uint8 (3, size, size)."""
    with Image.open(path, formats=FORMATS) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return fit(to_rgb(image), size)


def decode_safely(path: str, size: int) -> NDArray[np.uint8]:
    """As `decode`, for one file: raises ValueError or OSError with one line that names it, also where it is huge."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return decode(path, size)
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no image {path}") from None
        except Exception as error:  # Pillow's decoders raise whatever they stumble over
            raise ValueError(f"{path}: {_reason(error, path)}") from error


def decode_batch(paths: list[str], size: int) -> tuple[NDArray[np.uint8], list[Failure]]:
    """The images in `paths`, uint8 (N, 3, size, size), and what failed; the rows of that are zero."""
    images = np.zeros((len(paths), 3, size, size), dtype=np.uint8)
    failures: list[Failure] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for index, path in enumerate(paths):
            try:
                images[index] = decode(path, size)
            except Exception as error:  # Pillow's decoders raise whatever they stumble over
                # Only the operating system sets errno: then it is not the image that is at fault.
                opened = getattr(error, "errno", None) is None
                failures.append((index, _reason(error, path), opened))
    return images, failures


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "is not an image of a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels (a decompression bomb?): make it smaller first"
    text = str(error).replace(repr(path), "it").split("\n")[0]
    return text or type(error).__name__


def work(size: int) -> None:
    """Answer each line of standard input, a list of paths, with a line of failures and the bytes of the images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent: it then closes our standard input
    for line in sys.stdin:
        images, failures = decode_batch(json.loads(line), size)
        sys.stdout.buffer.write(json.dumps(failures).encode() + b"\n")
        sys.stdout.buffer.write(images.data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    work(int(sys.argv[1]))
