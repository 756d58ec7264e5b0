"""The one builder of networks, for a fit and for all verbs that open a checkpoint."""

import pytest
import torch
from project_for_tests import PACKAGE

from litengine.network import build_network, worth_recording

CNN = {"class_path": f"{PACKAGE}.networks.CNN", "init_args": {"widths": [4], "hidden": 8, "image_size": 8}}


@pytest.mark.parametrize(
    ("spec", "classes"),
    [
        (CNN, 10),
        ({"class_path": "torchvision.models.shufflenet_v2_x0_5", "init_args": {"num_classes": 3}}, 3),
        ({"class_path": "torchvision.models.squeezenet1_1", "init_args": {}, "dict_kwargs": {"num_classes": 4}}, 4),
        ({"class_path": "timm.create_model", "init_args": {"model_name": "resnet10t", "num_classes": 5}}, 5),
    ],
)
def test_a_network_is_built_from_its_class_path_with_the_arguments_given(spec, classes):
    network = build_network(worth_recording(spec)).eval()
    size = 8 if spec is CNN else 64
    with torch.no_grad():
        assert network(torch.zeros(2, 3, size, size)).shape == (2, classes)


def test_defaults_that_are_not_plain_are_not_recorded():
    spec = {"class_path": "torchvision.models.vit_b_16", "init_args": {"num_classes": 3}}
    recorded = worth_recording(spec)
    assert recorded["init_args"] == {"num_classes": 3}
