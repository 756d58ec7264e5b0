"""A checkpoint as a classifier of images: for Python programs and the verbs predict, export and demo."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from litengine import __version__
from litengine.data.sources.base import checked_size
from litengine.data.sources.pixels import Reading, decode_safely, fit, to_pil, to_rgb
from litengine.inference.safe_config import check_facts, read_for_prediction
from litengine.network import build_network
from litengine.normalize import Normalize
from litengine.training.checkpoint_files import BEST, LAST
from litengine.views import TTA, average

LARGEST = 2048  # height and width of the network's images: a checkpoint that names more asks for memory only


@dataclass(frozen=True, repr=False, eq=False)
class Prediction:
    """The probabilities of one image."""

    probabilities: NDArray[np.float32]  # (classes,), sum 1
    class_names: Sequence[str]  # by label

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top(1)[0][0]

    @property
    def confidence(self) -> float:
        """Its probability, 0 to 1."""
        return self.top(1)[0][1]

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes (all, if there are fewer) with their probabilities, best first."""
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.class_names[label], float(self.probabilities[label])) for label in best]

    def __repr__(self) -> str:
        return f"Prediction({self.label!r}, confidence={self.confidence:.4f})"


class Classifier(nn.Module):
    """What prediction needs of a trained model: normalisation, network, and the average over views.

    Args:
        network: maps float images (N, C, H, W) to logits (N, classes).
        facts: `data` of a checkpoint: class_names by label, image_shape (C, H, W), mean, std, tta, channels_last and,
            if they differ from the usual, temperature and reading.

    Raises:
        ValueError: for missing or wrong facts.
    """

    def __init__(self, network: nn.Module, facts: Mapping[str, Any]) -> None:
        super().__init__()
        check_facts(facts)
        self.class_names = list(facts["class_names"])
        self.image_shape = tuple(facts["image_shape"])
        self.tta: TTA = facts["tta"]
        self.temperature = float(facts.get("temperature", 1.0))
        self.normalize = Normalize(bool(facts["channels_last"]))
        self.normalize.set(facts["mean"], facts["std"])
        self.reading = Reading(**facts.get("reading", {}))
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), uint8 0..255 or float 0..1, without test-time augmentation."""
        logits: Tensor = self.network(self.normalize(images))
        return logits

    def infer(self, images: Tensor) -> Tensor:
        """Logits (N, classes), averaged over the views of `tta` and divided by the temperature."""
        return average(self.network, self.normalize(images), self.tta) / self.temperature


class Predictor:
    """Classifies images with a trained classifier, which it puts on `device` and into evaluation mode.

    Images are prepared as for validation: upright, RGB, and fitted into the size in the checkpoint as its training
    images were.

    Raises:
        ValueError: if the network was not trained on images with three channels, and sides of 1 to 2,048 pixels.
    """

    def __init__(self, classifier: Classifier, device: torch.device | str) -> None:
        shape = classifier.image_shape
        if len(shape) != 3 or shape[0] != 3 or not all(1 <= side <= LARGEST for side in shape[1:]):
            raise ValueError(
                f"the network was trained on images of shape {list(shape)}, but files become images with three "
                f"channels, and sides of 1 to {LARGEST:,} pixels"
            )
        self.image_size = checked_size(shape[1:])  # one number if it is square
        self.reading = classifier.reading
        self.class_names = classifier.class_names
        self.device = torch.device(device)
        self.classifier = classifier.to(self.device).eval()

    @overload
    def predict(self, images: str | os.PathLike[str] | Image.Image, batch_size: int = ...) -> Prediction: ...
    @overload
    def predict(self, images: list[Any] | tuple[Any, ...], batch_size: int = ...) -> list[Prediction]: ...
    @overload
    def predict(self, images: Any, batch_size: int = ...) -> Any: ...
    def predict(self, images: Any, batch_size: int = 128) -> Prediction | list[Prediction]:
        """The prediction for one image, or a list of predictions for several.

        Args:
            images: one image is a path, a PIL image, or an array or tensor (H, W), (H, W, C) or (C, H, W) with 1, 3 or
                4 channels, uint8 0..255 or float 0..1. Several are a list or tuple of such, or one array or tensor
                (N, H, W, C) or (N, C, H, W).
            batch_size: images at once through the network.

        Raises:
            FileNotFoundError, ValueError: for anything that is not an image; the message names it.
        """
        if isinstance(images, str | Image.Image) or not hasattr(images, "__iter__") or getattr(images, "ndim", 4) < 4:
            return self._predict([(images, "the image")])[0]
        named = [(image, f"images[{index}]") for index, image in enumerate(images)]
        batches = [named[first : first + batch_size] for first in range(0, len(named), batch_size)]
        return [prediction for batch in batches for prediction in self._predict(batch)]

    def prepare(self, image: Any, name: str = "the image") -> NDArray[np.uint8]:
        """The pixels that the network sees of one image: uint8 (3, H, W).

        Args:
            image: as `predict` takes it.
            name: names the image in an error, if it is not a path.

        Raises:
            FileNotFoundError, ValueError: if it is not an image.
        """
        if isinstance(image, str | os.PathLike):
            return decode_safely(os.fspath(image), self.image_size, self.reading)
        try:
            return fit(to_rgb(to_pil(image), self.reading.grey_max), self.image_size, self.reading)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
        except OSError as error:  # Pillow decodes only now
            raise ValueError(f"{name} cannot be decoded: {error}") from error

    def _predict(self, named: list[tuple[Any, str]]) -> list[Prediction]:
        pixels = np.stack([self.prepare(*each) for each in named])
        return [Prediction(row, self.class_names) for row in self.probabilities(torch.from_numpy(pixels)).numpy()]

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """float32 (N, classes), on the CPU, of uint8 images (N, 3, H, W).

        Raises ValueError if the network cannot take the images, gives another number of classes than the checkpoint
        names, or numbers that are none.
        """
        try:
            logits = self.classifier.infer(images.to(self.device))
        except RuntimeError as error:  # of torch, and whatever network it is
            raise ValueError(f"the network cannot take images of shape {list(images.shape[1:])}: {error}") from error
        if logits.shape != (len(images), len(self.class_names)):
            raise ValueError(
                f"the network gives {list(logits.shape)} for {len(images)} images, but the checkpoint names "
                f"{len(self.class_names)} classes"
            )
        probabilities = logits.float().softmax(1).cpu()
        if not probabilities.isfinite().all():
            raise ValueError("the network gives NaN or infinity: the weights in the checkpoint are damaged")
        return probabilities


class Ensemble(Predictor):
    """Averages the probabilities of several predictors, by their names. Its `classifier` is that of the first one.

    Raises ValueError if they differ in their classes or in the size of their images.
    """

    def __init__(self, members: Mapping[str, Predictor]) -> None:
        (first, predictor), *others = members.items()
        super().__init__(predictor.classifier, predictor.device)
        self.members = list(members.values())
        for name, other in others:
            for fact in ("class_names", "image_size", "reading"):
                if getattr(other, fact) != getattr(predictor, fact):
                    raise ValueError(
                        f"{name} and {first} differ in their {fact}: only checkpoints of the same classes, in the same "
                        "order, and of one image size can be averaged"
                    )

    def probabilities(self, images: Tensor) -> Tensor:
        return torch.stack([member.probabilities(images) for member in self.members]).mean(0)


def load_several(
    paths: Sequence[str | os.PathLike[str]],
    device: torch.device | str | None = None,
    trust: str | Sequence[str] = (),
) -> Predictor:
    """One predictor that averages the probabilities of one checkpoint or several.

    A folder stands for the best checkpoint of each run in it, such as that of a study. For `device`, `trust` and errors
    see `load`.
    """
    files = [file for path in paths for file in checkpoints_in(Path(path))]
    members = {str(file): load(file, device, trust) for file in files}
    if not members:
        raise ValueError("no checkpoint is given: give one or more, such as best.ckpt")
    return Ensemble(members) if len(members) > 1 else next(iter(members.values()))


def checkpoints_in(path: Path) -> list[Path]:
    """The file itself; of a folder the best checkpoint (without validation the last) of each run in it.

    Of runs that share a name, such as the tries of one fold, only the newest counts.
    """
    if not path.is_dir():
        return [path]
    newest: dict[Path, Path] = {}  # by the folder of the runs of one name
    for folder in sorted(path.rglob("checkpoints")):
        found = next((folder / name for name in (BEST, LAST) if (folder / name).is_file()), None)
        if found:
            newest[path if folder.parent == path else folder.parent.parent] = found
    if not newest:
        raise FileNotFoundError(f"{path} holds no checkpoints: give a file, a run, or the folder of a study")
    return list(newest.values())


def load(
    path: str | os.PathLike[str], device: torch.device | str | None = None, trust: str | Sequence[str] = ()
) -> Predictor:
    """The classifier in a checkpoint. Of its config only the network is built.

    Args:
        path: the checkpoint, such as `best.ckpt`.
        device: where it runs; by default the GPU if there is one.
        trust: packages, modules, classes or functions that the checkpoint may name beyond those of docs/security.md,
            such as the package of your own networks. The project's `load` adds its own package.

    Raises:
        FileNotFoundError, OSError: if it cannot be read.
        ValueError: if it is damaged, names what it may not, or is of a version that this one cannot read.
    """
    content = read_for_prediction(path, [trust] if isinstance(trust, str) else trust)
    try:
        classifier = Classifier(build_network(content["network"]), content["data"])
        weights = classifier.state_dict()  # with the versions of its parts, which a plain dict lacks
        weights.clear()
        weights.update((name, value) for name, value in content["state_dict"].items() if name.startswith("network."))
        classifier.load_state_dict(weights)
    # of torch, and whatever network it is
    except (AssertionError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else textwrap.shorten(str(error), 400)
        writer = content.get("engine", "an older version")
        raise ValueError(f"{path} does not fit litengine {__version__} (written by {writer}): {reason}") from error
    if classifier.normalize.channels_last:
        classifier.network.to(memory_format=torch.channels_last)
    return Predictor(classifier, device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
