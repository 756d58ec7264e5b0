"""The page: self-contained, with the right numbers, whatever the classes are called and however many there are."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from report_examples import ODD, named, results

from litengine.report import Results, page

ROWS = [
    {"epoch": str(epoch), "step": str(10 * epoch + 9), "train/loss": "1", "train/acc": "0.5", "lr": "0.1"}
    for epoch in range(3)
]
VOID = {"meta", "img", "link", "br", "path", "use", "image"}


class Parsed(HTMLParser):
    """The page as a browser understands it: its tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        self.open += [tag] * (tag not in VOID)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script") and data.strip():
            self.words.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def images(number: int, shape: tuple[int, ...] = (3, 8, 8)) -> torch.Tensor:
    return torch.randint(0, 256, (number, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def rendered(ours: Results, shape: tuple[int, ...] = (3, 8, 8), **settings) -> str:
    pixels = images(len(ours.labels), shape)
    names = [f"images/{number}.png" for number in range(len(pixels))]
    metrics = {f"test/{name}": value for name, value in ours.metrics.items()} | {"test/loss": 0.1234567}
    return page.render("digits", "2026-01-02", ours, metrics, pixels.__getitem__, names, **settings)


@pytest.fixture(scope="module")
def html() -> str:
    return rendered(results(10), curves=ROWS, facts={"checkpoint": "best.ckpt"}, config="model:\n  lr: 0.5")


def test_the_page_needs_nothing_else(html):
    parsed = Parsed(html)
    assert parsed.open == []
    assert {"script", "link", "iframe", "object", "embed", "base"}.isdisjoint(tag for tag, _ in parsed.tags)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "srcset", "xlink:href", "action", "data", "poster"):
            assert re.match(r"data:|#|None$", str(attributes.get(name))), (tag, attributes)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", html))
    assert "http" not in html and "//" not in re.sub(r"base64,[^\"]*", "", html) and "@import" not in html
    assert len(html) < 500_000


def test_the_page_has_the_numbers(html):
    ours = results(10)
    words = Parsed(html).words
    rows = [words[k : k + 5] for k in range(len(words))]
    titles = {"Accuracy": "acc", "Top-5 accuracy": "acc_top5", "Mean F1": "f1", "Calibration error": "ece"}
    for name, metric in titles.items():
        assert words[words.index(name) + 1] == f"{100 * ours.metrics[metric]:.2f}"
    assert words[words.index("Loss") + 1] == "0.1235"
    wrong = round(600 * (1 - ours.metrics["acc"]))
    assert words[words.index("Images wrong") + 1 :][:2] == [str(wrong), "of 600"]
    for row in ours.per_class[:1] + ours.per_class[2:9]:
        scores = [f"{100 * value:.2f} %" for value in (row.precision, row.recall, row.f1)]
        assert [row.name, *scores, str(row.support)] in rows
    assert ["class 1", "–", "0.00 %", "0.00 %", str(ours.per_class[1].support)] in rows  # never predicted
    for pair in ours.most_confused(10):
        assert [f"class {pair.label}", f"class {pair.prediction}", str(pair.images)] in [row[:3] for row in rows]
    assert {"best.ckpt", "model:\n  lr: 0.5", "digits", "Test report of 2026-01-02", "Learning rate"} <= set(words)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (4, 16, 16)])
def test_the_gallery_holds_the_most_confident_mistakes(shape, monkeypatch):
    monkeypatch.setattr(page.pictures, "svg", lambda figure: "<svg/>")
    ours = results(10)
    parsed = Parsed(rendered(ours, shape))
    gallery, mistakes = parsed.all("img"), ours.confident_mistakes(24)
    assert len(gallery) == len(mistakes) == 24
    pixels = images(600, shape)[mistakes[3]][:3]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(gallery[3]["src"].split(",")[1]))))
    np.testing.assert_array_equal(shown, pixels.expand(3, -1, -1).permute(1, 2, 0).numpy())
    assert gallery[3]["class"] == "pixels" and gallery[3]["src"].startswith("data:image/png;base64,")
    place = mistakes[3]
    first = parsed.words.index(f"{100 * float(ours.confidences[place]):.2f} %")
    prediction, label = (ours.class_names[int(classes[place])] for classes in (ours.predictions, ours.labels))
    assert parsed.words[first - 1] == prediction and parsed.words[first + 1] == f"true: {label}"
    assert f"images/{place}.png" in [figure.get("title") for figure in parsed.all("figure")]
    assert "Learning curves" not in parsed.words and "All settings" not in parsed.words  # the run has neither


@pytest.mark.parametrize("classes", [2, 21, 1000])
def test_any_number_of_classes_makes_a_page_of_modest_size(classes):
    ours = results(classes, 400)
    html = rendered(ours, (3, 150, 200))
    parsed = Parsed(html)
    assert parsed.open == [] and len(html) < 900_000
    assert len(parsed.all("tr")) == 1 + min(10, len(ours.most_confused(10))) + 1 + min(classes, 200)
    assert ("the others are in per_class.csv" in html) == (classes > 200)
    assert ("Classes without test images have no scores" in html) == (classes > 2)
    assert len(parsed.all("svg")) == 3 and ("Top-5 accuracy" in parsed.words) == (classes > 5)
    for image in parsed.all("img"):  # large ones become small JPEGs
        shown = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
        assert (shown.format, shown.size, "class" in image) == ("JPEG", (192, 144), False)


def test_without_mistakes_there_is_no_empty_table():
    perfect = Results.of(torch.eye(7).repeat(3, 1), torch.arange(7).repeat(3), list("abcdefg"))
    parsed = Parsed(rendered(perfect))
    assert "None: every image was classified right." in parsed.words
    assert parsed.all("img") == [] and len(parsed.all("table")) == 1
    assert parsed.words[parsed.words.index("Images wrong") + 1] == "0"


def test_names_are_text_and_nothing_else():
    ours = named([*ODD, "<script>alert(1)</script>", "'\" onload=alert(1) x='"])
    pixels = images(len(ours.labels))
    files = ['<img src="http://x/y">"'] * len(pixels)
    html = page.render(
        "<i>a</i>", "b", ours, {"test/<b>": 1.0}, pixels.__getitem__, files, ROWS, {"<u>": "</dl>"}, "</pre><h1>x"
    )
    parsed = Parsed(html)
    assert parsed.open == []
    assert {"script", "i", "u"}.isdisjoint(tag for tag, _ in parsed.tags) and len(parsed.all("h1")) == 1
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert all(image["src"].startswith("data:") for image in parsed.all("img"))
    assert {"<i>a</i>", "<u>", "</dl>", "</pre><h1>x", "<script>alert(1)</script>"} <= set(parsed.words)
    assert files[0] in [figure.get("title") for figure in parsed.all("figure")]
