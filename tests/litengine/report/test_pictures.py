"""Pictures say what the numbers say: read back from the figures and from their files."""

import base64
import io
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from report_examples import ODD, named, results

from litengine.report import pictures


def drawn(figure) -> ElementTree.Element:
    return ElementTree.fromstring(pictures.svg(figure))


def texts(figure) -> list[str]:
    return [element.text for element in drawn(figure).iter("text")]


def cells(figure) -> np.ndarray:
    """RGBA of the image inside the picture."""
    (image,) = drawn(figure).iter("image")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.get("href").split(",")[1]))))


def test_the_confusion_matrix_shows_every_number_and_name():
    ours = results(10)
    shown = texts(pictures.confusion_matrix(ours))
    numbers = sorted(int(text) for text in shown if text.isdigit())
    assert numbers == sorted(ours.confusion[ours.confusion > 0].tolist())
    assert all(shown.count(f"class {label}") == 2 for label in range(10))
    counts = ours.confusion.numpy()
    shades = np.sqrt(counts / np.maximum(counts.sum(1), 1)[:, None]) * 255
    image = cells(pictures.confusion_matrix(ours))
    np.testing.assert_allclose(image[..., 3], shades, atol=0.5)
    assert image[0, 0, :3].tolist() == [0x2F, 0x81, 0xF7] and image[2, 3, :3].tolist() == [0xE8, 0x71, 0x0A]


@pytest.mark.parametrize(("classes", "size"), [(200, 200), (201, 101)])
def test_a_large_confusion_matrix_merges_classes(classes, size):
    ours = results(classes, 3000)
    image = cells(pictures.confusion_matrix(ours))
    assert image.shape == (size, size, 4)
    merged = -(-classes // size)
    counts = np.zeros((size * merged, size * merged))
    counts[:classes, :classes] = ours.confusion.numpy()
    counts = np.array([[block.sum() for block in np.split(row, size, 1)] for row in np.split(counts, size)])
    shades = np.sqrt(counts / np.maximum(counts.sum(1), 1)[:, None]) * 255
    np.testing.assert_allclose(image[..., 3], shades, atol=0.5)


def test_names_are_shown_as_they_are_and_shortened():
    ours = named(ODD)
    for figure in (pictures.confusion_matrix(ours), pictures.class_bars(ours)):
        shown = texts(figure)
        assert "$x_1$" in shown and "猫 кошка 😀" in shown and '<b>a</b> & "b"' in shown
        assert "two lines��" in shown
        assert any(text.startswith("aaaa") and text.endswith("…") and len(text) <= 22 for text in shown)
        assert pictures.png(figure).startswith(b"\x89PNG")


def test_the_bars_are_the_lowest_f1_first():
    ours = results(100, 3000)
    figure = pictures.class_bars(ours)
    worst = ours.worst_classes(30)
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([row.f1 for row in worst])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [row.name for row in worst]
    assert len(pictures.class_bars(results(2)).axes[0].patches) == 2


def test_the_reliability_diagram_is_that_of_the_bins():
    ours = results(10)
    upper, lower = pictures.reliability(ours).axes
    images, confidence, accuracy = ours.bins.tolist()
    np.testing.assert_allclose([bar.get_height() for bar in upper.patches[:15]], accuracy)
    ends = [(gap.get_y(), gap.get_y() + gap.get_height()) for gap in upper.patches[15:]]
    np.testing.assert_allclose(ends, [sorted(both) for both in zip(accuracy, confidence, strict=True)])
    assert [bar.get_height() * 600 for bar in lower.patches] == pytest.approx(images)


def test_learning_curves_are_the_rows_over_the_epochs():
    rows = [
        {"epoch": "0", "step": "1", "train/loss_step": "3", "train/loss": "", "val/loss": ""},
        {"epoch": "0", "step": "3", "train/loss_step": "2", "train/loss": "2.5", "val/loss": "2.2"},
        {"epoch": "1", "step": "7", "train/loss_step": "", "train/loss": "1.5", "val/loss": "1.2"},
        {"epoch": "", "step": "8", "train/loss_step": "", "train/loss": "", "val/loss": "", "test/loss": "1.3"},
    ]
    figure = pictures.learning_curve(rows, "loss")
    lines = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert lines == [[[0.5, 3], [1, 2]], [[1, 2.5], [2, 1.5]], [[1, 2.2], [2, 1.2]]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["training", "validation"]
    rows[1]["val/f1"], rows[2]["val/f1"] = "0.4", "0.6"
    curves = dict(pictures.learning_curves(rows))
    assert list(curves) == ["Loss", "f1"]
    assert [line.get_xydata().tolist() for line in curves["f1"].axes[0].lines] == [[[1, 0.4], [2, 0.6]]]
    assert pictures.learning_curve(rows[:1], "loss") is None and pictures.learning_curve([], "acc") is None


@pytest.mark.parametrize(("shape", "larger"), [((3, 8, 8), 12), ((1, 28, 28), 3), ((5, 100, 100), 1)])
def test_a_grid_shows_every_pixel_of_its_images(shape, larger):
    images = torch.randint(0, 256, (10, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    figure = pictures.image_grid(images, [f"title {number}" for number in range(10)], columns=4)
    shown = np.asarray(Image.open(io.BytesIO(pictures.png(figure))).convert("RGB"))
    side = shape[1] * larger
    assert shown.shape == (3 * (side + 18) + 6, 4 * (side + 6) + 6, 3)
    for number in (0, 5, 9):
        top, left = 18 + number // 4 * (side + 18), 6 + number % 4 * (side + 6)
        block = shown[top : top + side : larger, left : left + side : larger]
        expected = images[number, :3].expand(3, -1, -1) if shape[0] == 1 else images[number, :3]
        np.testing.assert_array_equal(block, expected.permute(1, 2, 0).numpy())
    assert shown[-1].min() == 255 and shown[:18].min() < 128  # white around, ink in the titles


def test_drawing_leaves_no_trace():
    import matplotlib.pyplot as plt

    before, torch_state, numpy_state = dict(matplotlib.rcParams), torch.get_rng_state(), np.random.get_state()[1].copy()
    for picture in (pictures.confusion_matrix, pictures.class_bars):
        assert pictures.svg(picture(results(10))) == pictures.svg(picture(results(10)))
    assert dict(matplotlib.rcParams) == before and plt.get_fignums() == []
    assert torch.equal(torch.get_rng_state(), torch_state) and (np.random.get_state()[1] == numpy_state).all()


def test_an_svg_takes_colour_font_and_size_from_the_page():
    text = pictures.svg(pictures.reliability(results(10)))
    assert text.startswith("<svg viewBox=") and "currentColor" in text
    assert "http" not in text and "font-family" not in text and pictures.INK not in text
    assert not {"width", "height"} & set(ElementTree.fromstring(text).attrib)
