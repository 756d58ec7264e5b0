"""From an image of any format, size and mode to uint8 (3, H, W)."""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

# Pillow hands EPS to Ghostscript, and has no decoder for the others.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
MAX_PIXELS = 2**26  # of one image: 256 MiB as RGB, for which Pillow takes 4 bytes a pixel
MAX_BYTES = 2**28  # of one file: those pixels without compression; many formats are read byte by byte
DARK = 2**14  # a 16-bit image whose brightest pixel is darker than this probably has 10, 12 or 14 bits
ROWS = 256  # of an image that are scaled at once
ORIENTATION = 0x0112
T = Image.Transpose
TURNS = [T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90]
TURN_OF: dict[Any, Image.Transpose] = dict(enumerate(TURNS, start=2))  # by orientation


Fit = Literal["crop", "pad", "squash"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]
Size = int | tuple[int, int]  # height and width, in pixels; one number is both


@dataclass(frozen=True)
class Reading:
    """How an image becomes the pixels of a network, the same in training and in prediction.

    `fit`: `crop` resizes the image until it covers the size and crops the centre; `pad` resizes it until it lies inside
    and adds black; `squash` resizes both sides. `grey_max`: the value of white in grey images of more than 8 bits, see
    `to_rgb`. Raises ValueError for other values.
    """

    fit: Fit = "crop"
    interpolation: Interpolation = "bilinear"
    grey_max: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("fit", get_args(Fit)), ("interpolation", get_args(Interpolation))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: choose {', '.join(allowed)}.")
        if self.grey_max is not None and not self.grey_max > 0:
            raise ValueError(f"grey_max {self.grey_max} is not a grey value: choose more than 0, for example 4095.")

    def facts(self) -> dict[str, Any]:
        """The fields for a checkpoint or a stream; empty if all are the usual ones."""
        return {} if self == USUAL else asdict(self)


USUAL = Reading()


@cache
def formats() -> list[str]:
    """The formats that are tried, whatever a file's suffix says: all that Pillow decodes by itself."""
    Image.init()
    rare = sorted(set(Image.OPEN) - NOT_DECODED - {"JPEG", "PNG"})
    return ["JPEG", "PNG", *rare]  # tried in this order


def is_image(path: str) -> bool:
    """Whether a file has the suffix of an image format, or the content of one. The image may still be damaged."""
    if Image.registered_extensions().get(os.path.splitext(path)[1].lower()) in formats():
        return True
    try:
        with open_image(path):
            return True
    except Exception:  # Pillow's plugins raise many kinds
        return False


