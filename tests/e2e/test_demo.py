"""The demo as a person uses it: the program, and a real browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import litcnn
from litcnn.__main__ import main
from litengine.data import Digits

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CONFIGS = Path(__file__).parents[2] / "configs"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
# Python imports it at its start: it writes down every host that the program looks for or connects to.
LISTEN_IN = """
import os, sys

def write_down(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = "proxy" if arguments[1][1] == 9 else arguments[1][0]
    else:
        return
    with open(os.environ["HOSTS"], "a") as file:
        print(host if isinstance(host, str) else host.decode(), file=file)

sys.addaudithook(write_down)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two epochs on the digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fit"))
        no_tracker = ["--config", str(CONFIGS / "with/no_tracker.yaml")]
        main(["fit", "--config", str(CONFIGS / "digits.yaml"), *no_tracker, "--trainer.max_epochs", "2"])
        return Path("best.ckpt").resolve()


class Program(NamedTuple):
    """The running demo."""

    process: subprocess.Popen[str]
    printed: list[str]
    url: str
    place: Path

    def temporary(self) -> list[Path]:
        """Its temporary files."""
        return [path for path in (self.place / "tmp").rglob("*") if path.is_file()]

    def hosts(self) -> set[str]:
        """What it looked for or connected to."""
        return set((self.place / "hosts").read_text().split())


def hear_signals() -> None:
    """Also where the tests run in the background of a shell, which has them ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def started(checkpoint: Path, place: Path, *options: str) -> Iterator[Program]:
    """The program, from its start until it was stopped; with a proxy in its environment that is not there."""
    for folder in ("tmp", "cwd", "site", "home"):
        (place / folder).mkdir(parents=True)
    (place / "site" / "sitecustomize.py").write_text(LISTEN_IN)
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"} | {
        "TMPDIR": str(place / "tmp"),
        "HOME": str(place / "home"),
        "PYTHONPATH": os.pathsep.join([str(place / "site"), os.environ.get("PYTHONPATH", "")]),
        "HOSTS": str(place / "hosts"),
        **proxies,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "litcnn", "demo", "--ckpt_path", str(checkpoint), *options],
        cwd=place / "cwd",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear_signals,
    )
    assert process.stdout is not None
    printed: list[str] = []
    try:
        for line in process.stdout:
            printed.append(line)
            if "Ctrl-C" in line:
                break
        else:
            raise AssertionError("".join(printed))
        rest = threading.Thread(target=lambda: printed.extend(process.stdout or ()), daemon=True)
        rest.start()
        yield Program(process, printed, printed[-1].split()[0], place)
        rest.join(30)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three digits."""
    folder = tmp_path_factory.mktemp("examples")
    images, labels, *_ = Digits().load("test")
    for digit in range(3):
        Image.fromarray(np.moveaxis(images[labels == digit][0].numpy(), 0, 2)).save(folder / f"{digit}.png")
    return folder


@pytest.fixture(scope="module")
def program(checkpoint: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with started(checkpoint, tmp_path_factory.mktemp("demo"), "--images", str(examples)) as program:
        yield program
        program.process.terminate()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, program: Program, **settings: Any) -> Iterator[Any]:
    """The page in a window of its own; afterwards, that it asked nobody but the program for anything."""
    context = browser.new_context(**settings)
    asked: list[str] = []
    complaints: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(program.url)
    page.wait_for_selector("input[type=file]", state="attached")
    yield page
    assert len(asked) > 10 and complaints == []
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {
        urlsplit(program.url).netloc
    }
    context.close()


@pytest.fixture
def page(browser: Any, program: Program) -> Iterator[Any]:
    with opened(browser, program, viewport={"width": 1280, "height": 800}) as page:
        yield page


@pytest.fixture
def drawing(tmp_path: Path) -> Path:
    """A photograph, so to say, of a seven: a test image, larger and not square."""
    images, labels, *_ = Digits().load("test")
    seven = np.moveaxis(images[labels == 7][1].numpy(), 0, 2)
    path = tmp_path / "my drawing.png"
    Image.fromarray(seven).resize((320, 320)).crop((-40, 0, 360, 320)).save(path)
    return path


def read(page: Any, checkpoint: Path, path: Path) -> str:
    """The class in the page, once it is there: that of `litcnn.load`, with all that belongs to it."""
    expected = litcnn.load(checkpoint).predict(path)
    pictures = page.locator(".demo-picture img")
    for picture in (pictures.nth(0), pictures.nth(1)):
        playwright.expect(picture).to_have_js_property("naturalWidth", 320, timeout=60_000)  # it is loaded
    label = str(page.inner_text(".demo-classes .output-class"))
    assert label == expected.label
    assert page.get_by_text(f"Speaks for {label}").is_visible()
    bars = page.locator(".demo-classes meter")
    assert bars.count() == 10
    shown = [float(bar.get_attribute("value")) for bar in bars.all()]
    assert shown == pytest.approx([probability for _, probability in expected.top(10)], abs=1e-5)
    return label


def test_choose_a_file(page: Any, checkpoint: Path, drawing: Path) -> None:
    assert page.title() == "digits"
    assert page.inner_text("h1") == "digits"
    assert "32x32 pixels · 10 classes: 0, 1, 2" in page.inner_text(".demo-head")
    page.set_input_files("input[type=file]", drawing)
    assert read(page, checkpoint, drawing) == "7"


def test_drop_a_file(page: Any, checkpoint: Path, drawing: Path) -> None:
    transfer = page.evaluate_handle(
        """async ([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
            return transfer;
        }""",
        [list(drawing.read_bytes()), drawing.name],
    )
    page.dispatch_event(".demo-upload button[aria-dropeffect]", "drop", {"dataTransfer": transfer})
    assert read(page, checkpoint, drawing) == "7"


def test_paste_an_image(page: Any, program: Program, checkpoint: Path, drawing: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=program.url)
    page.evaluate(
        """async (bytes) => {
            const image = new Blob([new Uint8Array(bytes)], {type: "image/png"});
            await navigator.clipboard.write([new ClipboardItem({"image/png": image})]);
        }""",
        list(drawing.read_bytes()),
    )
    page.click("button[aria-label='Paste from clipboard']")
    assert read(page, checkpoint, drawing) == "7"


def test_choose_an_example(page: Any, checkpoint: Path, examples: Path) -> None:
    assert page.locator(".gallery-item").count() == 3
    page.locator(".gallery-item").nth(1).click()
    read(page, checkpoint, examples / "1.png")


@pytest.mark.parametrize("kind", ["text", "bomb", "large"])
def test_a_bad_file_is_told_and_the_next_is_taken(
    page: Any, kind: str, checkpoint: Path, drawing: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    if kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(bad)
    else:
        bad.write_bytes(b"no image at all" if kind == "text" else bytes(11 * 2**20))
    page.set_input_files("input[type=file]", bad)
    said = page.get_by_test_id("toast-body")
    said.wait_for()
    wanted = {"text": "bad.png: is not an image of a known format", "bomb": "pixels", "large": "10.0 Mb"}
    assert wanted[kind] in said.inner_text() and "Traceback" not in page.inner_text("body")
    page.get_by_text("Drop Image Here").wait_for()
    page.set_input_files("input[type=file]", drawing)
    assert read(page, checkpoint, drawing) == "7"


def test_on_a_phone(browser: Any, program: Program, checkpoint: Path, drawing: Path) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with opened(browser, program, **phone) as page:
        page.set_input_files("input[type=file]", drawing)
        read(page, checkpoint, drawing)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        upload, classes, seen, speaks = (
            page.locator(which).bounding_box()
            for which in (
                ".demo-upload",
                ".demo-classes",
                ".demo-picture >> nth=0",
                ".demo-picture >> nth=1",
            )
        )
        assert upload["y"] < classes["y"] < seen["y"] == speaks["y"]
        assert seen["x"] + seen["width"] < speaks["x"] < speaks["x"] + speaks["width"] < 390
        assert classes["y"] < 844  # the answer is seen without scrolling


def test_the_program_asked_nobody(page: Any, program: Program, checkpoint: Path, drawing: Path) -> None:
    page.set_input_files("input[type=file]", drawing)
    read(page, checkpoint, drawing)
    assert program.hosts() == {"127.0.0.1"}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_stopping_leaves_nothing(name: str, checkpoint: Path, drawing: Path, tmp_path: Path) -> None:
    number = getattr(signal, name)
    with started(checkpoint, tmp_path / "demo") as program:
        upload(program, drawing)
        assert [path.name for path in program.temporary() if path.suffix == ".png" and "drawing" in path.name]
        program.process.send_signal(number)
        assert program.process.wait(30) == 128 + number
    assert list((program.place / "tmp").iterdir()) == []
    assert list((program.place / "cwd").iterdir()) == []
    assert not [path for path in program.place.rglob("*") if "drawing" in path.name]
    assert len(program.printed) == 2  # the model, and where it is
    assert program.hosts() == {"127.0.0.1"}


def upload(program: Program, path: Path) -> None:
    import httpx

    answer = httpx.post(
        f"{program.url}gradio_api/upload", files={"files": (path.name, path.read_bytes())}, trust_env=False
    )
    assert answer.status_code == 200


def test_who_else_sees_it_is_said_and_a_busy_port_too(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    with started(checkpoint, tmp_path / "demo", "--host", "0.0.0.0", "--port", port) as program:
        with pytest.raises(SystemExit) as stopped:
            main(["demo", "--ckpt_path", str(checkpoint), "--port", port])
        assert stopped.value.code == 2
        error = f"error: cannot listen at 127.0.0.1, port {port}: Address already in use. Give another --host or --port"
        assert capsys.readouterr().err.strip() == error
        program.process.send_signal(signal.SIGHUP)  # the terminal was closed
        assert program.process.wait(30) == 129
    assert "".join(program.printed).count("warning: everyone") == 1
    assert list((program.place / "tmp").iterdir()) == []
