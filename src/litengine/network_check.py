"""Whether a network fits the data: two images are sent through it before the training."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litengine.normalize import Normalize
from litengine.terminal import listed, print_line

# Weight of the loss of each auxiliary head, by the type of what the network returns in training: of the article of
# GoogLeNet, and of PyTorch's tutorial on fine-tuning
AUXILIARY_LOSS = {"GoogLeNetOutputs": 0.3, "InceptionOutputs": 0.4}


def logits_of(found: Any) -> tuple[Tensor, list[tuple[float, Tensor]]]:
    """Logits (N, classes) in what a network returned, and those of auxiliary heads with the weights of their losses.

    Raises:
        ValueError: if it is neither a tensor nor the output of googlenet or inception_v3.
    """
    weight = AUXILIARY_LOSS.get(type(found).__name__)
    if weight is not None:
        return found[0], [(weight, logits) for logits in found[1:] if logits is not None]
    if not isinstance(found, Tensor):
        raise ValueError(f"the network returns a {type(found).__name__}: a tensor of logits (N, classes) is needed")
    return found, []


def check_network(
    network: nn.Module, normalize: Normalize, image_shape: Sequence[int], class_names: Sequence[str], training: bool
) -> None:
    """Sends two images through the network. Weights, buffers and the random state stay as they are.

    A network that needs the ordinary layout in memory gets it, and `normalize` too.

    Args:
        training: whether to try the training mode too, and to check the number of logits.

    Raises:
        ValueError: if the network does not map two images to as many logits as there are classes.
    """
    try:
        try:
            found = _outputs(network, normalize, image_shape, training)
        except RuntimeError:
            if not normalize.channels_last:
                raise
            normalize.channels_last = False
            network.to(memory_format=torch.contiguous_format)
            found = _outputs(network, normalize, image_shape, training)
            print_line("channels_last: off, because the network uses .view, which needs the ordinary layout")
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"the network cannot take images of shape {list(image_shape)}{_where(error)}: {reason}. Change the image "
            "size or the channels of the data, or the settings of the network"
        ) from error
    shape = [logits_of(each)[0].shape for each in found][-1]
    if training and shape != (2, len(class_names)):  # in a test, a checkpoint of other classes says more
        raise ValueError(
            f"the network gives logits of shape {list(shape)} for 2 images, but the data has {len(class_names)} "
            f"classes ({listed(class_names)}): set the network's number of classes, in model.network.init_args "
            "(or dict_kwargs, for a function that takes any argument)"
        )


def check_same_data(facts: Mapping[str, Any], class_names: Sequence[str], image_shape: Sequence[int]) -> None:
    """Raises ValueError if a checkpoint, with these facts of its data, has other classes or images than the data."""
    if facts["class_names"] != list(class_names):
        raise ValueError(
            f"the checkpoint knows the classes {listed(facts['class_names'])}, but the data has "
            f"{listed(class_names)}: use data with the same classes, in the same order"
        )
    if facts["image_shape"] != list(image_shape):
        raise ValueError(
            f"the checkpoint was trained on images of shape {facts['image_shape']}, but the data has "
            f"{list(image_shape)}: give the source the checkpoint's image size"
        )


def check_loss(compute_loss: Callable[[Tensor, Tensor], Tensor], classes: int, device: torch.device) -> None:
    """Raises ValueError unless a loss makes one number of logits (2, classes) and labels (2,)."""
    logits = torch.zeros(2, classes, device=device)
    try:
        shape = list(compute_loss(logits, logits.argmax(1)).shape)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"model.loss cannot take logits (N, classes) and labels (N,): {error}") from error
    if shape:
        raise ValueError(f"model.loss gives numbers of shape {shape} for 2 images: one number is needed, their mean")


@torch.no_grad()
def _outputs(network: nn.Module, normalize: Normalize, image_shape: Sequence[int], training: bool) -> list[Any]:
    """What the network returns for two images, in training mode (if asked for) and in evaluation mode."""
    mode, buffers = network.training, [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        with torch.random.fork_rng():
            images = normalize(torch.zeros(2, *image_shape, dtype=torch.uint8))
            return [network.train(each)(images) for each in ((True, False) if training else (False,))]
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
        network.train(mode)


def _where(error: Exception) -> str:
    """The line of the network's code that failed, if it is not in torch."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if "torch" not in Path(frame.filename).parts]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
