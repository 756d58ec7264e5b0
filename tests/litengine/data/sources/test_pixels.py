import os
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps
from torchvision.transforms.v2 import CenterCrop, Compose, PILToTensor, Resize

from litengine.data.sources.pixels import Reading, decode, decode_safely, fit, is_image, to_pil, to_rgb

RNG = np.random.default_rng(0)


def picture(width, height):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(32, 32), (100, 75), (75, 101), (33, 64), (20, 9), (7, 300)])
def test_fit_gives_the_pixels_of_torchvision(size):
    image = picture(*size)
    expected = Compose([Resize(32), CenterCrop(32), PILToTensor()])(image)
    assert torch.equal(torch.from_numpy(fit(image, 32).copy()), expected)


@pytest.mark.parametrize("size", [(32, 32), (100, 75), (75, 101), (20, 9), (7, 300)])
def test_pad_and_squash_keep_the_whole_image(size):
    image = picture(*size)
    squashed = image.resize((32, 32), Image.Resampling.BICUBIC)
    found = fit(image, 32, Reading(fit="squash", interpolation="bicubic"))
    np.testing.assert_array_equal(found, np.asarray(squashed).transpose(2, 0, 1))
    width, height = (max(1, 32 * side // max(size)) for side in size)
    left, top = round((32 - width) / 2), round((32 - height) / 2)
    padded = np.zeros((32, 32, 3), dtype=np.uint8)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    padded[top : top + height, left : left + width] = resized
    np.testing.assert_array_equal(fit(image, 32, Reading(fit="pad")), padded.transpose(2, 0, 1))


@pytest.mark.parametrize(("width", "height"), [(12, 8), (8, 12), (40, 9), (9, 40), (10, 6), (1, 50)])
def test_oblong_sizes_are_cropped_padded_and_squashed_as_pillow_does_it(width, height):
    image, rows, columns = picture(width, height), 6, 10

    def resized(across, down):
        return image.resize((across, down), Image.Resampling.BILINEAR)

    across, down = max(columns, rows * width // height), max(rows, columns * height // width)
    left, top = round((across - columns) / 2), round((down - rows) / 2)
    cropped = resized(across, down).crop((left, top, left + columns, top + rows))
    across, down = min(columns, max(1, rows * width // height)), min(rows, max(1, columns * height // width))
    padded = Image.new("RGB", (columns, rows))
    padded.paste(resized(across, down), (round((columns - across) / 2), round((rows - down) / 2)))
    for how, expected in (("crop", cropped), ("pad", padded), ("squash", resized(columns, rows))):
        found = fit(image, (rows, columns), Reading(fit=how))
        np.testing.assert_array_equal(found, np.asarray(expected).transpose(2, 0, 1), err_msg=how)


def test_modes():
    grey = np.array([[0, 100], [200, 255]], dtype=np.uint8)
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    alpha = np.full_like(grey, 7)
    palette = Image.fromarray(rgb).quantize()
    palette.info["transparency"] = bytes([0, 255])
    cases = [
        Image.fromarray(grey),
        Image.fromarray(np.dstack([rgb, alpha])),
        Image.fromarray(np.dstack([grey, alpha])),
        palette,
        Image.fromarray(grey.astype(np.uint16) * 257),  # 16 bits: Pillow's own conversion gives 255 from 255 up
        Image.fromarray(grey.astype(np.int32) * 257),
    ]
    for image in cases:
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), rgb, err_msg=image.mode)
    one_bit = Image.fromarray(grey > 150)
    assert one_bit.mode == "1"
    np.testing.assert_array_equal(np.asarray(to_rgb(one_bit))[:, :, 0], (grey > 150) * 255)


@pytest.mark.parametrize(
    ("values", "grey_max", "expected"),
    [
        (np.uint16([0, 16384, 65535]), None, [0, 64, 255]),
        (np.uint16([0, 0, 0]), None, [0, 0, 0]),  # black whatever white is
        (np.uint16([0, 100, 4095]), 4095, [0, 6, 255]),
        (np.uint16([0, 100, 200]), 65535, [0, 0, 1]),  # declared to be that dark
        (np.int32([0, 2**29, 2**30]), 2**30, [0, 128, 255]),
        (np.float32([0, 0.5, 1]), 1, [0, 128, 255]),
        (np.uint16([0, 100, 1023]), None, "from 0 to 1023, and white is not known"),
        (np.uint16([0, 100, 16383]), None, "set grey_max of ImageFolder"),
        (np.int32([0, 2**20, 2**30]), None, "white is not known"),
        (np.int32([-1, 20000, 30000]), None, "white is not known"),
        (np.float32([0, 20000, 30000]), None, "white is not known"),
        (np.float32([0, 0.5, np.nan]), 1, r"outside 0\.\.1"),
        (np.uint16([0, 100, 4096]), 4095, r"outside 0\.\.4095"),
    ],
)
def test_grey_of_more_than_8_bits(values, grey_max, expected):
    image = Image.fromarray(np.tile(values, (600, 1)))  # of more rows than are scaled at once
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            to_rgb(image, grey_max)
    else:
        np.testing.assert_array_equal(
            np.asarray(to_rgb(image, grey_max)), np.tile(np.uint8(expected)[:, None], (600, 1, 3))
        )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(32, 32).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image)).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(str(tmp_path / "turned.png"), 32), upright)


