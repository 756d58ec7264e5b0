"""Each format: how a classifier is written, and how its users run the file."""

import copy
import io
import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from litengine.data.sources.pixels import sides
from litengine.inference.predictor import Classifier
from litengine.network import build_network

Settings = dict[str, Any]
Run = Callable[[Tensor], Tensor]  # uint8 images (N, 3, H, W) to float32 probabilities (N, classes)

ABOUT = "about.json"  # in a .pt2
GRAPH = (
    "In a graph nothing can depend on the values of pixels, or take images one by one: use torch.where there, or "
    "--format safetensors, which has no graph"
)


def write(format: str, classifier: Classifier, settings: Settings, path: Path) -> str:
    """Writes a classifier on the CPU, uncompiled and in contiguous memory layout; returns a detail such as the opset.

    Raises:
        ValueError: if the network cannot be exported: why, where in its code, and what to try.
        OSError: if the file cannot be written.
    """
    classifier.normalize.channels_last = False
    network = copy.deepcopy(classifier.network)  # a copy is not compiled
    classifier.network = network.to(memory_format=torch.contiguous_format)
    try:
        with _quiet(), torch.no_grad():  # with gradients, attention with a mask is traced as what ONNX cannot express
            return WRITERS[format](classifier, settings, path)
    except OSError:
        raise
    except Exception as error:  # a network may be anything, and each step has its own kinds of errors
        traced = format != "safetensors" and not isinstance(error, torch.onnx.OnnxExporterError)
        reason = _reason(error, network)
        raise ValueError(
            f"{type(network).__name__} cannot be exported to {format}: {reason}. "
            + (GRAPH if traced else "Try --format torch")
        ) from error


def run(format: str, path: Path, batches: list[Tensor]) -> Tensor:
    """Probabilities, float32 (N, classes), from the file at `path` alone, of uint8 images (n, 3, H, W) batch by batch.

    Raises:
        ValueError: if it cannot be loaded or does not run.
    """
    try:
        with _quiet(), torch.inference_mode():
            classify = LOADERS[format](path)
            return torch.cat([classify(batch) for batch in batches])
    except Exception as error:
        raise ValueError(f"the exported file does not work: {_reason(error)}; nothing was written") from error


def _write_onnx(classifier: Classifier, settings: Settings, path: Path) -> str:
    attention = torch.ops.aten.scaled_dot_product_attention.default
    decomposed = {attention: torch.export.default_decompositions()[attention]}
    with sdpa_kernel(SDPBackend.MATH):  # torch exports attention of four dimensions only, matrix products of any
        traced = _trace(classifier).run_decompositions(decomposed)
    program = torch.onnx.export(
        traced,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes={"images": {0: "batch"}},
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(_as_text(settings))
    program.save(path)  # from 1.5 GB on a second file holds the weights: the limit of ONNX
    return f"opset {program.model.opset_imports['']}"


def _load_onnx(path: Path) -> Run:
    import onnx
    import onnxruntime

    onnx.checker.check_model(os.fspath(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["probabilities"], {"images": images.numpy()})[0])


def _write_torch(classifier: Classifier, settings: Settings, path: Path) -> str:
    buffer = io.BytesIO()  # on a full disk Python names the reason, torch does not
    torch.export.save(_trace(classifier), buffer, extra_files={ABOUT: json.dumps(settings)})
    path.write_bytes(buffer.getbuffer())
    return f"torch {torch.__version__}"


def _load_torch(path: Path) -> Run:
    program: Run = torch.export.load(path).module()
    return program


def _write_safetensors(classifier: Classifier, settings: Settings, path: Path) -> str:
    from safetensors.torch import save

    weights = {}
    for name, value in classifier.network.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} in its state is a {type(value).__name__}, and only tensors can be written")
        # weights that share memory are written each by itself
        weights[name] = value.clone(memory_format=torch.contiguous_format)
    path.write_bytes(save(weights, _as_text(settings)))
    path.with_name(f"{path.name}.json").write_text(json.dumps(settings, indent=2) + "\n")
    return f"{len(weights)} tensors"


def _load_safetensors(path: Path) -> Run:
    from safetensors.torch import load_file

    settings = json.loads(path.with_name(f"{path.name}.json").read_text())
    facts = {**settings, "image_shape": [3, *sides(settings["image_size"])], "channels_last": False}
    classifier = Classifier(build_network(settings["network"]), facts).eval()
    classifier.network.load_state_dict(load_file(path))
    return _Probabilities(classifier)


WRITERS = {"onnx": _write_onnx, "torch": _write_torch, "safetensors": _write_safetensors}
LOADERS = {"onnx": _load_onnx, "torch": _load_torch, "safetensors": _load_safetensors}


def _as_text(settings: Settings) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}


class _Probabilities(nn.Module):
    """A classifier from uint8 images (N, 3, H, W) to float32 probabilities (N, classes)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.infer(images).float().softmax(1)


def _trace(classifier: Classifier) -> torch.export.ExportedProgram:
    # no real images: a .pt2 keeps its example
    example = torch.zeros(2, *classifier.image_shape, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(
        _Probabilities(classifier).eval(), (example,), dynamic_shapes={"images": {0: batch}}, strict=False
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporters, which print graphs and hints for their developers. The exception has the reason."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception, network: nn.Module | None = None) -> str:
    """The line of a long message that names the problem, and the line of the network's own code that caused it."""
    causes = [error]
    while isinstance(cause := causes[-1].__cause__, Exception):
        causes.append(cause)
    lines = [line.strip() for line in str(causes[-1]).splitlines() if line.strip()] or [type(error).__name__]
    said = next((line for line in lines if line.startswith("- ")), lines[0]).removeprefix("- ")
    said = re.split(r"\.(?:\s|$)", said)[0]
    files = _own_files(network) if network else set()
    frames = [frame for cause in causes for frame in traceback.extract_tb(cause.__traceback__)]
    for frame in reversed(frames):
        if frame.filename in files:
            return f"{said} ({Path(frame.filename).name}:{frame.lineno}: {frame.line})"
    return said


def _own_files(network: nn.Module) -> set[str]:
    """The source files of its modules, without torch's."""
    modules = {type(module).__module__ for module in network.modules()}
    return {str(getattr(sys.modules.get(name), "__file__", "")) for name in modules if not name.startswith("torch.")}
