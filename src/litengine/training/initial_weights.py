"""Weights that a fit starts from: a checkpoint, or a file of the same architecture."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litengine.terminal import listed
from litengine.training import checkpoint_files

PREFIXES = ("network.", "module.", "model.", "_orig_mod.")  # that wrappers put in front of the names


def load_initial_weights(network: nn.Module, path: str | os.PathLike[str], class_names: Sequence[str] = ()) -> str:
    """Copies every tensor of a file that fits a network by name and shape; the others keep their new values, such as a
    head with another number of classes, or the head of a checkpoint with other class names.

    Args:
        path: a checkpoint of this engine, a `.safetensors`, or a file of `torch.save` with a state dict.
        class_names: of the data, in the order of the logits; not compared if empty.

    Returns:
        One line for the user, such as "loaded 120 of 122 tensors, new: fc.weight, fc.bias".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if less than half of the network's tensors are in the file.
    """
    content = _content(Path(path))
    tensors = _state_dict(content, path)
    theirs = content["data"].get("class_names", ()) if Path(path).suffix == ".ckpt" else class_names
    if class_names and list(theirs) != list(class_names):
        auxiliary = {name: part for name, part in network.named_modules() if type(part).__name__ == "InceptionAux"}
        for prefix, part in {"": network, **auxiliary}.items():
            for name in _head(part, prefix, len(class_names)):
                tensors.pop(name, None)  # else the logit of one class would start as that of another
    return copy_fitting(network, tensors, f"model.init_from {path}")


def copy_fitting(network: nn.Module, theirs: Mapping[str, Tensor], source: str) -> str:
    """`load_initial_weights` for tensors by name; `source` says in an error where they come from."""
    ours = network.state_dict()
    fitting = {
        name: theirs[name]
        for name, value in ours.items()
        if isinstance(value, Tensor) and name in theirs and value.shape == theirs[name].shape
    }
    if 2 * len(fitting) < len(ours):
        raise ValueError(
            f"{source}: only {len(fitting)} of the network's {len(ours)} tensors are in this file with "
            f"the same name and shape. The network has {listed(list(ours))}; the file has {listed(list(theirs))}"
        )
    new = [name for name in ours if name not in fitting]
    ours.update(fitting)  # `ours` has the versions of the network's parts
    try:
        network.load_state_dict(ours)
    except RuntimeError as error:  # sparse, quantized or without data
        raise ValueError(f"{source}: {str(error).partition(chr(10))[2].strip()}") from error
    return f"loaded {len(fitting)} of {len(ours)} tensors" + (f", new: {listed(new)}" if new else "")


def _content(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"model.init_from {path}: there is no such file")
    if path.suffix == ".ckpt":
        return checkpoint_files.read(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any type, for a damaged file
        raise ValueError(
            f"model.init_from {path}: the file is damaged, or holds more than tensors ({type(error).__name__}): write "
            "it with torch.save(network.state_dict(), path)"
        ) from error


def _head(network: nn.Module, prefix: str, classes: int) -> list[str]:
    """The names of the parameters of the last layer with an output for each class."""
    last: list[str] = []
    for place, layer in network.named_modules(prefix=prefix):
        own = dict(layer.named_parameters(place, recurse=False))
        if any(len(value) == classes for value in own.values() if value.ndim):
            last = list(own)
    return last


def _state_dict(content: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    for key in ("state_dict", "model", *(content if isinstance(content, Mapping) else ())):
        inner = content.get(key) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            content = inner
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ValueError(f"model.init_from {path}: the file holds no state dict (names and tensors)")
    for prefix in PREFIXES * 4:  # they stand in any order
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
