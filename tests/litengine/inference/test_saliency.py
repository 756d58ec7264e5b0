"""Saliency maps against closed forms, and that they leave nothing behind."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from project_for_tests import ImageClassifier
from torch import Tensor, nn

from litengine.inference.saliency import overlay, saliency

MEAN, STD = [0.4, 0.5, 0.6], [0.1, 0.2, 0.4]


def make_classifier(network: nn.Module, **settings: Any) -> ImageClassifier:
    classifier = ImageClassifier(network, **settings)
    classifier.normalize.set(MEAN, STD)
    return classifier.eval()


def image(size: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, size, size), dtype=np.uint8)


def normalized(pixels: np.ndarray) -> Tensor:
    """float32 (1, 3, H, W), from the definition."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((torch.from_numpy(pixels) / 255 - mean) / std)[None]


def scaled(heat: Tensor) -> np.ndarray:
    return np.asarray(heat / heat.max())


def pooled(*, relu: bool = True) -> nn.Sequential:
    """Convolution, global average pooling, linear."""
    torch.manual_seed(0)
    activation = [nn.ReLU()] if relu else []
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, stride=2), *activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )


@pytest.mark.parametrize("seed", range(3))
def test_grad_cam_of_a_globally_pooled_network_is_its_class_activation_map(seed: int) -> None:
    network, pixels = pooled(relu=False), image(seed=seed)
    features = network[0](normalized(pixels))[0]  # (5, 6, 6)
    label = int(network(normalized(pixels)).argmax())
    linear = network[-1]
    activation_map = torch.einsum("k,khw->hw", linear.weight[label], features).relu()  # Zhou et al. 2016
    assert activation_map.max() > 0
    expected = F.interpolate(activation_map[None, None], size=(12, 12), mode="bilinear")[0, 0].detach()
    heat = saliency(make_classifier(network), pixels)
    assert heat.dtype == np.float32 and heat.shape == (12, 12)
    assert heat.min() >= 0 and heat.max() == 1
    np.testing.assert_allclose(heat, scaled(expected), atol=1e-4)


def test_without_convolutions_it_is_the_gradient_of_the_logit() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3 * 4 * 4, 3)
    pixels = image(4)
    label = int(linear(normalized(pixels).flatten(1)).argmax())
    gradient = linear.weight[label].detach().view(3, 4, 4) / torch.tensor(STD)[:, None, None]
    heat = saliency(make_classifier(nn.Sequential(nn.Flatten(), linear)), pixels)
    np.testing.assert_allclose(heat, scaled(gradient.abs().amax(0)), atol=1e-5)


def test_a_convolution_down_to_one_pixel_is_no_place_to_look_at() -> None:
    torch.manual_seed(0)
    spatial, whole = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 10)
    heat = saliency(make_classifier(nn.Sequential(spatial, whole, nn.Flatten())), image())
    features = spatial(normalized(image()))  # (1, 5, 10, 10)
    label = int(whole(features).argmax())
    weights = whole.weight[label].mean((1, 2), keepdim=True)  # (5, 1, 1): the gradient, averaged
    expected = F.interpolate((weights * features).sum(1, keepdim=True).relu(), size=(12, 12), mode="bilinear")
    np.testing.assert_allclose(heat, scaled(expected[0, 0].detach()), atol=1e-4)


def test_a_convolution_beside_the_way_to_the_logits_is_passed_over() -> None:
    class WithBranch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main = pooled()
            self.branch = nn.Conv2d(3, 2, 3)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.main(images)
            self.branch(images)
            return logits

    network = WithBranch()
    expected = saliency(make_classifier(network.main), image())
    np.testing.assert_array_equal(saliency(make_classifier(network), image()), expected)
    network.main[1] = nn.ReLU(inplace=True)  # an activation in place changes nothing
    np.testing.assert_array_equal(saliency(make_classifier(network), image()), expected)


