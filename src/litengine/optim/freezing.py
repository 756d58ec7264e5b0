"""Parts of a network that are not trained for a while."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn


class Frozen:
    """The trainable parameters of a network whose names match a pattern, and the modules that consist of them alone.

    Args:
        network: whose names are matched.
        patterns: such as `layer1.*` or `stem*`; a module's name stands for everything in it.

    Raises:
        ValueError: for a pattern that matches nothing.
    """

    def __init__(self, network: nn.Module, patterns: Sequence[str]) -> None:
        trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        for pattern in patterns:
            if not any(_matches(name, pattern) for name in trainable):
                modules = ", ".join(name for name, _ in network.named_children())
                raise ValueError(
                    f"model.freeze {pattern!r} matches no parameter of the network; its modules: {modules}"
                )
        chosen = {name for name in trainable if any(_matches(name, pattern) for pattern in patterns)}
        self.parameters = [trainable[name] for name in sorted(chosen)]
        ids = {id(parameter) for parameter in self.parameters}
        self._modules = [
            module
            for module in network.modules()
            if (parameters := [p for p in module.parameters() if id(p) in ids or p.requires_grad])
            and all(id(parameter) in ids for parameter in parameters)
        ]
        self.active = False

    def apply(self, active: bool) -> None:
        """Freezes the parameters, or makes them trainable."""
        if self.active and not active:
            for module in self._modules:
                module.train()
        self.active = active
        for parameter in self.parameters:
            parameter.requires_grad_(not active)
        self.hold()

    def hold(self) -> None:
        """Puts frozen modules into evaluation mode, in which BatchNorm keeps its statistics. `train()` undoes it."""
        if self.active:
            for module in self._modules:
                module.eval()


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
