import copy
import io

import pytest
import torch
from torch import Tensor, nn

from litengine.optim import Muon, parameter_groups
from litengine.optim.muon import orthogonalize


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(27, 5)
    )


def loss_of(module: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    images, targets = torch.randn(6, 2, 6, 6, generator=generator), torch.randn(6, 5, generator=generator)
    return nn.functional.mse_loss(module(images), targets)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(20)) -> dict[str, Tensor]:
    for step in steps:
        optimizer.zero_grad()
        loss_of(module, step).backward()
        optimizer.step()
    return module.state_dict()


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


# The orthogonalised update


def by_singular_values(matrix: Tensor, steps: int) -> Tensor:
    """The iteration as it acts on each singular value, all in float64."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ s.diag() @ v


@pytest.mark.parametrize(("shape", "steps"), [((5, 9), 1), ((9, 5), 3), ((64, 216), 5), ((1, 8), 5), ((8, 1), 3)])
def test_orthogonalize_applies_the_quintic_to_every_singular_value(shape, steps):
    torch.manual_seed(0)
    matrix = 1e3 * torch.randn(shape)
    (result,) = orthogonalize([matrix], steps)
    assert result.dtype == matrix.dtype
    torch.testing.assert_close(result.double(), by_singular_values(matrix, steps), rtol=1e-4, atol=1e-5)


def test_orthogonalize_leaves_zeros_and_keeps_the_type():
    dtypes = (torch.float16, torch.bfloat16, torch.float64)
    zeros, *others = orthogonalize([torch.zeros(3, 4), *(torch.randn(3, 4).to(dtype) for dtype in dtypes)])
    assert torch.equal(zeros, torch.zeros(3, 4))
    assert tuple(other.dtype for other in others) == dtypes


@pytest.mark.parametrize(
    ("shapes", "batches"),
    [
        ([(64, 216), (64, 576), (256, 576), (256, 2304), (256, 2304), (2304, 256)], 1),  # of configs/fast.yaml
        ([(4, 8), (8, 4), (128, 1152), (8, 8)], 2),
        ([(2, 2), (300, 2), (2, 2)], 2),
    ],
)
def test_matrices_padded_into_a_batch_give_the_same_as_alone(shapes, batches, monkeypatch):
    torch.manual_seed(0)
    matrices = [10.0**number * torch.randn(shape) for number, shape in enumerate(shapes)]
    alone = [orthogonalize([matrix], 3)[0] for matrix in matrices]
    products = []
    multiply = torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda *args, **kwargs: products.append(0) or multiply(*args, **kwargs))
    together = orthogonalize(matrices, 3)
    assert len(products) == 2 * 3 * batches
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_and_momenta_of_another_layout_give_the_same_update(layout):
    """torch's fused kernel for CPUs does not check it."""
    results = []
    for gradient_layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        parameter = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=layout))
        optimizer = Muon([{"params": [parameter], "rule": "sgd"}], sgd_lr=0.1)
        for _ in range(3):
            parameter.grad = torch.randn(4, 3, 2, 2).to(memory_format=gradient_layout)
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


def test_nothing_is_read_from_the_device():
    """Tensors on the meta device have no values: reading one, which would wait for a GPU, raises."""
    module = network().to("meta")
    optimizer = Muon(parameter_groups(module), renormalize=True, weight_decay=0.1)
    for _ in range(2):
        for parameter in module.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
    with pytest.raises(RuntimeError):
        torch.empty(1, device="meta").item()


# Groups under muon


def reference_step(parameter: Tensor, gradient: Tensor, buffer: Tensor, settings: dict) -> tuple[Tensor, Tensor]:
    buffer = settings["momentum"] * buffer + gradient
    update = gradient + settings["momentum"] * buffer if settings["nesterov"] else buffer
    if settings["renormalize"]:
        parameter = parameter * (len(parameter) / parameter.square().sum()).sqrt()
    parameter = parameter * (1 - settings["lr"] * settings["weight_decay"])
    step = by_singular_values(update.reshape(len(update), -1), settings["steps"]).reshape(update.shape)
    return parameter - settings["lr"] * step, buffer


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "changed",
    [
        {"nesterov": False, "weight_decay": 0.5},
        {"momentum": 0.0},
        {"renormalize": True, "steps": 3, "lr": 0.24, "momentum": 0.6, "weight_decay": 0.5},
    ],
)
def test_filters_follow_the_rule_step_by_step(changed, layout):
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0, "steps": 5, "renormalize": False}
    settings |= changed
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(6, 4, 3, 3).to(memory_format=layout))
    optimizer = Muon([{"params": [filters], "role": "filters"}], **settings)
    expected, buffer = filters.detach().double(), torch.zeros(6, 4, 3, 3, dtype=torch.float64)
    for _ in range(4):
        gradient = torch.randn(6, 4, 3, 3)
        filters.grad = gradient.to(memory_format=layout)
        optimizer.step()
        expected, buffer = reference_step(expected, gradient.double(), buffer, settings)
        torch.testing.assert_close(filters.detach().double(), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(filters.grad, gradient)
    assert filters.is_contiguous(memory_format=layout)


def test_a_filter_bank_of_zeros_stays_finite_when_renormalised():
    filters = nn.Parameter(torch.zeros(4, 2, 3, 3))
    filters.grad = torch.zeros_like(filters)
    Muon([filters], renormalize=True).step()
    assert torch.equal(filters, torch.zeros(4, 2, 3, 3))


# Groups under sgd


@pytest.mark.parametrize(("momentum", "nesterov", "decay"), [(0.9, True, 0.0), (0.9, False, 0.05), (0.0, False, 0.05)])
def test_sgd_groups_equal_torch_bit_for_bit(momentum, nesterov, decay):
    ours, theirs = network(), network()
    optimizer = Muon(
        [{"params": ours.parameters(), "rule": "sgd"}],
        sgd_lr=0.1,
        sgd_momentum=momentum,
        sgd_nesterov=nesterov,
        sgd_weight_decay=decay,
    )
    settings = {"lr": 0.1, "momentum": momentum, "nesterov": nesterov, "weight_decay": decay}
    reference = torch.optim.SGD(theirs.parameters(), fused=True, **settings)
    start = copy.deepcopy(ours.state_dict())
    assert_same_bits(train(ours, optimizer), train(theirs, reference))
    assert not torch.equal(start["0.weight"], ours[0].weight)


def test_each_group_has_its_own_settings_and_the_others_do_not_reach_it():
    """Filters under muon beside three groups under sgd, which must be as if they were alone, given equal gradients."""
    ours, theirs = network(), network()
    settings = {"matrices": {"lr": 0.3, "momentum": 0.5}, "biases": {"nesterov": False}, "norms": {"weight_decay": 0.1}}
    optimizer = Muon(parameter_groups(ours, settings), lr=0.05, sgd_lr=0.1, sgd_weight_decay=0.01)
    others = parameter_groups(theirs, settings)
    reference = torch.optim.SGD(others[1:], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=True)
    for step in range(10):
        optimizer.zero_grad()
        loss_of(ours, step).backward()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other) == (mine.ndim != 4)