def test_it_is_zero_where_nothing_speaks_for_the_class() -> None:
    network = pooled(relu=False)
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.fill_(1)
        network[-1].weight.fill_(-1)
    assert saliency(make_classifier(network), image()).max() == 0


def test_the_class_is_that_of_the_test_time_augmentation() -> None:
    linear = nn.Linear(3 * 3 * 3, 2, bias=False)
    weight = torch.zeros(2, 3, 3, 3)
    weight[0, :, :, 0] = 1  # class 0: bright on the left
    weight[1, :, :, 1] = 0.8  # class 1: bright in the middle
    linear.weight.data = weight.view(2, -1)
    pixels = np.zeros((3, 3, 3), dtype=np.uint8)
    pixels[:, :, :2] = 255
    network = nn.Sequential(nn.Flatten(), linear)
    assert saliency(make_classifier(network), pixels)[:, 0].min() == 1  # class 0
    assert saliency(make_classifier(network, tta="flip"), pixels)[:, 1].min() == 1  # class 1


def test_a_compiled_network_is_looked_into_and_stays_compiled() -> None:
    compiled: list[Callable[..., Any]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(graph.forward)
        return graph.forward

    class Network(nn.Sequential):  # torch 2.9 does not compile a bare Sequential
        def forward(self, images: Tensor) -> Tensor:
            for layer in self:
                images = layer(images)
            return images

    classifier = make_classifier(Network(*pooled()))
    classifier.network.compile(backend=backend)
    pixels = torch.from_numpy(image())[None]
    with torch.no_grad():
        logits = classifier(pixels)
    graphs = len(compiled)
    assert graphs
    np.testing.assert_allclose(saliency(classifier, image()), saliency(make_classifier(pooled()), image()), atol=1e-6)
    with torch.no_grad():
        assert torch.equal(classifier(pixels), logits)
    assert len(compiled) == graphs


def test_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)
    )
    classifier = make_classifier(network)
    network[0].weight.requires_grad_(False)
    network[5].bias.grad = torch.ones(3)
    before = copy.deepcopy(classifier.state_dict())
    saliency(classifier, image())
    assert not network[0].weight.requires_grad and network[5].weight.requires_grad
    assert network[5].weight.grad is None and torch.equal(network[5].bias.grad, torch.ones(3))
    assert not any(module._forward_hooks or module._backward_hooks for module in classifier.modules())
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off_and_weights_are_frozen(mode: Callable[[], Any]) -> None:
    expected = saliency(make_classifier(pooled()), image())
    classifier = make_classifier(pooled().requires_grad_(False))
    with mode():
        # on a GPU the first prediction moves them there, and is made in inference mode
        classifier.normalize.mean = classifier.normalize.mean.clone()
        classifier.normalize.std = classifier.normalize.std.clone()
        inside = saliency(classifier, torch.from_numpy(image()).clone())
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(saliency(classifier, image()), expected)


@pytest.mark.parametrize("wrong", [image()[None], image() / 255, image()[0]])
def test_anything_but_one_uint8_image_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"one uint8 image \(C, H, W\).*Predictor.prepare"):
        saliency(make_classifier(pooled()), wrong)


def test_the_overlay_goes_from_the_image_to_the_colour() -> None:
    pixels = image(2)
    heat = np.array([[0, 0.5], [1, 0]], dtype=np.float32)
    blended = overlay(pixels, heat)
    assert blended.dtype == np.uint8 and blended.shape == (2, 2, 3)
    np.testing.assert_array_equal(blended[0, 0], pixels[:, 0, 0])
    np.testing.assert_array_equal(blended[1, 1], pixels[:, 1, 1])
    red = np.array(colormaps["turbo"](1.0)[:3]) * 255
    np.testing.assert_allclose(blended[1, 0], 0.25 * pixels[:, 1, 0] + 0.75 * red, atol=0.51)
    with pytest.raises(ValueError, match=r"\[2, 2\] pixels, the image \[3, 3\]"):
        overlay(image(3), heat)