@contextmanager
def open_image(path: str) -> Iterator[ImageFile]:
    """The image in a file, not yet decoded. Raises ValueError for an empty, huge or special file, without opening it (a
    FIFO would wait for ever), OSError if it cannot be opened."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("is a folder" if stat.S_ISDIR(status.st_mode) else "is a FIFO, socket or device, not a file")
    if status.st_size == 0:
        raise ValueError("is empty")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"has {status.st_size:,} bytes, more than {MAX_BYTES:,}: make it smaller first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mostly about metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=formats()) as image:
            yield image


def upright(image: Image.Image) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says. Nothing else of EXIF is read, and EXIF that cannot be
    read is ignored. Raises ValueError if the image has more than 2**26 pixels."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}: make it smaller first")
    image.load()
    try:
        turn = TURN_OF.get(image.getexif().get(ORIENTATION))
    except Exception:  # Pillow raises whatever damaged EXIF leads to
        turn = None
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image, grey_max: float | None = None) -> Image.Image:
    """An image of any mode as RGB, as `convert("RGB")` does it: alpha is dropped, not blended, and an animation gives
    its first frame. Only grey of more than 8 bits differs, which Pillow would clip: 0..`grey_max` becomes 0..255.

    Without `grey_max` it is 65535. Raises ValueError for grey values outside this range; without `grey_max` also for
    floats, and if the brightest pixel is so dark that the values probably have fewer than 16 bits.
    """
    if image.mode.startswith(("I", "F")):
        image = _scale_grey(image, grey_max)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours as directly, without Pillow's warning
    return image.convert("RGB")


def _scale_grey(image: Image.Image, grey_max: float | None) -> Image.Image:
    starts = range(0, image.height, ROWS)
    strips = [image.crop((0, first, image.width, min(first + ROWS, image.height))) for first in starts]
    extremes = [(array.min(), array.max()) for array in map(np.asarray, strips)]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    white = 65535 if grey_max is None else grey_max
    # written so that NaN is refused too
    known = grey_max is not None or (image.mode != "F" and not 0 < high < DARK)
    if not (known and low >= 0 and high <= white):
        raise ValueError(
            f"has grey values from {low:g} to {high:g}, and white is not known: convert it to 8 bits, or set "
            "grey_max of ImageFolder to the value of white, such as 4095 for 12 bits, for all images"
            if grey_max is None
            else f"has grey values from {low:g} to {high:g}, outside 0..{grey_max:g} (grey_max)"
        )
    grey = np.empty((image.height, image.width), dtype=np.uint8)
    for first, strip in zip(starts, strips, strict=True):
        grey[first : first + ROWS] = (np.asarray(strip) * (255 / white)).round()
    return Image.fromarray(grey)


def to_pil(image: Any) -> Image.Image:
    """A PIL image, upright as its EXIF orientation says; or a tensor or array as one: uint8, or float from 0 to 1
    (which is rounded to 8 bits), (H, W), (C, H, W) or (H, W, C) with one, three or four channels. Ambiguous shapes are
    read as (C, H, W). Raises ValueError for anything else."""
    if isinstance(image, Image.Image):
        return upright(image)
    if not hasattr(image, "__array__"):
        raise ValueError(f"is a {type(image).__name__}, without a shape: a PIL image, an array or a tensor is needed")
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


def sides(size: Size | list[int]) -> tuple[int, int]:
    """Height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def fit(image: Image.Image, size: Size, reading: Reading = USUAL) -> NDArray[np.uint8]:
    """An RGB image resized (with antialiasing) and cropped or padded: uint8 (3, H, W). By default, and for one number,
    these are the pixels that torchvision's Resize(size) and CenterCrop(size) give."""
    rows, columns = sides(size)
    width, height = image.size
    if not width or not height:
        raise ValueError("has no pixels")
    if reading.fit == "squash":
        width, height = columns, rows
    elif (columns * height > rows * width) == (reading.fit == "crop"):  # the width decides
        width, height = columns, max(1, int(columns * height / width))
    else:
        width, height = max(1, int(rows * width / height)), rows
    if image.size != (width, height):
        if width * height > MAX_PIXELS:
            raise ValueError(f"is {image.width}x{image.height}, too long for {columns}x{rows} pixels")
        image = image.resize((width, height), Image.Resampling[reading.interpolation.upper()])
    left, top = round((width - columns) / 2), round((height - rows) / 2)
    if (width, height) != (columns, rows):
        image = image.crop((left, top, left + columns, top + rows))  # black where it is smaller
    pixels: NDArray[np.uint8] = np.asarray(image).transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    return pixels


def decode(path: str, size: Size, reading: Reading = USUAL) -> NDArray[np.uint8]:
    """The image in a file, upright as its EXIF orientation says: uint8 (3, H, W).

    Raises OSError, ValueError or whatever Pillow's decoders raise; `reason` puts it in words.
    """
    with open_image(path) as image:
        # 16 bits a channel, of which Pillow keeps the upper 8 if they are colours
        deep = ";16" in str(image.tile) and not image.mode.startswith(("I", "F"))
        rgb = to_rgb(upright(image), reading.grey_max)
    # grey with alpha is read as colours too
    if deep and 0 < max(high for _, high in rgb.getextrema()) < DARK // 256:  # type: ignore[misc]
        raise ValueError("has 16 bits a channel, but its brightest pixel has less than 14: convert it to 8 bits")
    return fit(rgb, size, reading)


def decode_safely(path: str, size: Size, reading: Reading = USUAL) -> NDArray[np.uint8]:
    """As `decode`; raises FileNotFoundError or ValueError with one line that names the file."""
    try:
        return decode(path, size, reading)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no image {path}") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{path}: {reason(error, path)}") from error


def reason(error: Exception, path: str) -> str:
    """Why the image in `path` could not be decoded, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "is not an image of a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"has more than {MAX_PIXELS:,} pixels: make it smaller first"
    text = str(error).replace(repr(path), "it").split("\n")[0]
    return text or type(error).__name__
