"""Parts of a network that are not trained for a while."""

import math
from collections.abc import Sequence

from torch import nn

from litengine.optim.groups import matches


class Frozen:
    """The trainable parameters of a network whose names match a pattern, and the modules that consist of them alone.

    Args:
        network: whose names are matched.
        patterns: such as `layer1.*` or `stem*`; a module's name stands for everything in it.
        until: the epoch (from 0) in which they are trained again; None for never.

    Raises:
        ValueError: for a pattern that matches nothing, patterns that match everything, and `until` without patterns.
    """

    def __init__(self, network: nn.Module, patterns: Sequence[str] = (), until: int | None = None) -> None:
        trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
        for pattern in patterns:
            if not any(matches(name, pattern) for name in trainable):
                modules = ", ".join(name for name, _ in network.named_children())
                raise ValueError(
                    f"model.freeze {pattern!r} matches no parameter of the network; its modules: {modules}"
                )
        self.parameters = [p for name, p in trainable.items() if any(matches(name, pattern) for pattern in patterns)]
        if until is not None and not patterns:
            raise ValueError(f"model.unfreeze_at_epoch {until} has no effect without model.freeze: leave it out")
        if patterns and len(self.parameters) == len(trainable):
            raise ValueError(f"model.freeze {[*patterns]} leaves nothing to train: leave out the head, for example")
        self.until = math.inf if until is None else until
        self.active = False
        frozen, others = set(self.parameters), set(trainable.values()) - set(self.parameters)
        own = {module: set(module.parameters()) for module in network.modules()}
        self._modules = [module for module, its in own.items() if its & frozen and not its & others]

    def begin(self, epoch: int) -> None:
        """Freezes the parameters or makes them trainable, whichever is due in this epoch."""
        if self.active and epoch >= self.until:
            for module in self._modules:
                module.train()
        self.active = epoch < self.until
        for parameter in self.parameters:
            parameter.requires_grad_(not self.active)
        self.hold()

    def hold(self) -> None:
        """Puts frozen modules into evaluation mode, in which BatchNorm keeps its statistics. `train()` undoes it."""
        if self.active:
            for module in self._modules:
                module.eval()
