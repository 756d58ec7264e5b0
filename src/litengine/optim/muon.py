"""Muon for the filters of convolutions, SGD for everything else, in one optimizer."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.sgd import sgd

# Keller Jordan's quintic: steepest at zero, at the price of singular values that end anywhere within 0.7 to 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-7
OF_SGD = ("lr", "momentum", "nesterov", "weight_decay")
OF_MUON = (*OF_SGD, "steps", "renormalize")
# of a setting: the smallest value, and a bound that it stays below
RANGES = {"lr": (0, math.inf), "weight_decay": (0, math.inf), "momentum": (0, 1), "steps": (1, math.inf)}
FUSED = ("cpu", "cuda")  # devices on which one kernel makes the whole step of SGD


class Muon(torch.optim.Optimizer):
    """Moves filters by an orthogonalised momentum (Muon), other parameters as `torch.optim.SGD` does.

    The `rule` of a parameter group is `muon` or `sgd`. Without it, groups with the `role` `filters` follow `muon` (see
    `parameter_groups`), others `sgd`; parameters without groups follow `muon` if they have three or more dimensions.

    `muon`, with a filter bank taken as the matrix (filters, rest), g its gradient and b its momentum, zero at first:

        b = momentum * b + g;   u = g + momentum * b (nesterov) or b
        p = p * sqrt(filters) / |p|  (renormalize);   p = p * (1 - lr * weight_decay)
        p = p - lr * orthogonalize(u)

    `sgd`: torch's own function, fused or foreach; its weight decay is added to the gradient.

    `torch.optim.Muon` (2.15) refuses parameters that are not 2-D, needs a second optimizer beside it, and scales its
    updates otherwise, so that the rates of the CIFAR-10 records would not carry over.

    Args:
        params: parameters, or groups of them, which may set `rule`, `lr`, `momentum`, … for themselves.
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
        defaults: dict[str, Any] = {"rule": "sgd", "lr": lr, "momentum": momentum, "nesterov": nesterov}
        defaults |= {"weight_decay": weight_decay, "steps": steps, "renormalize": renormalize, "sgd_lr": sgd_lr}
        defaults |= {"sgd_momentum": sgd_momentum, "sgd_nesterov": sgd_nesterov, "sgd_weight_decay": sgd_weight_decay}
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
        alike: dict[tuple[Any, ...], list[Tensor]] = {}  # one call for all parameters with the same settings
        for group in self.param_groups:
            chosen = tuple((name, group[name]) for name in (OF_MUON if group["rule"] == "muon" else OF_SGD))
            members = [parameter for parameter in group["params"] if parameter.grad is not None]
            alike.setdefault((group["rule"], *chosen), []).extend(members)
        for (rule, *settings), parameters in alike.items():
            if parameters:
                step = self._muon if rule == "muon" else self._sgd
                step(parameters, dict(settings))
        return loss

    def _momenta(self, parameters: list[Tensor]) -> list[Tensor]:
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return [self.state[parameter]["momentum_buffer"] for parameter in parameters]

    def _muon(self, parameters: list[Tensor], settings: dict[str, Any]) -> None:
        lr, momentum = settings["lr"], settings["momentum"]
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        momenta = self._momenta(parameters)
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, gradients)
        updates = torch._foreach_add(gradients, momenta, alpha=momentum) if settings["nesterov"] else momenta
        if settings["renormalize"]:
            scales = torch._foreach_norm(parameters)
            torch._foreach_clamp_min_(scales, EPSILON)
            torch._foreach_reciprocal_(scales)
            torch._foreach_mul_(scales, [len(parameter) ** 0.5 for parameter in parameters])
            torch._foreach_mul_(parameters, scales)
        if settings["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - lr * settings["weight_decay"])
        # (filters, channels, h, w) -> (filters, rest)
        matrices = orthogonalize([update.flatten(1) for update in updates], settings["steps"])
        shaped = [matrix.view(update.shape) for matrix, update in zip(matrices, updates, strict=True)]
        torch._foreach_add_(parameters, shaped, alpha=-lr)

    def _sgd(self, parameters: list[Tensor], settings: dict[str, Any]) -> None:
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        momenta = self._momenta(parameters) if settings["momentum"] else []
        # torch's fused kernel for CPUs gives wrong numbers if the layouts in memory differ
        layouts = zip(parameters, gradients, momenta or gradients, strict=True)
        fused = all(p.device.type in FUSED and p.stride() == g.stride() == m.stride() for p, g, m in layouts)
        buffers: list[Tensor | None] = [*momenta] or [None] * len(parameters)
        sgd(parameters, gradients, buffers, fused=fused, foreach=not fused, dampening=0, maximize=False, **settings)


def orthogonalize(matrices: Sequence[Tensor], steps: int = 5) -> list[Tensor]:
    """The nearest semi-orthogonal matrices, roughly: U S' V^T of each matrix U S V^T, S' within about 0.7 to 1.2.

    Newton-Schulz iteration on matrices (rows, columns) of any scale, in the same shapes and types. It never waits for
    the device. Singular values far below the largest need more steps; a matrix of zeros stays one.
    """
    result: dict[int, Tensor] = {}
    for batch in _batches(matrices):
        result.update(zip(batch, _orthogonalize([matrices[index] for index in batch], steps), strict=True))
    return [result[index] for index in range(len(matrices))]


def _orthogonalize(matrices: list[Tensor], steps: int) -> list[Tensor]:
    """The same in one batch. Zeros fill matrices up to a common shape: such rows and columns stay zero."""
    a, b, c = COEFFICIENTS
    # the products below are (rows, rows): the smaller side
    wide = [matrix if len(matrix) <= matrix.shape[1] else matrix.T for matrix in matrices]
    sizes = [matrix.shape for matrix in wide]
    shape = (len(wide), max(rows for rows, _ in sizes), max(columns for _, columns in sizes))
    padded = wide[0].new_zeros(shape)
    torch._foreach_copy_(_cut(padded, sizes), wide)
    padded /= torch.linalg.vector_norm(padded, dim=(1, 2), keepdim=True).clamp(min=EPSILON)  # singular values up to 1
    # bfloat16 is several times as fast on a GPU, and rounding matters less than how loosely S' is bound;
    # CPUs, which mostly emulate it, are several times slower with it than with float32.
    x = padded.to(torch.bfloat16 if padded.is_cuda else torch.float32)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    pairs = zip(_cut(x.to(padded.dtype), sizes), matrices, strict=True)
    return [matrix if matrix.shape == given.shape else matrix.T for matrix, given in pairs]


def _batches(matrices: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the matrices to pad and multiply together: as many as possible with at most half of them padding."""
    batches: list[list[int]] = [[]]
    rows = columns = used = 0
    for index in sorted(range(len(matrices)), key=lambda index: matrices[index].numel(), reverse=True):
        matrix, batch = matrices[index], batches[-1]
        rows, columns = max(rows, min(matrix.shape)), max(columns, *matrix.shape)
        used += matrix.numel()
        alike = not batch or (matrix.device, matrix.dtype) == (matrices[batch[0]].device, matrices[batch[0]].dtype)
        if alike and rows * columns * (len(batch) + 1) <= 2 * used:
            batch.append(index)
        else:
            batches.append([index])
            (rows, columns), used = sorted(matrix.shape), matrix.numel()
    return batches


def _cut(batch: Tensor, sizes: list[torch.Size]) -> list[Tensor]:
    """The matrices of these sizes in a padded batch, as views."""
    return [matrix[:rows, :columns] for matrix, (rows, columns) in zip(batch.unbind(), sizes, strict=True)]


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
    for name, (low, high) in RANGES.items():
        if name in group and not low <= group[name] < high:
            below = f" and below {high}" if high < math.inf else ""
            raise ValueError(f"Muon: {name} of a group under {rule} is {group[name]}: choose {low} or more{below}")
    if rule == "sgd" and group["nesterov"] and not group["momentum"]:
        raise ValueError("Muon: nesterov of a group under sgd needs a momentum above 0: set nesterov to false")
    for parameter in group["params"] if rule == "muon" else ():
        if parameter.ndim < 2:
            raise ValueError(
                f"Muon: a parameter of shape {list(parameter.shape)} is under the rule muon, which is for matrices and "
                "filters: put it into a group with the rule sgd"
            )
