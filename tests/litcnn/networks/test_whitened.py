import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litcnn.networks import WhitenedCNN


def correlated_images(number: int = 300, channels: int = 3, size: int = 12) -> Tensor:
    """Like photographs: neighbouring pixels and channels resemble each other. Later images have more contrast."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(number, channels, size + 2, size + 2, generator=generator)
    images = F.avg_pool2d(images, 3, stride=1) * 3 + 0.5 * torch.randn(number, 1, size, size, generator=generator)
    return torch.linspace(1, 4, number).view(-1, 1, 1, 1) * images + 0.3


def number_of_parameters(network: nn.Module, trained: bool = False) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad or not trained)


def reference(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """The network in eval mode, from nothing but the tensors."""
    tensors = iter([value for name, value in state.items() if not name.endswith("num_batches_tracked")])
    features = F.gelu(F.conv2d(images, next(tensors), next(tensors)))
    for _ in range(3):
        for pool in (True, False):
            features = F.conv2d(features, next(tensors), padding=1)
            if pool:
                features = F.max_pool2d(features, 2)
            scale, bias, mean, variance = (next(tensors) for _ in range(4))
            assert torch.equal(scale, torch.ones_like(scale))
            features = (features - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-12).sqrt()
            features = F.gelu(features + bias.view(-1, 1, 1))
    logits = features.amax((2, 3)) @ next(tensors).T / features.shape[1]
    assert next(tensors, None) is None
    return logits


@pytest.mark.parametrize("size", [32, 48])
def test_default_has_1_972_792_parameters_and_the_logits_of_the_reference(size):
    torch.manual_seed(0)
    network, images = WhitenedCNN(), torch.randn(4, 3, size, size)
    assert number_of_parameters(network) == 1_972_792
    assert number_of_parameters(network, trained=True) == 1_971_352
    for name, value in network.state_dict().items():
        if name.endswith(("bias", "running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    network.eval()
    with torch.no_grad():
        logits = network(images)
        torch.testing.assert_close(logits, reference(network.state_dict(), images), rtol=1e-4, atol=1e-5)
    assert logits.shape == (4, 10) and logits.std() > 0.001


@pytest.mark.parametrize(("channels", "size"), [(1, (48, 48)), (3, (33, 40))])
def test_sizes_and_channels(size, channels):
    network = WhitenedCNN(widths=(8, 12, 6), in_channels=channels, num_classes=7)
    images = torch.randn(2, channels, *size)
    network.initialize(images)
    logits = network(images)
    assert logits.shape == (2, 7) and logits.isfinite().all()


# Whitening


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_have_the_identity_as_covariance(channels):
    network, images = WhitenedCNN(widths=(4,), in_channels=channels), correlated_images(1200, channels)
    before = F.unfold(images, 2).transpose(0, 1).flatten(1).cov()
    assert (before - before.diag().diag()).abs().max() > 1  # there is something to decorrelate
    network.initialize(images)
    half = 4 * channels
    with torch.no_grad():
        whitened = network.whiten(images).transpose(0, 1).flatten(1)
    assert whitened.shape[0] == 2 * half
    assert torch.equal(whitened[half:], -whitened[:half])
    torch.testing.assert_close(whitened[:half].cov(), torch.eye(half), rtol=0, atol=0.01)


def test_filters_are_the_directions_of_largest_variance_first_regularised():
    network = WhitenedCNN(widths=(4,), in_channels=1)
    deviations = torch.tensor([0.03, 2.0, 1.0, 0.5])  # of the pixels of a patch, which vary by themselves
    torch.manual_seed(0)
    network.initialize((torch.randn(100_000, 4) * deviations + 5.0).view(-1, 1, 2, 2))
    filters = network.whiten.weight[:4].flatten(1)
    expected = torch.zeros(4, 4)
    for row, pixel in enumerate([1, 2, 3, 0]):
        expected[row, pixel] = 1 / (deviations[pixel] ** 2 + 5e-4).sqrt()
    torch.testing.assert_close(filters, expected, rtol=0.01, atol=0.3)
    assert filters[3, 0] < 0.85 / deviations[0]  # by the regularisation, 0.0009 to 0.0014


def test_constant_images_do_not_blow_up():
    network = WhitenedCNN(widths=(4,))
    network.initialize(torch.full((3, 3, 8, 8), 0.7))
    norms = network.whiten.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((24,), 5e-4**-0.5), rtol=1e-3, atol=0)


def test_same_images_give_the_same_filters_in_any_layout_and_nearly_so_with_little_noise():
    images = correlated_images()
    first, second, third = (WhitenedCNN(widths=(4,)) for _ in range(3))
    first.initialize(images)
    second.initialize(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(first.whiten.weight, second.whiten.weight, rtol=1e-5, atol=1e-5)
    third.initialize(images.double() + 1e-7)
    torch.testing.assert_close(first.whiten.weight, third.whiten.weight, rtol=1e-3, atol=1e-3)  # no sign turned
    projections = first.whiten.weight[:12].flatten(1) @ 0.5 ** torch.arange(12.0)
    assert (projections > 0).all()


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (0, 3, 8, 8), (2, 3, 1, 8), (3, 8, 8)])
def test_images_that_teach_nothing_are_refused(shape):
    with pytest.raises(ValueError, match=r"images of shape \[.*\]: give \(N, 3, H, W\), at least one image of 2x2"):
        WhitenedCNN(widths=(4,)).initialize(torch.zeros(shape))


# How it starts, and what is trained


def test_first_filters_of_every_convolution_pass_its_input_through():
    torch.manual_seed(0)
    network = WhitenedCNN(widths=(30, 20), in_channels=1)
    convolutions = [module for block in network.blocks for module in block if isinstance(module, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [
        (8, 30),
        (30, 30),
        (30, 20),
        (20, 20),
    ]
    for layer in convolutions:
        images = torch.randn(2, layer.in_channels, 5, 5)
        kept = min(layer.in_channels, layer.out_channels)
        torch.testing.assert_close(layer(images)[:, :kept], images[:, :kept])
        bound = (layer.in_channels * 9) ** -0.5  # torch's default: uniform within 1 / sqrt(fan in)
        others = layer.weight[kept:].detach()
        assert others.abs().max() <= bound if len(others) else layer.out_channels <= layer.in_channels
        assert len(others) == 0 or others.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_norms_forget_fast_and_have_no_trained_scale():
    norms = [module for module in WhitenedCNN().modules() if isinstance(module, nn.BatchNorm2d)]
    assert [(layer.eps, layer.momentum) for layer in norms] == [(1e-12, 0.4)] * 6
    assert all(torch.equal(layer.weight, torch.ones_like(layer.weight)) for layer in norms)


def test_frozen_parameters_get_no_gradient_and_all_others_do():
    torch.manual_seed(0)
    network = WhitenedCNN(widths=(4, 6))
    network(torch.randn(8, 3, 16, 16)).square().sum().backward()
    norms = {f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in (2, 5)}
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert without == {"whiten.weight"} | norms
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(("widths", "size", "smallest"), [((4,), 2, 3), ((4, 4, 4), 8, 9)])
def test_images_too_small_name_the_smallest_size(widths, size, smallest):
    network = WhitenedCNN(widths=widths).eval()
    with pytest.raises(ValueError, match=rf"{size}x40 pixels, but .* need {smallest}x{smallest} or more"):
        network(torch.zeros(1, 3, size, 40))
    assert network(torch.zeros(1, 3, smallest, smallest)).shape == (1, 10)


@pytest.mark.parametrize("options", [{"widths": [64, 0]}, {"widths": []}, {"in_channels": 0}, {"num_classes": 0}])
def test_what_cannot_work_says_which_and_why(options):
    with pytest.raises(ValueError, match=rf"WhitenedCNN: .*{next(iter(options)).removesuffix('s')}.* is 0: choose 1"):
        WhitenedCNN(**options)
