"""The demo as a person uses it: the program, and a real browser."""

import os
import shutil
import signal
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
from processes import free_port
from program import refusal

import litcnn
from litengine.data import Digits

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
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
def checkpoint(home: Path) -> Path:
    return (home / "best.ckpt").resolve()


class Program(NamedTuple):
    """The running demo."""

    process: subprocess.Popen[str]
    printed: list[str]
    url: str
    place: Path


@contextmanager
def started(checkpoint: Path, place: Path, *options: str) -> Iterator[Program]:
    """The program, from its start until it was stopped; its environment has a proxy that does not exist."""
    for folder in ("tmp", "cwd", "site", "home"):
        (place / folder).mkdir(parents=True)
    (place / "site" / "sitecustomize.py").write_text(LISTEN_IN)
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"} | {
        "TMPDIR": str(place / "tmp"),
        "HOME": str(place / "home"),
        "PYTHONPATH": os.pathsep.join([str(place / "site"), *sys.path]),
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
        # also if the tests run in the background of a shell, which ignores them
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)],
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
        rest.join(60)
        assert list((place / "tmp").iterdir()) == list((place / "cwd").iterdir()) == []  # nothing is left
        assert set((place / "hosts").read_text().split()) == {"127.0.0.1"} or "--host" in options  # it asked nobody
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
        assert program.process.wait(60) == 128 + signal.SIGTERM


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
    """A seven of the test images, larger and not square."""
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


def test_an_image_is_classified(page: Any, checkpoint: Path, drawing: Path) -> None:
    assert page.title() == page.inner_text("h1") == "digits"
    assert "32x32 pixels · 10 classes: 0, 1, 2" in page.inner_text(".demo-head")
    page.set_input_files("input[type=file]", drawing)
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


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no image at all", "bad.png: is not an image of a known format"), (bytes(11 * 2**20), "10.0 Mb")],
    ids=["text", "large"],
)
def test_after_a_bad_file_the_next_is_taken(
    page: Any, content: bytes, message: str, checkpoint: Path, drawing: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    page.set_input_files("input[type=file]", tmp_path / "bad.png")
    toast = page.get_by_test_id("toast-body")
    toast.wait_for()
    assert message in toast.inner_text() and "Traceback" not in page.inner_text("body")
    page.get_by_text("Drop Image Here").wait_for()
    page.set_input_files("input[type=file]", drawing)
    assert read(page, checkpoint, drawing) == "7"


def test_a_stopped_demo_leaves_nothing(checkpoint: Path, drawing: Path, tmp_path: Path) -> None:
    import httpx

    with started(checkpoint, tmp_path / "demo") as program:
        files = {"files": (drawing.name, drawing.read_bytes())}
        httpx.post(f"{program.url}gradio_api/upload", files=files, trust_env=False).raise_for_status()
        temporary = [path.name for path in (program.place / "tmp").rglob("*.png")]
        assert [name for name in temporary if "drawing" in name]
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(60) == 128 + signal.SIGINT
    assert not [path for path in program.place.rglob("*") if "drawing" in path.name]
    assert len(program.printed) == 2  # the model, and the address


def test_a_public_host_is_warned_about_and_a_busy_port_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(free_port())
    with started(checkpoint, tmp_path / "demo", "--host", "0.0.0.0", "--port", port) as program:
        error = refusal(capsys, "demo", "--ckpt_path", str(checkpoint), "--port", port)
        assert f"cannot listen at 127.0.0.1, port {port}: Address already in use. Give another --host or" in error
        program.process.send_signal(signal.SIGHUP)  # the terminal was closed
        assert program.process.wait(60) == 128 + signal.SIGHUP
    assert "".join(program.printed).count("warning: everyone") == 1
