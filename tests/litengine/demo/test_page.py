"""The page as its server answers, without a browser."""

import base64
import io
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from project_for_tests import CNN

from litengine.demo import page as page_module
from litengine.demo import server as server_module
from litengine.demo.page import make_page, save_examples
from litengine.demo.server import MAX_REQUEST, MAX_UPLOAD, find_port, launch
from litengine.inference.predictor import Classifier, Predictor
from litengine.inference.saliency import saliency

pytest.importorskip("gradio")
http = pytest.importorskip("httpx").Client(timeout=60)


def make_predictor(names: int = 12) -> Predictor:
    torch.manual_seed(0)
    facts = {
        **{"class_names": [f"class {label} <b>" for label in range(names)], "image_shape": [3, 32, 32]},
        **{"mean": [0.0] * 3, "std": [1.0] * 3, "tta": "none", "channels_last": False},
    }
    return Predictor(Classifier(CNN(widths=[4], hidden=8, image_size=32, num_classes=names), facts), "cpu")


class Site(NamedTuple):
    """A page that is served."""

    predictor: Predictor
    folder: Path
    url: str

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        answer = http.post(f"{self.url}gradio_api/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def classify(self, image: dict[str, Any]) -> dict[str, Any]:
        """What the page is told at last: `success`, and the `output` it was given."""
        asked = {"data": [image], "fn_index": self._index(), "session_hash": uuid.uuid4().hex}
        answer = http.post(f"{self.url}gradio_api/queue/join", json=asked)
        if answer.status_code != 200:
            return {"success": False, "status": answer.status_code}
        listen = {"session_hash": asked["session_hash"]}
        with http.stream("GET", f"{self.url}gradio_api/queue/data", params=listen) as events:
            for line in events.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("msg") == "process_completed":
                    return dict(message)
        raise AssertionError("the answer ended too early")

    def _index(self) -> int:
        """Of the function that answers a change of the image."""
        functions = http.get(f"{self.url}config").json()["dependencies"]
        return int(next(function["id"] for function in functions if len(function["outputs"]) == 3))

    def picture(self, output: dict[str, Any]) -> np.ndarray:
        answer = http.get(f"{self.url}gradio_api/file={output['path']}")
        return np.asarray(Image.open(io.BytesIO(answer.content)))


@contextmanager
def served(folder: Path) -> Iterator[Site]:
    """Twelve classes, and two examples."""
    folder = folder.resolve()
    files = [folder.parent / f"{name}.png" for name in "ab"]
    for file in files:
        file.write_bytes(png(random_image()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        predictor = make_predictor()
        examples = save_examples(predictor, [str(file) for file in files], folder)
        page = make_page(predictor, "a <b>*run*</b></title>", examples, folder)
        try:
            yield Site(predictor, folder, launch(page, "127.0.0.1", find_port("127.0.0.1", None), folder))
        finally:
            page.close(verbose=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(tmp_path_factory.mktemp("site")) as site:
        yield site


def png(pixels: np.ndarray, **settings: Any) -> bytes:
    """A file, of pixels (3, H, W)."""
    file = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels, 0, 2)).save(file, "PNG", **settings)
    return file.getvalue()


def random_image(height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)


def test_the_answer_is_that_of_the_predictor(site: Site) -> None:
    pixels = random_image()
    answer = site.classify(site.upload("photo.png", png(pixels)))
    assert answer["success"]
    classes, seen, speaks = answer["output"]["data"]
    example = {"path": str(site.folder / "examples/1.png"), "meta": {"_type": "gradio.FileData"}}
    assert site.classify(example)["output"]["data"][0] == classes
    expected = site.predictor.predict(pixels)
    assert classes["label"] == expected.label
    told = {entry["label"]: entry["confidence"] for entry in classes["confidences"]}
    assert told == pytest.approx(dict(expected.top(10))) and len(told) == 10  # of twelve
    prepared = np.moveaxis(site.predictor.prepare(pixels), 0, 2)
    np.testing.assert_array_equal(site.picture(seen), np.kron(prepared, np.ones((10, 10, 1), dtype=np.uint8)))
    assert speaks["label"] == f"Speaks for {expected.label}"
    heat = saliency(site.predictor.classifier, site.predictor.prepare(pixels))
    marked = np.abs(site.picture(speaks["value"]).astype(int) - site.picture(seen)).sum(2)  # (320, 320)
    assert marked.shape == (320, 320)
    assert np.corrcoef(marked.reshape(32, 10, 32, 10).mean((1, 3)).ravel(), heat.ravel())[0, 1] > 0.5


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no image at all", "photo.png: is not an image of a known format"),
        (png(random_image())[:1000], "photo.png: .*truncated"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "photo.png: is not an image of a known format"),
    ],
    ids=["text", "truncated", "svg"],
)
def test_what_is_no_image_is_said(site: Site, content: bytes, reason: str) -> None:
    answer = site.classify(site.upload("photo.png", content))
    assert not answer["success"]
    said = answer["output"]["error"]
    assert re.match(reason, said)
    assert str(site.folder) not in said and "Traceback" not in said


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_a_file_of_this_machine_that_was_not_uploaded_is_refused(site: Site, meta: dict[str, Any]) -> None:
    secret = Path("secret.png").resolve()
    secret.write_bytes(png(random_image()))
    for path in (str(secret), f"{site.folder}/../{os.path.relpath(secret, site.folder.parent)}"):
        assert not site.classify({"path": path, **meta})["success"]
        assert http.get(f"{site.url}gradio_api/file={path}").status_code == 403
    data = f"data:image/png;base64,{base64.b64encode(secret.read_bytes()).decode()}"
    assert not site.classify({"path": str(secret), "url": data, **meta})["success"]