def test_damaged_exif_does_not_refuse_an_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    content, random = exif.tobytes(), np.random.default_rng(0)
    image = picture(32, 32)
    for number in range(60):
        damaged = bytearray(content[: random.integers(10, len(content)) if number % 4 == 0 else None])
        for place in random.integers(6, len(damaged), 4):
            damaged[place] = random.integers(256)
        image.save(tmp_path / "a", ("JPEG", "PNG", "WEBP")[number % 3], exif=bytes(damaged))
        assert decode_safely(str(tmp_path / "a"), 32).shape == (3, 32, 32)


def test_exif_is_not_rewritten(tmp_path):
    """Pillow's exif_transpose writes all tags again, and fails for values that do not fit their type."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 3, "m"
    text_as_number = exif.tobytes().replace(b"\x01\x0f\x00\x02", b"\x01\x07\x00\x02")
    image = picture(8, 8)
    image.save(tmp_path / "a.png", exif=text_as_number)
    with pytest.raises(struct.error), Image.open(tmp_path / "a.png") as opened:
        ImageOps.exif_transpose(opened)
    np.testing.assert_array_equal(decode(str(tmp_path / "a.png"), 8), np.asarray(image)[::-1, ::-1].transpose(2, 0, 1))


def test_an_orientation_that_is_none_is_ignored(monkeypatch):
    image = picture(8, 6)
    for orientation in ("6", (6, 1), [6], 9, 0, b"x"):
        monkeypatch.setattr(Image.Image, "getexif", lambda _, value=orientation: {0x0112: value})
        np.testing.assert_array_equal(np.asarray(to_pil(image)), np.asarray(image))


CHANNELS_LAST = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)


def test_arrays_and_tensors_of_either_order_and_type():
    for image in (
        CHANNELS_LAST,
        CHANNELS_LAST.transpose(2, 0, 1),
        torch.from_numpy(CHANNELS_LAST),
        CHANNELS_LAST / 255,
        torch.from_numpy(CHANNELS_LAST / 255).float().permute(2, 0, 1).requires_grad_(),
        CHANNELS_LAST[::-1][::-1],  # with strides of its own
    ):
        np.testing.assert_array_equal(np.asarray(to_pil(image)), CHANNELS_LAST)
    grey = CHANNELS_LAST[:, :, 0]
    for image in (grey, grey[None], grey[:, :, None], grey / 255):
        np.testing.assert_array_equal(np.asarray(to_pil(image)), grey)
    assert to_pil(np.zeros((4, 9, 7), np.uint8)).mode == "RGBA"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 7, 2), np.uint8), r"has shape \(9, 7, 2\); \(H, W\), \(C, H, W\) or \(H, W, C\) is needed"),
        (np.zeros((0, 7, 3), np.uint8), "no pixels"),
        (np.zeros((9, 7), np.int64), "has type int64; uint8, or floats from 0 to 1"),
        (np.full((9, 7), 1.5), "has floats from 1.5 to 1.5; 0..1 is needed"),
        (np.full((9, 7), np.nan), "has floats"),
        (None, "is a NoneType, without a shape: a PIL image, an array or a tensor is needed"),
        ([[0, 1], [2, 3]], "is a list"),
    ],
)
def test_what_is_no_image_is_told(image, message):
    with pytest.raises(ValueError, match=message):
        to_pil(image)


# Files as they come


def saved(path, image, **options):
    image.save(path, **options)
    return str(path)


def png_of_16_bits(path, array, colour_type):
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    path.write_bytes(png(header, zlib.compress(rows)))
    return str(path)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bits_a_channel(colour_type, channels, tmp_path):
    array = RNG.integers(0, 65536, (8, 8, channels))
    if channels != 3:
        array[..., -1] = 65535  # opaque
    decoded = decode(png_of_16_bits(tmp_path / "a.png", array, colour_type), 8)
    np.testing.assert_array_equal(decoded[0], array[..., 0] // 256)
    array[..., :3] //= 16 if channels != 2 else 1
    if channels == 2:
        array[..., 0] //= 16
    with pytest.raises(ValueError, match="16 bits a channel, but its brightest pixel has less than 14"):
        decode(png_of_16_bits(tmp_path / "a.png", array, colour_type), 8)


def test_every_format_of_pillow_whatever_the_name(tmp_path):
    for format in ("AVIF", "BMP", "DDS", "GIF", "ICO", "JPEG2000", "PCX", "QOI", "SGI", "TGA", "TIFF"):
        picture(16, 16).save(tmp_path / "a.jpg", format)
        assert decode(str(tmp_path / "a.jpg"), 8).std() > 10
        (tmp_path / "a.jpg").rename(tmp_path / "untitled")
        assert is_image(str(tmp_path / "untitled")), format


def test_jpeg_in_cmyk(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red, in inks
    decoded = decode(saved(tmp_path / "a.jpg", image, quality=95), 8)
    np.testing.assert_allclose(decoded.mean((1, 2)), [255, 0, 0], atol=4)


def test_of_an_animation_the_first_frame(tmp_path):
    first, second = Image.new("RGB", (8, 8), (255, 255, 255)), Image.new("RGB", (8, 8), (0, 0, 0))
    for suffix in ("gif", "webp", "png", "tiff"):
        path = saved(tmp_path / f"a.{suffix}", first, save_all=True, append_images=[second])
        assert (decode(path, 8) == 255).all()


def png(header, content):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("side", "depth"), [(20_000, 1), (10_000, 1), (9_400, 16)])
def test_a_bomb_is_refused_before_it_is_unpacked(side, depth, tmp_path, monkeypatch):
    header = struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(png(header, zlib.compress(b"")))  # the header is enough
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it is decoded"))
    with pytest.raises(ValueError, match=r"bomb\.png: has .*more than 67,108,864.*: make it smaller"):
        decode_safely(str(tmp_path / "bomb.png"), 32)


def test_a_thread_of_pixels_is_refused_before_it_is_resized():
    with pytest.raises(ValueError, match=r"is 1x200000, too long for 32x32 pixels"):
        fit(Image.new("RGB", (1, 200_000)), 32)
    assert fit(Image.new("RGB", (2_000, 1)), 32).shape == (3, 32, 32)
    with pytest.raises(ValueError, match="has no pixels"):
        fit(Image.new("RGB", (0, 3)), 32)


def test_files_that_are_no_images(tmp_path):
    picture(64, 64).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1000])
    (tmp_path / "text.jpg").write_text("This is not an image.")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo.png")  # opening it would never end
    (tmp_path / "huge.jpg").write_bytes(b"\xff\xd8\xff")
    os.truncate(tmp_path / "huge.jpg", 2**37)  # of holes: Pillow reads them byte by byte
    reasons = {
        "text.jpg": "is not an image of a known format", "cut.jpg": ".*truncated", "empty.png": "is empty",
        "folder.png": "is a folder", "fifo.png": "is a FIFO", "huge.jpg": "has 137,438,953,472 bytes, more",
        "zero.png": "is a FIFO, socket or device",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=f"{tmp_path / name}: {reason}"):
            decode_safely(str(tmp_path / name), 8)
    with pytest.raises(FileNotFoundError, match=f"there is no image {tmp_path / 'gone.png'}"):
        decode_safely(str(tmp_path / "gone.png"), 8)
    assert not is_image(str(tmp_path / "fifo"))


def test_postscript_called_jpg_runs_no_ghostscript(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.jpg", picture(8, 8), format="EPS")
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail(f"started {args}"))
    with pytest.raises(ValueError, match="is not an image of a known format"):
        decode_safely(path, 8)


def test_the_page_on_deployment_reads_the_same_pixels(tmp_path):
    page = Path(__file__).parents[4] / "docs" / "deploy.md"
    names = {}
    exec(page.read_text().split("```python")[1].split("```")[0], names)
    grey = RNG.integers(0, 65536, (40, 50), dtype=np.uint16)
    modes = [picture(50, 40), picture(9, 30), picture(32, 32), picture(50, 40).convert("L"), Image.fromarray(grey)]
    for number, image in enumerate([*modes, *(picture(50, 40).convert(mode) for mode in ("RGBA", "LA", "P", "1"))]):
        path = saved(tmp_path / f"{number}.png", image)
        np.testing.assert_array_equal(names["read_image"](path, 32)[0], decode(path, 32))
    path = saved(tmp_path / "12 bits.png", Image.fromarray(grey // 16))
    np.testing.assert_array_equal(names["read_image"](path, 32, 4095)[0], decode(path, 32, Reading(grey_max=4095)))
