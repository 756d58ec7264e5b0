"""Muon for the filters of convolutions, SGD for everything else, in one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.sgd import sgd

# Keller Jordan's quintic: steepest at zero, at the price of singular values that end anywhere within 0.7 to 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7
OF_SGD = ("lr", "momentum", "nesterov", "weight_decay")


class Muon(torch.optim.Optimizer):
    """Moves filters by an orthogonalised momentum (Muon), other parameters as `torch.optim.SGD` does.

    Each parameter group says in `rule` which of the two it follows. A group without `rule` follows `muon` where its
    `role` is `filters` (see `parameter_groups`), else `sgd`. Parameters that come without groups follow `muon` from
    three dimensions on, as filters have, and `sgd` below. Being one optimizer with an ordinary `step`, it leaves
    closures, clipping, gradient scaling, accumulation, checkpoints and the count of steps to work as with any other.

    `muon`, with a filter bank taken as the matrix (filters, rest), g its gradient and b its momentum, zero at first:

        b = momentum * b + g;   u = g + momentum * b (nesterov) or b
        p = p * sqrt(filters) / |p|  (renormalize);   p = p * (1 - lr * weight_decay)
        p = p - lr * orthogonalize(u)

    `sgd`: torch's own function, bit for bit; its weight decay is added to the gradient.

    `torch.optim.Muon` (2.15) does not serve: it refuses parameters that are not 2-D, and everything that Muon is not
    meant for needs a second optimizer; it also averages the gradients and scales the update by the matrix's shape,
    so the rates of the CIFAR-10 records would not carry over.

    Args:
        params: parameters, or groups of them, which may set `rule`, `lr`, `momentum`, `nesterov` and `weight_decay`,
            those of `muon` also `steps` and `renormalize`.
        lr: learning rate of `muon`: the update of a filter bank has singular values of about lr.
        momentum: of `muon`, 0 to below 1.
        nesterov: whether `muon` looks ahead along the momentum.
        weight_decay: of `muon`, decoupled: the part of a weight lost at a step is lr times this.
        steps: Newton-Schulz iterations.
        renormalize: before each update, scale each filter bank to the norm sqrt(filters).
        sgd_lr, sgd_momentum, sgd_nesterov, sgd_weight_decay: the same of `sgd`.

    Raises:
        ValueError: for a setting out of range, or a parameter under `muon` with less than two dimensions.

    Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the form for
    convolutions follows airbench94_muon.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 5,
        renormalize: bool = False,
        sgd_lr: float = 0.01,
        sgd_momentum: float = 0.9,
        sgd_nesterov: bool = True,
        sgd_weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "rule": "sgd",
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "steps": steps,
            "renormalize": renormalize,
            "sgd_lr": sgd_lr,
            "sgd_momentum": sgd_momentum,
            "sgd_nesterov": sgd_nesterov,
            "sgd_weight_decay": sgd_weight_decay,
        }
        super().__init__(_as_groups(params), defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        rule = param_group.setdefault("rule", "muon" if param_group.get("role") == "filters" else "sgd")
        if rule not in ("muon", "sgd"):
            raise ValueError(f"Muon: the rule of a group is {rule!r}, 'muon' or 'sgd' is needed")
        if rule == "sgd":
            for name in OF_SGD:
                param_group.setdefault(name, self.defaults[f"sgd_{name}"])
        super().add_param_group(param_group)
        for name in self.defaults:  # torch gives every group every default
            if name.startswith("sgd_") or (rule == "sgd" and name in ("steps", "renormalize")):
                param_group.pop(name)
        _check(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves every parameter that has a gradient; returns the loss that the closure, if given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["rule"] == "muon":
                for parameter in parameters:
                    self._muon(parameter, group)
            else:
                self._sgd(parameters, group)
        return loss

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        update = gradient.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
        if group["renormalize"]:
            parameter.mul_(len(parameter) ** 0.5 / parameter.norm().clamp(min=EPSILON))
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        matrix = orthogonalize(update.flatten(1), group["steps"])  # (filters, channels, h, w) -> (filters, rest)
        parameter.add_(matrix.view(parameter.shape), alpha=-group["lr"])

    def _sgd(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters]
        moving = group["momentum"] != 0
        momenta = [self.state[parameter].get("momentum_buffer") for parameter in parameters] if moving else []
        sgd(
            parameters,
            gradients,  # type: ignore[arg-type]
            momenta,
            has_sparse_grad=any(gradient.is_sparse for gradient in gradients if gradient is not None),
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0,
            nesterov=group["nesterov"],
            maximize=False,
        )
        for parameter, momentum in zip(parameters, momenta, strict=moving):
            self.state[parameter]["momentum_buffer"] = momentum


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: U S' V^T of a matrix U S V^T, S' within about 0.7 to 1.2.

    Newton-Schulz iteration on a matrix (rows, columns) of any scale, in the same shape and type. It multiplies
    matrices and nothing else, so it never waits for the device. Singular values far below the largest need more
    steps; a matrix of zeros stays one.
    """
    a, b, c = COEFFICIENTS
    wide: Tensor = matrix / matrix.norm().clamp(min=EPSILON)  # the iteration needs singular values of at most 1
    # bfloat16 is several times as fast on a GPU, and rounding matters less than how loosely S' is bound;
    # CPUs, which mostly emulate it, are several times slower with it than with float32.
    wide = wide.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    tall = len(matrix) > matrix.shape[1]
    if tall:
        wide = wide.T  # the products below are (rows, rows): the smaller side
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide.T if tall else wide).contiguous().to(matrix.dtype)


def _as_groups(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Groups as they are, in copies; parameters, or pairs of name and parameter, sorted into two groups by rule."""
    given = [dict(item) if isinstance(item, dict) else item for item in params]
    if not given or isinstance(given[0], dict):
        return given
    members: dict[Literal["muon", "sgd"], list[Any]] = {"muon": [], "sgd": []}
    for item in given:
        parameter: Tensor = item[1] if isinstance(item, tuple) else item  # type: ignore[assignment]
        members["muon" if parameter.ndim >= 3 else "sgd"].append(item)
    return [{"params": items, "rule": rule} for rule, items in members.items() if items]


def _check(group: dict[str, Any]) -> None:
    rule = group["rule"]
    for name in ("lr", "weight_decay"):
        if not group[name] >= 0:
            raise ValueError(f"Muon: {name} of a group under {rule} is {group[name]}, 0 or more is needed")
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"Muon: momentum of a group under {rule} is {group['momentum']}, 0 to below 1 is needed")
    if rule == "sgd":
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("Muon: nesterov of a group under sgd needs a momentum above 0: set nesterov to false")
        return
    if not group["steps"] >= 1:
        raise ValueError(f"Muon: steps of a group under muon is {group['steps']}, 1 or more is needed")
    for parameter in group["params"]:
        if parameter.ndim < 2:
            raise ValueError(
                f"Muon: a parameter of shape {list(parameter.shape)} is under the rule muon, which is for matrices and "
                "filters: put it into a group with the rule sgd"
            )
