"""From an image of any size and mode to uint8 (3, size, size).

This file is also a program: `decode.py` starts it as a worker process. It therefore imports nothing but Pillow and
numpy: a worker starts in a tenth of a second instead of waiting for torch.
"""

import json
import signal
import sys
import warnings
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Suffixes of the files that are taken for images, in lower case.
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"},
)

# [index of the image, what is wrong, whether the file could be opened at all]
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


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Resize the shorter side to `size` (bilinear, antialiased) and crop the centre: uint8 (3, size, size).

    The same pixels as torchvision's Resize(size) and CenterCrop(size) give. Takes RGB.
    """
    width, height = image.size
    short = min(width, height)
    if short != size:
        width, height = int(size * width / short), int(size * height / short)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if (width, height) != (size, size):
        image = image.crop((left, top, left + size, top + size))
    pixels: NDArray[np.uint8] = np.asarray(image)
    return np.moveaxis(pixels, 2, 0)  # (size, size, 3) -> (3, size, size)


def decode(path: str, size: int) -> NDArray[np.uint8]:
    """The image in `path`, upright as its EXIF orientation says: uint8 (3, size, size)."""
    with Image.open(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return fit(to_rgb(image), size)


def decode_batch(paths: list[str], first: int, size: int, target: BinaryIO, offset: int) -> list[Failure]:
    """Decode `paths` into rows `first`, `first` + 1, … of the array that begins at byte `offset` of `target`.

    Returns the failures; their rows are zero. Written with write(), not through a memory map: a full disk is then
    an OSError here, and not a SIGBUS that kills the process.
    """
    rows = np.zeros((len(paths), 3, size, size), dtype=np.uint8)
    failures: list[Failure] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for row, path in enumerate(paths):
            try:
                rows[row] = decode(path, size)
            except Exception as error:  # Pillow's decoders raise whatever they stumble over
                # Only the operating system sets errno: then it is not the image that is at fault.
                opened = getattr(error, "errno", None) is None
                failures.append((first + row, _reason(error, path), opened))
    target.seek(offset + first * rows[0].nbytes)
    target.write(rows.tobytes())
    return failures


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "is not an image of a known format"
    text = str(error).replace(repr(path), "it").split("\n")[0]
    return text or type(error).__name__


def work(target_path: str, size: int, offset: int) -> None:
    """Answer each line of standard input, [first, paths], with a line of JSON: failures, or the error that ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent: it then closes our standard input
    with open(target_path, "r+b", buffering=0) as target:
        for line in sys.stdin:
            first, paths = json.loads(line)
            answer: dict[str, Any]
            try:
                answer = {"failures": decode_batch(paths, first, size, target, offset)}
            except OSError as error:
                answer = {"errno": error.errno, "error": error.strerror}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
