"""LitCNN: a PyTorch Lightning template for image classification."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litengine.inference.predictor import Prediction, Predictor, load

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # torch is imported only now: `--version` needs none
        from litengine.inference import predictor as inference

        return getattr(inference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