def test_too_large_a_file_is_refused(site: Site) -> None:
    for size in (MAX_UPLOAD + 1, MAX_UPLOAD + MAX_REQUEST + 1):  # by Gradio, by the gate
        answer = http.post(f"{site.url}gradio_api/upload", files={"files": ("a.png", b"x" * size)})
        assert answer.status_code == 413


def test_the_gate_is_in_place(site: Site) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        files = {"files": ("a.png", png(random_image()))}
        assert http.post(f"{site.url}gradio_api/upload", files=files, headers=headers).status_code == 403
    remote = {"path": "http://192.0.2.1/a.png", "meta": {"_type": "gradio.FileData"}}
    assert site.classify(remote)["status"] == 403
    assert http.get(f"{site.url}gradio_api/file=http://192.0.2.1/a.png").status_code == 403


def test_uploads_are_forgotten_and_examples_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < page_module.FORGET[0] <= page_module.FORGET[1] <= 300
    monkeypatch.setattr(page_module, "FORGET", (1, 1))
    (tmp_path / "site").mkdir()
    with served(tmp_path / "site") as site:
        answer = site.classify(site.upload("photo.png", png(random_image())))
        assert answer["success"]
        examples = set((site.folder / "examples").iterdir())
        assert len(examples) == 2
        deadline = time.monotonic() + 20
        while (files := {path for path in site.folder.rglob("*") if path.is_file()}) != examples:
            assert files > examples and time.monotonic() < deadline
            time.sleep(0.1)


def test_nothing_else_is_offered_and_names_are_escaped(site: Site) -> None:
    config = http.get(f"{site.url}config").json()
    assert config["footer_links"] == [] and not config["analytics_enabled"] and not config["show_error"]
    assert http.get(f"{site.url}gradio_api/info").json()["named_endpoints"] == {}
    assert http.get(f"{site.url}monitoring/summary").status_code >= 400
    text = next(part["props"]["value"] for part in config["components"] if part["type"] == "html")
    assert "<h1>a &lt;b&gt;*run*&lt;/b&gt;&lt;/title&gt;</h1>" in text and "class 0 &lt;b&gt;" in text
    assert "</b></title>" not in http.get(site.url).text.replace("<title>", "", 1).split("</title>", 1)[0]


def test_all_uploads_together_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_UPLOADS", 3 * MAX_UPLOAD)
    for number in range(6):
        site.upload(f"{number}.png", bytes([number]) * (MAX_UPLOAD - 1000))
    files = [path for path in site.folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3 * MAX_UPLOAD + 10_000
    assert "5.png" in {path.name for path in files} and len(list((site.folder / "examples").iterdir())) == 2


def test_an_error_of_ours_shows_no_traceback(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("inner matters")

    monkeypatch.setattr(site.predictor.classifier.network, "forward", fail)
    answer = site.classify(site.upload("photo.png", png(random_image(35))))
    assert not answer["success"] and "inner matters" not in json.dumps(answer)
