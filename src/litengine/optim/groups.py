"""Parameters by the role they play, so that each role can have its own learning rate and weight decay."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

Role = Literal["filters", "matrices", "norms", "biases", "others"]
ROLES: tuple[Role, ...] = get_args(Role)
UNDECAYED = ("norms", "biases")  # decay would pull them to values that mean nothing, and regularises nothing

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
LINEAR = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag)
NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def parameter_groups(
    module: nn.Module,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    frozen: Collection[Parameter] = (),
) -> list[dict[str, Any]]:
    """The trainable parameters of a module as groups for an optimizer, one for each role that occurs.

    The role follows from the type of the module that owns a parameter, never from a name: `filters` are the weights
    of convolutions (transposed ones too), `matrices` those of linear layers and embeddings, `norms` all parameters of
    normalisation layers, `biases` the biases of convolutions and linear layers. Of modules of another type, parameters
    of at most one dimension are `biases` and the rest are `others`. A parameter that several modules share is in one
    group, by its first owner.

    Args:
        settings: for a role, what its group sets otherwise than the optimizer: `{"biases": {"lr": 0.1}}`; roles that
            do not occur are passed over, so that one recipe serves several networks.
            The `weight_decay` of `norms` and `biases` is 0 unless it is set here.
        frozen: parameters that are not trained yet, but will be.

    Returns:
        Groups in the order filters, matrices, norms, biases, others, those without parameters left out. Each has
        `params`, in the order of `module.named_parameters()`, its `role`, and its settings.

    Raises:
        ValueError: if a role of `settings` does not exist.
    """
    members: dict[Role, list[Parameter]] = {role: [] for role in ROLES}
    seen: set[Parameter] = set()
    frozen = set(frozen)
    for owner in module.modules():
        for parameter in owner.parameters(recurse=False):
            if (parameter.requires_grad or parameter in frozen) and parameter not in seen:
                seen.add(parameter)
                members[_role(owner, parameter)].append(parameter)

    settings = settings or {}
    present = [role for role in ROLES if members[role]]
    for role, values in settings.items():
        if role not in ROLES:
            raise ValueError(f"there is no role {role!r} of parameters: the roles are {', '.join(ROLES)}")
        if reserved := {"params", "role"} & set(values):
            raise ValueError(f"the settings of {role} cannot have {', '.join(sorted(reserved))}: the network says that")
    undecayed = {role: {"weight_decay": 0.0} for role in UNDECAYED}
    return [
        {"params": members[role], "role": role, **undecayed.get(role, {}), **settings.get(role, {})} for role in present
    ]


def check_settings(groups: Mapping[str, Mapping[str, Any]], optimizer: Optimizer) -> None:
    """Raises ValueError for what a group sets and the optimizer does not know: torch lets it pass."""
    for role, settings in groups.items():
        for name in settings.keys() - optimizer.defaults.keys():
            raise ValueError(
                f"model.parameter_groups.{role}.{name} is no setting of {type(optimizer).__name__}: there are "
                f"{', '.join(optimizer.defaults)}"
            )


def _role(owner: nn.Module, parameter: Parameter) -> Role:
    if isinstance(owner, NORMS):
        return "norms"
    if isinstance(owner, CONVOLUTIONS + LINEAR):
        if parameter is getattr(owner, "bias", None):
            return "biases"
        if parameter is owner.weight:
            return "filters" if isinstance(owner, CONVOLUTIONS) else "matrices"
    return "biases" if parameter.ndim <= 1 else "others"