# Which rule a parameter follows


def test_rule_follows_from_the_role_unless_it_is_given():
    module = network()
    groups = parameter_groups(module, {"matrices": {"rule": "muon", "lr": 0.7}})
    optimizer = Muon(groups, lr=0.05, momentum=0.8, weight_decay=0.1, steps=4, sgd_lr=0.2)
    of_muon = {"rule": "muon", "lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}
    of_muon |= {"steps": 4, "renormalize": False}
    of_sgd = {"rule": "sgd", "lr": 0.2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0}
    assert [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups] == [
        {"role": "filters", **of_muon},
        {"role": "matrices", **of_muon, "lr": 0.7},
        {"role": "norms", **of_sgd},
        {"role": "biases", **of_sgd},
    ]
    assert "rule" not in groups[0]


def test_parameters_without_groups_are_sorted_by_their_dimensions():
    module = network()
    optimizer = Muon(module.named_parameters())
    muon, sgd = optimizer.param_groups
    assert (muon["rule"], sgd["rule"]) == ("muon", "sgd")
    assert list(map(id, muon["params"])) == [id(module[0].weight), id(module[3].weight)]
    assert len(sgd["params"]) == len(list(module.parameters())) - 2
    assert [group["rule"] for group in Muon([torch.zeros(3)]).param_groups] == ["sgd"]


# One optimizer like any other


def test_parameters_without_gradient_are_not_touched():
    module = network()
    module[0].requires_grad_(False)
    module[5].requires_grad_(False)
    start = copy.deepcopy(module.state_dict())
    optimizer = Muon(module.parameters(), weight_decay=0.1, sgd_weight_decay=0.1, renormalize=True)
    train(module, optimizer)
    for name in ("0.weight", "0.bias", "5.weight", "5.bias"):
        assert torch.equal(start[name], module.state_dict()[name])
    assert not torch.equal(start["3.weight"], module[3].weight)
    assert len(optimizer.state) == 4


def test_training_goes_on_from_a_saved_state_with_the_same_bits():
    def optimizer_of(module: nn.Module, **changed) -> Muon:
        return Muon(parameter_groups(module), **{"lr": 0.05, "renormalize": True, "sgd_weight_decay": 0.01} | changed)

    whole, half = network(), network()
    train(whole, optimizer_of(whole), range(12))
    optimizer = optimizer_of(half)
    train(half, optimizer, range(5))
    file = io.BytesIO()
    torch.save({"network": half.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = network()
    resumed.load_state_dict(saved["network"])
    other = optimizer_of(resumed, lr=9.0, steps=1, sgd_lr=9.0)  # the saved settings win, as with torch's
    other.load_state_dict(saved["optimizer"])
    assert_same_bits(train(resumed, other, range(5, 12)), whole.state_dict())


@pytest.mark.parametrize(
    ("groups", "options", "words"),
    [
        ([{"params": [torch.zeros(2, 2)], "rule": "adam"}], {}, r"rule of a group is 'adam', 'muon' or 'sgd'"),
        ([{"params": [torch.zeros(2)], "rule": "muon"}], {}, r"shape \[2\] is under the rule muon, .* rule sgd"),
        ([torch.zeros(2, 2, 2)], {"lr": float("nan")}, r"lr of a group under muon is nan: choose 0 or more"),
        ([torch.zeros(2)], {"sgd_lr": -1.0}, r"lr of a group under sgd is -1.0: choose 0 or more"),
        ([torch.zeros(2, 2, 2)], {"momentum": 1.0}, r"momentum of a group under muon is 1.0: .* 0 or more and below 1"),
        ([torch.zeros(2)], {"sgd_weight_decay": -0.1}, r"weight_decay of a group under sgd is -0.1"),
        ([torch.zeros(2)], {"sgd_momentum": 0.0}, r"nesterov of a group under sgd needs a momentum .* to false"),
        ([torch.zeros(2, 2, 2)], {"steps": 0}, r"steps of a group under muon is 0: choose 1 or more"),
        ([], {}, r"empty parameter list"),
    ],
)
def test_what_cannot_work_says_why(groups, options, words):
    with pytest.raises(ValueError, match=words):
        Muon(groups, **options)
