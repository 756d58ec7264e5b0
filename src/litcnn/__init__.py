"""LitCNN: a PyTorch Lightning project for image classification."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litengine.inference.predictor import Predictor

__version__ = "0.1.0"
FORMER_NAMES: tuple[str, ...] = ()  # names of this package before a rename; old checkpoints use them


def load(path: str | PathLike[str], device: Any = None, trust: str | Sequence[str] = ()) -> "Predictor":
    """The classifier in a checkpoint of this project: see `litengine.inference.predictor.load`."""
    from litengine.inference.predictor import load  # imports torch

    return load(path, device, trust=[__name__, *([trust] if isinstance(trust, str) else trust)])
