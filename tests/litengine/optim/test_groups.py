import functools

import pytest
import torch
import torchvision
from project_for_tests import WhitenedCNN
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from litengine.optim import decay_rates, make_schedule, parameter_groups


class Scale(nn.Module):
    """Of no type that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))
        self.table = nn.Parameter(torch.ones(2, 3))


class Zoo(nn.Module):
    """One of each, under names that mislead."""

    def __init__(self) -> None:
        super().__init__()
        self.bias_norm = nn.Conv2d(3, 4, 3)
        self.transposed = nn.ConvTranspose1d(4, 5, 3)
        self.conv_bn = nn.Linear(4, 5)
        self.bilinear = nn.Bilinear(2, 3, 4)
        self.words = nn.Embedding(7, 4)
        self.weight = nn.BatchNorm2d(4)
        self.conv = nn.GroupNorm(2, 4)
        self.bias = nn.LayerNorm((4, 5, 6))
        self.plain = nn.BatchNorm1d(4, affine=False)
        self.linear = Scale()

    names = {  # noqa: RUF012
        "filters": ["bias_norm.weight", "transposed.weight"],
        "matrices": ["conv_bn.weight", "bilinear.weight", "words.weight"],
        "norms": ["weight.weight", "weight.bias", "conv.weight", "conv.bias", "bias.weight", "bias.bias"],
        "biases": ["bias_norm.bias", "transposed.bias", "conv_bn.bias", "bilinear.bias", "linear.gain"],
        "others": ["linear.table"],
    }


def named(module: nn.Module, groups: list[dict]) -> dict[str, list[str]]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {group["role"]: [names[parameter] for parameter in group["params"]] for group in groups}


def settings_of(groups: list[dict]) -> list[dict]:
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]


def test_roles_follow_from_the_type_of_the_owner_in_a_fixed_order():
    zoo = Zoo()
    roles = named(zoo, parameter_groups(zoo))
    assert roles == Zoo.names and list(roles) == list(Zoo.names)


def test_subclasses_and_normalisation_of_every_kind_are_known():
    norms = [nn.BatchNorm3d(2), nn.SyncBatchNorm(2), nn.InstanceNorm1d(2, affine=True), nn.RMSNorm(2)]
    assert [group["role"] for group in parameter_groups(nn.Sequential(*norms))] == ["norms"]
    attention = nn.MultiheadAttention(4, 2)  # its projection is a subclass of Linear
    assert named(attention, parameter_groups(attention)) == {
        "matrices": ["out_proj.weight"],
        "biases": ["in_proj_bias", "out_proj.bias"],
        "others": ["in_proj_weight"],
    }


def test_parameters_of_a_layer_beyond_weight_and_bias_go_by_their_shape():
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3))
    layer.register_parameter("extra", nn.Parameter(torch.zeros(4)))
    assert named(layer, parameter_groups(layer)) == {
        "biases": ["bias", "extra"],
        "others": ["parametrizations.weight.original0", "parametrizations.weight.original1"],
    }


def test_only_trainable_parameters_and_each_once():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    network = nn.Sequential(first, second, first, nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    network[3].weight.requires_grad = network[4].bias.requires_grad = False
    expected = {"matrices": ["0.weight"], "norms": ["4.weight"], "biases": ["0.bias"]}
    assert named(network, parameter_groups(network)) == expected
    frozen = named(network, parameter_groups(network, frozen=[network[3].weight]))
    assert frozen == {"filters": ["3.weight"], **expected}
    assert parameter_groups(nn.ReLU()) == []


def test_norms_and_biases_do_not_decay_unless_asked_and_settings_reach_the_optimizer():
    settings = {"biases": {"weight_decay": 0.3, "lr": 2.0}, "norms": {"lr": 3.0}, "filters": {"rule": "muon"}}
    groups = parameter_groups(Zoo(), settings)
    assert settings_of(groups) == [
        {"role": "filters", "rule": "muon"},
        {"role": "matrices"},
        {"role": "norms", "weight_decay": 0.0, "lr": 3.0},
        {"role": "biases", "weight_decay": 0.3, "lr": 2.0},
        {"role": "others"},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.5, weight_decay=0.1)
    expected = [(0.5, 0.1), (0.5, 0.1), (3.0, 0.0), (2.0, 0.3), (0.5, 0.1)]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == expected


def test_names_and_patterns_win_over_roles_and_later_ones_over_earlier():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.Linear(2, 2))
    settings = {"2": {"lr": 3.0}, "filters": {"lr": 1.0}, "*.bias": {"weight_decay": 0.5, "lr": 4.0}, "3": {"lr": 5.0}}
    groups = parameter_groups(network, settings)
    names = {parameter: name for name, parameter in network.named_parameters()}
    found = {names[p]: (group.get("lr"), group.get("weight_decay")) for group in groups for p in group["params"]}
    assert found == {
        **{"0.weight": (1.0, None), "0.bias": (4.0, 0.5), "1.weight": (None, 0.0), "1.bias": (4.0, 0.5)},
        **{"2.weight": (3.0, None), "2.bias": (4.0, 0.5), "3.weight": (5.0, None), "3.bias": (5.0, 0.5)},
    }
    roles = [group["role"] for group in groups]
    assert roles == ["filters", "filters", "matrices", "norms", "norms", "biases", "biases", "biases"]


class Pretrained(nn.Module):
    """A network inside of another one, with parameters outside of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.stem = nn.Conv2d(1, 4, 1)
        self.inner = nn.Module()
        self.inner.position = nn.Parameter(torch.zeros(1, 5, 4))
        self.inner.blocks = nn.ModuleList(nn.TransformerEncoderLayer(4, 1, 8) for _ in range(3))
        self.inner.norm = nn.LayerNorm(4)
        self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))


