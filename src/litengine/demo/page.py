"""The web page: an image in, its classes and two pictures out."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from litengine.files import visible
from litengine.inference.predictor import Predictor
from litengine.inference.saliency import overlay, saliency

CLASSES = 10  # shown at most
EXAMPLES = "examples"  # folder of example images
SIZE = 320  # pixels, of the pictures: a whole multiple of the image size below it
FORGET = (30, 120)  # seconds between deletions, seconds that a file is kept
CSS = """
.demo-head p {margin-top: 0}
.demo-upload .image-frame img {width: 100%; height: 100%; object-fit: contain}
.demo-classes .output-class {padding: 0 0 .5rem}
.demo-classes .confidence-set {margin-bottom: .1rem}
.demo-picture img {image-rendering: pixelated}
.demo-picture [data-testid=block-label] {position: static; width: 100%; border-width: 0 0 1px; border-radius: 0}
.demo-picture [data-testid=block-label] {white-space: nowrap; overflow: hidden}
.demo-picture .icon-button-wrapper {display: none}
.gallery-item img, .gallery-item .container {width: 3rem; height: 3rem}
"""


def make_page(predictor: Predictor, name: str, examples: list[str], folder: Path) -> gr.Blocks:
    """The page, not yet served.

    Args:
        predictor: the classifier.
        name: the title.
        examples: image files to try, in `folder`.
        folder: where Gradio keeps uploads: only files in it are classified.
    """
    zoom = max(1, SIZE // max(predictor.classifier.image_shape[1:]))

    def classify(upload: dict[str, Any] | None) -> tuple[Any, Any, Any]:
        if upload is None:
            return None, None, None
        path = Path(upload["path"]).resolve()
        if not path.is_relative_to(folder):  # only the page names uploads; another request may name any file
            raise gr.Error("This image was not uploaded here.", print_exception=False)
        try:
            image = predictor.prepare(path)
        except (ValueError, OSError) as error:
            said = visible(str(error).replace(str(path), path.name))
            raise gr.Error(escape(said), duration=None, print_exception=False) from error
        prediction = predictor.predict(image)
        heat = torch.from_numpy(saliency(predictor.classifier, image))
        heat = interpolate(heat[None, None], scale_factor=zoom, mode="bilinear")[0, 0]
        large = image.repeat(zoom, axis=1).repeat(zoom, axis=2)  # (3, H, W) -> (3, zoom * H, zoom * W)
        return (
            {visible(label): confidence for label, confidence in prediction.top(CLASSES)},
            np.moveaxis(large, 0, 2),
            gr.update(value=overlay(large, heat.numpy()), label=f"Speaks for {visible(prediction.label)}"),
        )

    page: gr.Blocks
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=FORGET) as page:
        gr.HTML(f"<h1>{escape(name)}</h1><p>{escape(describe(predictor))}</p>", elem_classes="demo-head")
        with gr.Row():
            with gr.Column(min_width=300):
                look: dict[str, Any] = {"height": 260, "buttons": [], "elem_classes": "demo-upload"}
                image = gr.Image(label="Drop an image, or paste one", sources=["upload", "clipboard"], **look)
                if examples:
                    gr.Examples(examples, image, label="Examples", api_visibility="private", cache_examples=False)
            with gr.Column(min_width=300):
                classes = gr.Label(label="Classes", elem_classes="demo-classes")
                with gr.Row():
                    look = {"format": "png", "interactive": False, "buttons": [], "min_width": 140}
                    seen = gr.Image(label="What it sees", elem_classes="demo-picture", **look)
                    speaks = gr.Image(label="Speaks for it", elem_classes="demo-picture", **look)
        # preprocess=False: Gradio would decode the file before its size is checked
        answer = image.change(
            classify, image, [classes, seen, speaks], preprocess=False, concurrency_limit=1, api_visibility="private"
        )
        answer.failure(lambda: None, outputs=image, api_visibility="private")
    return page


def save_examples(predictor: Predictor, paths: list[str], folder: Path) -> list[str]:
    """Writes at most ten images, as the network sees them, as PNG below `folder`; returns their paths.

    Raises:
        ValueError, OSError: for a file that is not an image.
    """
    (folder / EXAMPLES).mkdir()
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), CLASSES)).round().astype(int)  # folders are often sorted
    targets = [str(folder / EXAMPLES / f"{place}.png") for place in chosen]
    for place, target in zip(chosen, targets, strict=True):
        Image.fromarray(np.moveaxis(predictor.prepare(paths[place]), 0, 2)).save(target)  # (3, H, W) -> (H, W, 3)
    return targets


def describe(predictor: Predictor) -> str:
    """Network, image size and classes in a line."""
    network, names = predictor.classifier.network, predictor.class_names
    size = "x".join(map(str, predictor.classifier.image_shape[1:]))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    listed = visible(", ".join([*names[:CLASSES], "…"] if len(names) > CLASSES else names))
    return f"{type(network).__name__}, {parameters:,} parameters · {size} pixels · {len(names)} classes: {listed}"
