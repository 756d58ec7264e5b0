"""Grad-CAM saliency maps."""

from contextlib import ExitStack

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from litengine.inference.predictor import Classifier

STRENGTH = 0.75  # of the colour where the map is 1


def saliency(classifier: Classifier, image: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
    """How much each pixel of one image, uint8 (C, H, W), contributes to its predicted class.

    The classifier is that of a `Predictor`, in evaluation mode.

    Grad-CAM (Selvaraju et al. 2017) of the last convolution to run whose output is larger than one pixel. For a network
    without one: the absolute gradient of the logit with respect to each pixel, the largest over the channels (Simonyan
    et al. 2013). With test-time augmentation the class is that of all views, the map that of the image itself.

    Returns:
        float32 (H, W), scaled so that the largest value is 1; all 0 if no pixel contributes.

    Raises:
        ValueError: for anything but one uint8 image.
    """
    pixels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if pixels.ndim != 3 or pixels.dtype != torch.uint8:
        raise ValueError(
            f"saliency takes one uint8 image (C, H, W), not {pixels.dtype} {list(pixels.shape)}: `Predictor.prepare` "
            "makes one of any image"
        )
    # the caller may have switched gradients off; a compiled network may run without the hooks
    with torch.inference_mode(False), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        # floats, so that gradients reach them even with frozen weights
        images = (pixels[None].to(next(classifier.parameters()).device) / 255).requires_grad_()  # (1, C, H, W)
        with torch.no_grad():
            label = int(classifier.infer(images).argmax(1))
        features: list[Tensor] = []  # (1, channels, h, w) of each convolution in the order in which they run

        def keep(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if output.shape[2:].numel() == 1:
                return output
            features.append(output)
            return output.clone()  # what comes next may change it in place

        with ExitStack() as hooks:
            for part in classifier.network.modules():
                if isinstance(part, nn.Conv2d):
                    hooks.enter_context(part.register_forward_hook(keep))
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
    """The image, uint8 (3, H, W), with a map (H, W) over it, from clear (0) to red (1): uint8 (H, W, 3).

    Raises ValueError if the two differ in size.
    """
    from matplotlib import colormaps  # slow

    pixels = np.moveaxis(np.asarray(image), 0, 2)  # (3, H, W) -> (H, W, 3)
    if pixels.shape[:2] != heat.shape:
        raise ValueError(f"the map has {list(heat.shape)} pixels, the image {list(pixels.shape[:2])}: resize one")
    colours = colormaps["turbo"](heat)[:, :, :3] * 255
    opacity = STRENGTH * heat[:, :, None]
    blended: NDArray[np.uint8] = (pixels * (1 - opacity) + colours * opacity).round().astype(np.uint8)
    return blended
