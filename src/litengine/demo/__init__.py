"""The verb `demo`: a web page that classifies images with a checkpoint.

Everything stays on this machine: the page loads nothing from elsewhere, the server asks nobody, and what was uploaded
is gone after minutes, and with the server.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from litengine.demo.examples import save_examples
from litengine.demo.page import CSS, describe, make_page
from litengine.demo.server import find_port, is_seen_by_others, launch


def demo(
    ckpt_path: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    trust: list[str] = [],  # noqa: B006 (only read)
) -> None:
    """Open a web page that classifies images.

    It shows the classes of an image that is dropped or pasted there, the image as the network sees it, and what in it
    speaks for its class. It is there until Ctrl-C.

    Args:
        ckpt_path: The checkpoint of a fit, such as best.ckpt.
        host: Address to listen at. With 127.0.0.1 only this machine sees the page, with 0.0.0.0 all of its network.
        port: Port to listen at; by default 7860, or where that is in use the next that is free.
        trust: Packages that the checkpoint may name too.

    Raises:
        ValueError, OSError: where Gradio is missing, the address cannot be listened at, or the checkpoint not be used.
    """
    if find_spec("gradio") is None:
        raise ValueError('demo needs Gradio, which is not installed: pip install -e ".[demo]"')
    port = find_port(host, port)

    from litengine.files import relative
    from litengine.inference.predictor import load
    from litengine.inference.safe_config import read_trusted

    predictor = load(ckpt_path, trust=trust)
    config = read_trusted(ckpt_path, trust)["config"]
    with _stopped_by_signals(), TemporaryDirectory(prefix="litcnn-demo-") as directory:
        folder = Path(directory).resolve()
        _settle_gradio(folder, host)
        examples = save_examples(config["data"]["source"], folder)
        page = make_page(predictor, config.get("name") or relative(ckpt_path), examples, folder)
        try:
            address = launch(page, CSS, host, port)
            print(f"{describe(predictor)}\n{address} (Ctrl-C stops it)", flush=True)
            if is_seen_by_others(host):
                print("warning: everyone who reaches this machine over the network can use the page", flush=True)
            while True:
                time.sleep(3600)
        finally:
            page.close(verbose=False)


def _settle_gradio(folder: Path, host: str) -> None:
    """What Gradio takes from the environment, some of it when it is imported."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # it looks whether its own page is there, and a proxy would not find it
    direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "localhost", "127.0.0.1", host]
    os.environ["no_proxy"] = ",".join(filter(None, direct))


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the program as Ctrl-C does, so that what was uploaded is removed."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