BLOCKS = [(f"layer{stage}.{block}",) for stage in (1, 2, 3, 4) for block in (0, 1)]
CONVOLUTIONS = [
    (f"blocks.{block}.{first}", f"blocks.{block}.{norm}") for block in (0, 1) for first, norm in ((0, 2), (4, 5))
]
ENCODER = [("inner.blocks.0",), ("inner.blocks.1",), ("inner.blocks.2", "inner.norm", "head.0")]


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        (Pretrained(), [("token", "stem", "inner.position"), *ENCODER, ("head.1",)]),
        (torchvision.models.resnet18(num_classes=3), [("conv1", "bn1"), *BLOCKS, ("fc",)]),
        (WhitenedCNN((4, 6)), [("whiten",), *CONVOLUTIONS, ("head",)]),
    ],
    ids=["pretrained", "resnet18", "whitened"],
)
def test_layer_decay_multiplies_the_rate_of_each_layer(network, layers):
    optimizer = torch.optim.SGD(parameter_groups(network, {"norms": {"lr": 2.0}}, layer_decay=0.75), lr=0.1)
    decay_rates(optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.1  # the rate that is logged
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    roles = {parameter: group["role"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (layer,) = [n for n, parts in enumerate(layers) if any(f"{name}.".startswith(f"{part}.") for part in parts)]
            base = 2.0 if roles[parameter] == "norms" else 0.1
            assert rates.pop(parameter) == pytest.approx(base * 0.75 ** (len(layers) - 1 - layer)), name
    assert not rates


def test_schedules_that_set_the_rates_keep_the_decay():
    groups = parameter_groups(nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)), layer_decay=0.5)
    for kind, options in ((OneCycleLR, {"total_steps": 9}), (CyclicLR, {"base_lr": 0.1, "cycle_momentum": False})):
        optimizer = torch.optim.SGD(groups, lr=0.3)
        decay_rates(optimizer)
        factory = functools.partial(kind, max_lr=2.0, **options)
        schedule, _ = make_schedule(factory, optimizer, lambda: 9, lambda: 3)
        for _ in range(8):
            last, first = (group["lr"] for group in optimizer.param_groups)
            assert first == pytest.approx(last / 2) and last != 0.3
            optimizer.step()
            schedule.step()


@pytest.mark.parametrize(
    ("settings", "decay", "words"),
    [
        ({"bais": {"lr": 1.0}}, 1.0, r"'bais' is not a role \(filters, .*, others\) and matches no .*; its modules: 0"),
        ({"biases": {"params": []}}, 1.0, r"settings of biases cannot have params"),
        ({}, 0.0, "model.layer_decay is 0.0: choose a factor above 0 and at most 1"),
        ({}, 1.5, "model.layer_decay is 1.5"),
    ],
)
def test_what_cannot_be_set_says_so(settings, decay, words):
    with pytest.raises(ValueError, match=words):
        parameter_groups(nn.Sequential(nn.Linear(2, 2)), settings, layer_decay=decay)
