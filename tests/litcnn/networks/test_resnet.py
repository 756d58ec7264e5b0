import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34

from litcnn.networks import ResNet


def with_small_stem(network: nn.Module, in_channels: int = 3) -> nn.Module:
    network.conv1 = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.eval()(images)


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({}, lambda: with_small_stem(resnet18(num_classes=10))),
        ({"depths": (3, 4, 6, 3), "in_channels": 1}, lambda: with_small_stem(resnet34(num_classes=10), 1)),
    ],
)
def test_logits_equal_torchvisions_with_its_stem_replaced(options, reference):
    torch.manual_seed(0)
    network, expected = ResNet(**options), reference()
    images = torch.randn(2, options.get("in_channels", 3), 16, 16)
    expected.train()(images)  # statistics of BatchNorm unlike those at the start
    network.load_state_dict(expected.state_dict())
    logits = logits_of(network, images)
    assert torch.equal(logits, logits_of(expected, images))
    assert logits.shape == (2, 10) and logits.std() > 0.01
    if not options:
        assert sum(parameter.numel() for parameter in network.parameters()) == 11_173_962


def test_the_stem_starts_as_torchvisions_convolutions_do():
    torch.manual_seed(0)
    weight = ResNet(depths=(1, 1, 1, 1)).conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("zero", [True, False])
def test_residual_branches_start_at_zero_when_asked(zero):
    network = ResNet(depths=(2, 1, 1, 1), zero_init_residual=zero)
    images = torch.randn(1, 64, 8, 8).relu()
    assert torch.equal(logits_of(network.layer1, images), images) == zero


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depths": (2, 2, 2)}, r"depths is \[2, 2, 2\]: give four numbers of 1 or more"),
        ({"in_channels": 0}, r"in_channels is 0: choose 1 or more"),
    ],
)
def test_what_cannot_work_says_which_and_why(options, words):
    with pytest.raises(ValueError, match=words):
        ResNet(**options)
