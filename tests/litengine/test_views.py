"""Test-time augmentation against numbers by hand, the published code, and the graph that an export traces."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from project_for_tests import CNN
from torch import Tensor, nn

from litengine.views import TTA, average

IMAGE = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])[None, None]


def corner_and_edge(images: Tensor) -> Tensor:
    """Two logits that are pixels: the upper left, and the middle of the right edge."""
    return torch.stack([images[:, 0, 0, 0], images[:, 0, 1, 2]], dim=1)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    network = CNN(widths=[4, 6], hidden=8, image_size=8, num_classes=5).eval()
    with torch.no_grad():
        network.head[-1].weight.mul_(10)  # logits that a mistake would move
    return network


@pytest.mark.parametrize(
    ("tta", "expected"),
    [
        ("none", [1.0, 6.0]),
        ("flip", [(1 + 3) / 2, (6 + 4) / 2]),
        # moved to the upper left (5, 5 and 8, 8), to the lower right (5, 5 and 2, 2): see the reflected edges
        ("flip+shift", [0.5 * 2 + 0.25 * (5 + 5), 0.5 * 5 + 0.25 * (8 + 2)]),
    ],
)
def test_by_hand(tta: TTA, expected: list[float]) -> None:
    assert average(corner_and_edge, IMAGE, tta).tolist() == [expected]


def airbench(inputs: Tensor, net: Callable[[Tensor], Tensor]) -> Tensor:
    """`infer_mirror_translate` of airbench94 (Jordan 2024), for any image size."""

    def infer_mirror(inputs: Tensor) -> Tensor:
        return 0.5 * net(inputs) + 0.5 * net(inputs.flip(-1))

    logits = infer_mirror(inputs)
    size, pad = inputs.shape[-1], 1
    padded = F.pad(inputs, (pad,) * 4, "reflect")
    translated = [padded[:, :, 0:size, 0:size], padded[:, :, 2 : size + 2, 2 : size + 2]]
    return 0.5 * logits + 0.5 * torch.stack([infer_mirror(images) for images in translated]).mean(0)


def test_flip_and_shift_is_that_of_airbench(network: nn.Module) -> None:
    images = torch.randn(9, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(average(network, images, "flip+shift"), airbench(images, network))


def test_another_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"model\.tta is 'mirror': choose one of none, flip, flip\+shift"):
        average(corner_and_edge, IMAGE, "mirror")  # type: ignore[arg-type]
