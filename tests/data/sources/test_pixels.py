import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import CenterCrop, Compose, PILToTensor, Resize

from litcnn.data.sources.pixels import decode, fit, to_rgb

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
