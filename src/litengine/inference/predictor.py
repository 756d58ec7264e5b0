"""A checkpoint as a classifier of images: from Python, and for every verb that comes after training."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from jsonargparse import ArgumentError, ArgumentParser
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from litengine import __version__
from litengine.data.sources.pixels import decode_safely, fit, to_pil, to_rgb
from litengine.inference.safe_config import read_trusted
from litengine.normalize import Normalize
from litengine.views import TTA, average


@dataclass(frozen=True, repr=False, eq=False)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        probabilities: float32 (classes,), sum 1.
        class_names: by label.
    """

    probabilities: NDArray[np.float32]
    class_names: Sequence[str]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top(1)[0][0]

    @property
    def confidence(self) -> float:
        """Its probability, 0 to 1."""
        return self.top(1)[0][1]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes (all, where there are fewer) with their probabilities, best first."""
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.class_names[label], float(self.probabilities[label])) for label in best]

    def __repr__(self) -> str:
        return f"Prediction({self.label!r}, confidence={self.confidence:.4f})"


class Classifier(nn.Module):
    """What prediction needs of a trained model: normalisation, network, and the average over views.

    Attributes:
        class_names: by label.
        image_shape: (C, H, W) of the images that it was trained on.
    """

    def __init__(self, network: nn.Module, data: Mapping[str, Any]) -> None:
        super().__init__()
        self.normalize = Normalize(data["channels_last"])
        self.normalize.set(data["mean"], data["std"])
        self.network = network
        self.tta: TTA = data["tta"]
        self.class_names: list[str] = list(data["class_names"])
        self.image_shape = tuple(data["image_shape"])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), uint8 0..255 or float 0..1, without test-time augmentation."""
        logits: Tensor = self.network(self.normalize(images))
        return logits

    def infer(self, images: Tensor) -> Tensor:
        """Logits (N, classes), averaged over the views of `tta`."""
        return average(self.network, self.normalize(images), self.tta)


class Predictor:
    """Classifies images with a trained classifier, which it puts on `device` and into evaluation mode.

    Images are prepared as for validation: upright, RGB, shorter side resized to the size in the checkpoint, centre
    cropped.

    Attributes:
        classifier: normalisation and network.
        device: where it is.
        image_size: height and width of the network's images, in pixels.

    Raises:
        ValueError: if the network was trained on anything but square images with three channels.
    """

    def __init__(self, classifier: Classifier, device: torch.device | str) -> None:
        shape = classifier.image_shape
        if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
            raise ValueError(
                f"the network was trained on images of shape {list(shape)}: only square ones with three channels can "
                "be made from files"
            )
        self.image_size = shape[1]
        self.device = torch.device(device)
        self.classifier = classifier.to(self.device).eval()

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by label."""
        return self.classifier.class_names

    @overload
    def predict(self, images: str | os.PathLike[str] | Image.Image, batch_size: int = ...) -> Prediction: ...
    @overload
    def predict(self, images: list[Any] | tuple[Any, ...], batch_size: int = ...) -> list[Prediction]: ...
    @overload
    def predict(self, images: Any, batch_size: int = ...) -> Any: ...
    def predict(self, images: Any, batch_size: int = 128) -> Prediction | list[Prediction]:
        """What each image shows.

        Args:
            images: one image or several. One is a path, a PIL image, or an array or tensor (H, W), (H, W, C) or
                (C, H, W) with 1, 3 or 4 channels, uint8 0..255 or float 0..1. Several are a list or tuple of such, or
                one array or tensor (N, H, W, C) or (N, C, H, W).
            batch_size: images at once through the network.

        Returns:
            A Prediction for one, a list of them for several.

        Raises:
            FileNotFoundError, ValueError: for what is no image, naming it.
        """
        if isinstance(images, str | Image.Image) or not hasattr(images, "__iter__") or getattr(images, "ndim", 4) < 4:
            return self._predict([self.prepare(images)])[0]
        items = list(images)
        predictions: list[Prediction] = []
        for first in range(0, len(items), batch_size):
            batch = items[first : first + batch_size]
            predictions += self._predict([self.prepare(image, f"images[{first + i}]") for i, image in enumerate(batch)])
        return predictions

    def prepare(self, image: Any, name: str = "the image") -> NDArray[np.uint8]:
        """One image, as `predict` takes it, as the network sees it: uint8 (3, image_size, image_size).

        Raises:
            FileNotFoundError, ValueError: for what is no image, naming its path, or it by `name`.
        """
        if isinstance(image, str | os.PathLike):
            return decode_safely(os.fspath(image), self.image_size)
        try:
            return fit(to_rgb(to_pil(image)), self.image_size)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
        except OSError as error:  # Pillow decodes only now
            raise ValueError(f"{name} cannot be decoded: {error}") from error

    def _predict(self, pixels: list[NDArray[np.uint8]]) -> list[Prediction]:
        probabilities = self.probabilities(torch.from_numpy(np.stack(pixels)))
        return [Prediction(row, self.class_names) for row in probabilities.numpy()]

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """float32 (N, classes), on the CPU, of uint8 images (N, 3, image_size, image_size)."""
        return self.classifier.infer(images.to(self.device)).float().softmax(1).cpu()


def load(
    path: str | os.PathLike[str], device: torch.device | str | None = None, trust: Sequence[str] = ()
) -> Predictor:
    """The classifier in a checkpoint: needs neither config nor data.

    Args:
        path: the checkpoint, such as `best.ckpt`.
        device: where it runs; by default the GPU where there is one.
        trust: packages that the checkpoint may name beyond torch, torchvision, timm and Lightning, such as that of your
            own networks. The project's `load` adds its own package.

    Raises:
        FileNotFoundError, OSError: where it cannot be read.
        ValueError: where it is damaged, names what it may not, or is of a version that this one cannot read.
    """
    content = read_trusted(path, [trust] if isinstance(trust, str) else trust)
    try:
        classifier = Classifier(build_network(content["config"]["model"]["network"]), content["data"])
        weights = {name: value for name, value in content["state_dict"].items() if name.startswith("network.")}
        classifier.load_state_dict(weights)
    # of jsonargparse, torch, and whatever network it is
    except (ArgumentError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else textwrap.shorten(str(error), 400)
        writer = content.get("engine", "an older version")
        raise ValueError(f"{path} does not fit litengine {__version__} (written by {writer}): {reason}") from error
    if classifier.normalize.channels_last:
        classifier.network.to(memory_format=torch.channels_last)
    return Predictor(classifier, device or _best_device())


def build_network(config: dict[str, Any]) -> nn.Module:
    """The network of a checkpoint's config, which must be trusted."""
    if config["class_path"].startswith("timm.") and config.get("init_args", {}).get("pretrained"):
        # timm would download weights, only to have them replaced
        config = {**config, "init_args": {**config["init_args"], "pretrained": False}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    network: nn.Module = parser.instantiate(parser.parse_object({"network": config})).network
    return network


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
