import pytest
import torch
from project_for_tests import WhitenedCNN
from torch import nn

from litengine.optim import parameter_groups


class Scale(nn.Module):
    """Of no type that is known."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))
        self.temperature = nn.Parameter(torch.tensor(1.0))
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
        "biases": [
            "bias_norm.bias",
            "transposed.bias",
            "conv_bn.bias",
            "bilinear.bias",
            "linear.gain",
            "linear.temperature",
        ],
        "others": ["linear.table"],
    }


def named(module: nn.Module, groups: list[dict]) -> dict[str, list[str]]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {group["role"]: [names[parameter] for parameter in group["params"]] for group in groups}


def settings_of(groups: list[dict]) -> dict[str, dict]:
    return {group["role"]: {k: v for k, v in group.items() if k not in ("params", "role")} for group in groups}


def test_roles_follow_from_the_type_of_the_owner_in_a_fixed_order():
    zoo = Zoo()
    roles = named(zoo, parameter_groups(zoo))
    assert roles == Zoo.names
    assert list(roles) == ["filters", "matrices", "norms", "biases", "others"]
    assert sum(map(len, roles.values())) == len(list(zoo.parameters()))


def test_subclasses_and_normalisation_of_every_kind_are_known():
    norms = [nn.BatchNorm3d(2), nn.SyncBatchNorm(2), nn.InstanceNorm1d(2, affine=True), nn.RMSNorm(2)]
    assert [group["role"] for group in parameter_groups(nn.Sequential(*norms))] == ["norms"]
    attention = nn.MultiheadAttention(4, 2)  # its projection is a subclass of Linear
    assert named(attention, parameter_groups(attention)) == {
        "matrices": ["out_proj.weight"],
        "biases": ["in_proj_bias", "out_proj.bias"],
        "others": ["in_proj_weight"],
    }


def test_a_module_that_is_itself_a_layer():
    layer = nn.Conv2d(1, 2, 3)
    assert named(layer, parameter_groups(layer)) == {"filters": ["weight"], "biases": ["bias"]}


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
    network[3].weight.requires_grad = False
    network[4].bias.requires_grad = False
    assert named(network, parameter_groups(network)) == {
        "matrices": ["0.weight"],
        "norms": ["4.weight"],
        "biases": ["0.bias"],
    }


def test_norms_and_biases_do_not_decay_unless_asked():
    assert settings_of(parameter_groups(Zoo())) == {
        "filters": {},
        "matrices": {},
        "norms": {"weight_decay": 0.0},
        "biases": {"weight_decay": 0.0},
        "others": {},
    }
    settings = {"biases": {"weight_decay": 0.3, "lr": 2.0}, "norms": {"lr": 3.0}, "filters": {"rule": "muon"}}
    assert settings_of(parameter_groups(Zoo(), settings)) == {
        "filters": {"rule": "muon"},
        "matrices": {},
        "norms": {"weight_decay": 0.0, "lr": 3.0},
        "biases": {"weight_decay": 0.3, "lr": 2.0},
        "others": {},
    }
    assert settings["norms"] == {"lr": 3.0}


def test_an_optimizer_of_torch_takes_them():
    optimizer = torch.optim.SGD(parameter_groups(Zoo(), {"biases": {"lr": 2.0}}), lr=0.5, weight_decay=0.1)
    assert [(group["role"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        ("filters", 0.5, 0.1),
        ("matrices", 0.5, 0.1),
        ("norms", 0.5, 0.0),
        ("biases", 2.0, 0.0),
        ("others", 0.5, 0.1),
    ]


def test_whitened_network_trains_filters_head_and_biases_only():
    network = WhitenedCNN()
    groups = {group["role"]: group["params"] for group in parameter_groups(network)}
    assert {role: len(members) for role, members in groups.items()} == {
        "filters": 6,
        "matrices": 1,
        "norms": 6,
        "biases": 1,
    }
    assert groups["matrices"][0] is network.head.weight
    assert groups["biases"][0] is network.whiten.bias


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"bias": {"lr": 1.0}},
            r"no role 'bias' of parameters: the roles are filters, matrices, norms, biases, others",
        ),
        ({"biases": {"params": []}}, r"settings of biases cannot have params"),
    ],
)
def test_what_cannot_be_set_says_so(settings, words):
    with pytest.raises(ValueError, match=words):
        parameter_groups(nn.Linear(2, 2), settings)


def test_without_trainable_parameters():
    assert parameter_groups(nn.ReLU()) == []


def test_settings_of_a_role_that_does_not_occur_are_passed_over():
    groups = parameter_groups(nn.Linear(2, 2), {"norms": {"lr": 1.0}, "biases": {"lr": 2.0}})
    assert [(group["role"], group.get("lr")) for group in groups] == [("matrices", None), ("biases", 2.0)]
