"""Parameter groups, so that roles, parts of a network and its layers can have their own settings of the optimizer."""

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

Role = Literal["filters", "matrices", "norms", "biases", "others"]
ROLES: tuple[Role, ...] = get_args(Role)
UNDECAYED = ("norms", "biases")  # decay would pull them to values that mean nothing, and regularises nothing
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LINEAR = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag)
NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def parameter_groups(
    module: nn.Module,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    frozen: Collection[Parameter] = (),
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """The trainable parameters of a module as groups for an optimizer: one for each role and each other difference.

    The role follows from the type of the module that owns a parameter, never from a name: `filters` are the weights
    of convolutions (transposed ones too), `matrices` those of linear layers and embeddings, `norms` all parameters of
    normalisation layers, `biases` the biases of convolutions and linear layers. Of modules of another type, parameters
    of at most one dimension are `biases` and the rest are `others`. A parameter that several modules share is in one
    group, by its first owner.

    Args:
        settings: what a group sets otherwise than the optimizer, such as `{"biases": {"lr": 0.1}}`. A key is a role, or
            a name or pattern of modules or parameters, such as `head` or `blocks.*`. Patterns win over roles, and later
            patterns over earlier ones. Roles that do not occur are ignored, so that one recipe serves several networks.
            The `weight_decay` of `norms` and `biases` is 0 unless it is set here.
        frozen: parameters that are not trained yet, but will be.
        layer_decay: above 0, at most 1: `decay_rates` multiplies the learning rate of the last layer by 1, of the layer
            before by `layer_decay`, of the one before that by its square, and so on. A layer is an item of an
            nn.Sequential or nn.ModuleList, or a module outside of them; one without a weight of two or more dimensions
            belongs to the layer before it.

    Returns:
        Groups in the order filters, matrices, norms, biases, others, with `layer_decay` from the last layer to the
        first. Each has `params`, in the order of `module.named_parameters()`, its `role`, and its settings.

    Raises:
        ValueError: if a key of `settings` is not a role and matches no parameter, or `layer_decay` is out of range.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"model.layer_decay is {layer_decay}: choose a factor above 0 and at most 1")
    settings, frozen = settings or {}, set(frozen)
    for key, values in settings.items():
        if reserved := {"params", "role", "lr_scale"} & set(values):
            raise ValueError(f"the settings of {key} cannot have {', '.join(sorted(reserved))}: the network says that")
    patterns = [key for key in settings if key not in ROLES]
    unused, layers = set(patterns), _layers(module)
    last_layer = max(layers.values(), default=0)
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups: dict[tuple[int, int, tuple[str, ...]], dict[str, Any]] = {}
    for owner in module.modules():
        for parameter in owner.parameters(recurse=False):
            name = names.pop(parameter, None)  # None if it is shared and already in a group
            if name is None or not (parameter.requires_grad or parameter in frozen):
                continue
            role = _role(owner, parameter)
            matching = tuple(pattern for pattern in patterns if matches(name, pattern))
            unused.difference_update(matching)
            layers_after = last_layer - layers[parameter] if layer_decay < 1 else 0
            place = (layers_after, ROLES.index(role), matching)
            if place not in groups:
                groups[place] = {"params": [], "role": role} | ({"weight_decay": 0.0} if role in UNDECAYED else {})
                for key in (role, *matching):
                    groups[place] |= settings.get(key, {})
                if layer_decay < 1:
                    groups[place]["lr_scale"] = layer_decay**layers_after
            groups[place]["params"].append(parameter)
    if unused:
        modules = ", ".join(name for name, _ in module.named_children())
        raise ValueError(
            f"model.parameter_groups {min(unused)!r} is not a role ({', '.join(ROLES)}) and matches no trained "
            f"parameter of the network; its modules: {modules}"
        )
    return [groups[place] for place in sorted(groups, key=lambda place: place[:2])]


def decay_rates(optimizer: Optimizer) -> None:
    """Multiplies the learning rate of each group by its `lr_scale` of `parameter_groups`. Call it once."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)


def check_settings(groups: Mapping[str, Mapping[str, Any]], optimizer: Optimizer) -> None:
    """Raises ValueError for what a group sets and the optimizer does not know: torch lets it pass."""
    for key, settings in groups.items():
        for name in settings.keys() - optimizer.defaults.keys():
            raise ValueError(
                f"model.parameter_groups.{key}.{name} is not a setting of {type(optimizer).__name__}: there are "
                f"{', '.join(optimizer.defaults)}"
            )


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern names a parameter, or a module that it is in."""
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _role(owner: nn.Module, parameter: Parameter) -> Role:
    if isinstance(owner, NORMS):
        return "norms"
    if isinstance(owner, CONVOLUTIONS + LINEAR):
        if parameter is getattr(owner, "bias", None):
            return "biases"
        if parameter is owner.weight:
            return "filters" if isinstance(owner, CONVOLUTIONS) else "matrices"
    return "biases" if parameter.ndim <= 1 else "others"


def _layers(module: nn.Module) -> dict[Parameter, int]:
    """The number of the layer of each parameter, from 0."""
    layers: dict[Parameter, int] = {}
    number = -1
    for block in _blocks(module):
        number += any(parameter.ndim > 1 for parameter in block.parameters())
        for parameter in block.parameters():
            layers.setdefault(parameter, max(number, 0))
    number = 0
    for parameter in module.parameters():  # those of modules around the blocks belong to the layer before them
        number = layers.setdefault(parameter, number)
    return layers


def _blocks(module: nn.Module, is_item: bool = False) -> Iterator[nn.Module]:
    is_list = isinstance(module, nn.Sequential | nn.ModuleList)
    if is_list or (not is_item and list(module.children())):
        for child in module.children():
            yield from _blocks(child, is_list)
    else:
        yield module
