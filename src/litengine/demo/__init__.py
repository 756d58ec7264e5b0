"""The verb `demo`: a web page that classifies images with a checkpoint.

Everything stays on this machine: the page loads nothing from elsewhere, the server sends nothing to others, and uploads
are deleted after minutes, and when the server ends.
"""

import os
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory


def demo(
    ckpt_path: str,
    host: str = "127.0.0.1",
    port: int | None = None,
    images: list[str] = [],  # noqa: B006 (only read)
    trust: list[str] = [],  # noqa: B006
) -> None:
    """Open a web page that classifies images.

    It shows the classes of an image that is dropped or pasted there, the image as the network sees it, and the pixels
    that speak for its class. It ends with Ctrl-C.

    Args:
        ckpt_path: The checkpoint of a fit, such as best.ckpt.
        host: Address to listen at. With 127.0.0.1 only this machine sees the page, with 0.0.0.0 all of its network.
        port: Port to listen at; by default the first free one from 7860 on.
        images: Image files, folders and globs; the page offers ten of them to try.
        trust: Packages that the checkpoint may name too.

    Raises:
        ValueError, OSError: if Gradio is missing, or address, checkpoint or images cannot be used.
    """
    if find_spec("gradio") is None:
        raise ValueError('demo needs Gradio, which is not installed: pip install -e ".[demo]"')
    for name in ("SIGTERM", "SIGHUP"):  # end the program as Ctrl-C does, so that uploads are deleted
        if hasattr(signal, name) and threading.current_thread() is threading.main_thread():
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    with TemporaryDirectory(prefix="litengine-demo-") as directory:
        folder = Path(directory).resolve()
        # Gradio reads some of these when it is imported
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        # Gradio requests its own page once, which a proxy would not find
        direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "localhost", "127.0.0.1", host]
        os.environ["no_proxy"] = ",".join(filter(None, direct))

        from litengine.data.sources.find import find_images
        from litengine.demo.page import describe, make_page, save_examples
        from litengine.demo.server import find_port, is_seen_by_others, launch
        from litengine.files import relative, visible
        from litengine.inference.predictor import load
        from litengine.training.run_directory import run_dir_of

        port = find_port(host, port)
        paths = find_images(images) if images else []
        predictor = load(ckpt_path, trust=trust)
        run = run_dir_of(ckpt_path)
        name = visible(run.parent.name if run else relative(ckpt_path))
        page = make_page(predictor, name, save_examples(predictor, paths, folder), folder)
        try:
            address = launch(page, host, port, folder)
            print(f"{describe(predictor)}\n{address} (Ctrl-C stops it)", flush=True)
            if is_seen_by_others(host):
                print("warning: everyone who reaches this machine over the network can use the page", flush=True)
            while True:
                time.sleep(3600)
        finally:
            page.close(verbose=False)
