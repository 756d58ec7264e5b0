"""Where in an image a network sees what speaks for its class."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from litengine.inference.predictor import Classifier

STRENGTH = 0.75  # of the colour where the map is 1


def saliency(classifier: Classifier, image: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
    """How much each place of one image speaks for the class that is predicted for it.

    Grad-CAM (Selvaraju et al. 2017) of the last convolution, in the order they run, whose output is larger than one
    pixel. Of a network without one: the size of the logit's gradient with respect to each pixel, its largest over
    the channels (Simyonan et al. 2013). The classifier is left as it was: mode, gradients, hooks, compiled or not.

    Args:
        classifier: on any device; with test-time augmentation the class is that of all views, the map of the image
            itself.
        image: uint8 (C, H, W), as `Predictor.prepare` gives it.

    Returns:
        float32 (H, W), scaled so that its largest value is 1; all 0 where no place speaks for the class.

    Raises:
        ValueError: for anything but one uint8 image.
    """
    pixels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if pixels.ndim != 3 or pixels.dtype != torch.uint8:
        raise ValueError(
            f"saliency takes one uint8 image (C, H, W), not {pixels.dtype} {list(pixels.shape)}: `Predictor.prepare` "
            "makes one of any image"
        )
    # The caller may have switched gradients off; a compiled network may run without the hooks.
    with torch.inference_mode(False), torch.enable_grad(), torch.compiler.set_stance("force_eager"), _eval(classifier):
        # floats, so that there is a gradient down to them, and to all that comes after, with frozen weights too
        images = (pixels[None].to(next(classifier.parameters()).device) / 255).requires_grad_()  # (1, C, H, W)
        with torch.no_grad():
            label = int(classifier.infer(images).argmax(1))
        with _outputs_of_convolutions(classifier.network) as features:
            score = classifier(images)[0, label]
        gradients = torch.autograd.grad(score, [*features, images], allow_unused=True)
        for feature, gradient in zip(reversed(features), reversed(gradients[:-1]), strict=True):
            if gradient is not None:  # else it is not on the way to the logits
                weights = gradient.mean((2, 3), keepdim=True)  # (1, channels, 1, 1)
                heat = (weights * feature).sum(1, keepdim=True).relu().float()  # (1, 1, h, w)
                heat = F.interpolate(heat, size=pixels.shape[1:], mode="bilinear")[0, 0]
                break
        else:
            heat = gradients[-1].abs().amax((0, 1))
        scaled: NDArray[np.float32] = (heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)).numpy(force=True)
    return scaled


def overlay(image: NDArray[np.uint8] | Tensor, heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image with a map over it, from clear (0) to red (1).

    Args:
        image: uint8 (3, H, W).
        heat: float (H, W), 0 to 1.

    Returns:
        uint8 (H, W, 3), for PIL or matplotlib.

    Raises:
        ValueError: where the two differ in size.
    """
    from matplotlib import colormaps  # slow

    pixels = np.moveaxis(np.asarray(image), 0, 2)  # (3, H, W) -> (H, W, 3)
    if pixels.shape[:2] != heat.shape:
        raise ValueError(f"the map has {list(heat.shape)} pixels, the image {list(pixels.shape[:2])}: resize one")
    colours = colormaps["turbo"](heat)[:, :, :3] * 255
    opacity = STRENGTH * heat[:, :, None]
    blended: NDArray[np.uint8] = (pixels * (1 - opacity) + colours * opacity).round().astype(np.uint8)
    return blended


@contextmanager
def _eval(module: nn.Module) -> Iterator[None]:
    """The evaluation mode, and after it the mode that each part was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _outputs_of_convolutions(network: nn.Module) -> Iterator[list[Tensor]]:
    """A list that fills, while the network runs, with what its convolutions put out: (N, channels, h, w), h * w > 1."""
    outputs: list[Tensor] = []

    def keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if output.shape[2:].numel() == 1:
            return output
        outputs.append(output)
        return output.clone()  # what comes next may change it in place

    hooks = [part.register_forward_hook(keep) for part in network.modules() if isinstance(part, nn.Conv2d)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
