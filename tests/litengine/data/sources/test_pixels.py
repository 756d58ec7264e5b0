import struct
import subprocess
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, Compose, PILToTensor, Resize

from litengine.data.sources.pixels import decode, decode_batch, decode_safely, fit, to_pil, to_rgb

RNG = np.random.default_rng(0)


def picture(width, height):
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(32, 32), (100, 75), (75, 101), (33, 64), (20, 9), (7, 300)])
def test_fit_gives_the_pixels_of_torchvision(size):
    image = picture(*size)
    expected = Compose([Resize(32), CenterCrop(32), PILToTensor()])(image)
    assert torch.equal(torch.from_numpy(fit(image, 32).copy()), expected)


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


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.float32), np.full((2, 2), 70000, np.int32)])
def test_pixels_without_a_known_range_are_refused(array):
    with pytest.raises(ValueError, match="save it with 8 or 16 bits"):
        to_rgb(Image.fromarray(array))


def test_exif_orientation_is_applied(tmp_path):
    image = picture(32, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown, it is rotated by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(np.asarray(image), k=-1).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(str(tmp_path / "turned.png"), 32), upright)


def test_a_pil_image_is_turned_too(tmp_path):
    image = picture(8, 6)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        np.testing.assert_array_equal(np.asarray(to_pil(opened)), np.asarray(image)[::-1, ::-1])


CHANNELS_LAST = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        CHANNELS_LAST,
        CHANNELS_LAST.transpose(2, 0, 1),
        torch.from_numpy(CHANNELS_LAST),
        torch.from_numpy(CHANNELS_LAST).permute(2, 0, 1),
        CHANNELS_LAST / 255,
        torch.from_numpy(CHANNELS_LAST / 255).float().permute(2, 0, 1).requires_grad_(),
        CHANNELS_LAST[::-1][::-1],  # with strides of its own
    ],
)
def test_arrays_and_tensors_of_either_order_and_type(image):
    np.testing.assert_array_equal(np.asarray(to_pil(image)), CHANNELS_LAST)


def test_grey_and_alpha():
    grey = CHANNELS_LAST[:, :, 0]
    for image in (grey, grey[None], grey[:, :, None], grey / 255):
        np.testing.assert_array_equal(np.asarray(to_pil(image)), grey)
    assert to_pil(np.zeros((4, 9, 7), np.uint8)).mode == "RGBA"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 7, 2), np.uint8), r"has shape \(9, 7, 2\); \(H, W\), \(C, H, W\) or \(H, W, C\) is needed"),
        (np.zeros((2, 3, 9, 7), np.uint8), "has shape"),
        (np.zeros((0, 7, 3), np.uint8), "no pixels"),
        (np.zeros((9, 7), np.int64), "has type int64; uint8, or floats from 0 to 1"),
        (np.full((9, 7), 1.5), "has floats from 1.5 to 1.5; 0..1 is needed"),
        (np.full((9, 7), -0.1), "has floats"),
        (np.full((9, 7), np.nan), "has floats"),
        (None, "is a NoneType, which has no shape: a PIL image, an array or a tensor is needed"),
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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_png_of_any_mode(mode, tmp_path):
    grey = RNG.integers(0, 2, (8, 8), dtype=np.uint8) * 255
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    decoded = decode(saved(tmp_path / "a.png", image), 8)
    np.testing.assert_array_equal(decoded, np.stack([grey] * 3))


def test_jpeg_in_cmyk(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red, in inks
    decoded = decode(saved(tmp_path / "a.jpg", image, quality=95), 8)
    np.testing.assert_allclose(decoded.mean((1, 2)), [255, 0, 0], atol=4)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_of_an_animation_the_first_frame(suffix, tmp_path):
    first, second = Image.new("RGB", (8, 8), (255, 255, 255)), Image.new("RGB", (8, 8), (0, 0, 0))
    path = saved(tmp_path / f"a.{suffix}", first, save_all=True, append_images=[second])
    assert (decode(path, 8) == 255).all()


def test_one_pixel_fills_the_image(tmp_path):
    decoded = decode(saved(tmp_path / "a.png", Image.new("RGB", (1, 1), (1, 2, 3))), 32)
    assert decoded.shape == (3, 32, 32)
    assert (decoded == np.array([1, 2, 3]).reshape(3, 1, 1)).all()


def test_a_name_with_spaces_and_letters_of_any_script(tmp_path):
    path = saved(tmp_path / "mein Kätzchen 猫 [1].png", picture(8, 8))
    assert decode(path, 8).any()


def png_of_nothing(path, width, height):
    """A valid one-bit PNG whose file is a thousandth of its pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj()
    row = bytes(1 + width // 8)
    rows = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (10_000, 10_000)])  # Pillow lets the second pass
def test_a_bomb_is_refused_before_it_is_unpacked(width, height, tmp_path):
    png_of_nothing(tmp_path / "bomb.png", width, height)
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.png: has more than 89,478,485 pixels .*: make it smaller"):
        decode_safely(str(tmp_path / "bomb.png"), 32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_thread_of_pixels_is_refused_before_it_is_resized():
    with pytest.raises(ValueError, match=r"is 1x200000, too long for a shorter side of 32 pixels"):
        fit(Image.new("RGB", (1, 200_000)), 32)
    assert fit(Image.new("RGB", (20_000, 1)), 32).shape == (3, 32, 32)


def test_an_image_without_pixels_is_told():
    with pytest.raises(ValueError, match="has no pixels"):
        fit(Image.new("RGB", (0, 3)), 32)


def test_files_that_are_no_images(tmp_path):
    whole = tmp_path / "whole.jpg"
    picture(64, 64).save(whole)
    (tmp_path / "text.jpg").write_text("This is not an image.")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / "folder.png").mkdir()
    names = ["text.jpg", "empty.png", "cut.jpg", "folder.png", "gone.png", "whole.jpg"]
    images, failures = decode_batch([str(tmp_path / name) for name in names], 8)
    unknown = "is not an image of a known format"
    assert failures[:2] == [(0, unknown, True), (1, unknown, True)]
    index, reason, opened = failures[2]
    assert (index, opened) == (2, True) and "truncated" in reason
    assert failures[3:] == [(3, "Is a directory", False), (4, "No such file or directory", False)]
    assert not images[:5].any() and images[5].any()
    for name, reason in {"text.jpg": unknown, "cut.jpg": "truncated", "folder.png": "Is a directory"}.items():
        with pytest.raises(ValueError, match=f"{tmp_path / name}: .*{reason}"):
            decode_safely(str(tmp_path / name), 8)
    with pytest.raises(FileNotFoundError, match=f"there is no image {tmp_path / 'gone.png'}"):
        decode_safely(str(tmp_path / "gone.png"), 8)


def test_postscript_called_jpg_runs_no_ghostscript(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.jpg", picture(8, 8), format="EPS")
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail(f"started {args}"))
    with pytest.raises(ValueError, match="is not an image of a known format"):
        decode_safely(path, 8)
