"""Weights spread over processes (FSDP): each keeps a part of every layer, and has the whole one while it runs.

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel"; by torch's `fully_shard`, through
Lightning's ModelParallelStrategy, which leaves the cutting to the model. Its FSDPStrategy would need none of this, but
starts on GPUs only, so that nothing here could test it, and hands optimizers flat pieces, of which Muon can use none.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from litengine.training import checkpoint_files as checkpoint

SMALLEST = 100_000  # parameters that are worth a message of their own
LARGEST = 25_000_000  # parameters that come in one message
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # whose members may be called without them


class FullySharded(ModelParallelStrategy):
    """Trains with the weights of `ImageClassifier.network` spread over all processes. Checkpoints are as those of one
    process, and each goes on from the other's.

    Args:
        timeout: how long a process waits for the others.
    """

    def __init__(self, timeout: timedelta = timedelta(minutes=30)) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=timeout)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Lightning's own verifies no file, and takes the numbers of an optimizer's state for places in the network:
        with parameters in groups a checkpoint of one process does not load, or loads mixed up."""
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        whole, options = checkpoint.read(checkpoint_path), StateDictOptions(full_state_dict=True)
        assert self.model is not None
        set_model_state_dict(self.model, whole["state_dict"], options=options)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, whole.get("optimizer_states", []), strict=False):
            set_optimizer_state_dict(self.model, optimizer, _by_name(state, optimizer, names), options=options)
        return whole


def _by_name(state: dict[str, Any], optimizer: Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Any]:
    """An optimizer's state dict with the names of its parameters in place of their numbers, whatever these are."""
    name_of = {
        number: names[parameter]
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
        for parameter, number in zip(group["params"], saved["params"], strict=True)
    }
    return {
        "state": {name_of[number]: kept for number, kept in state["state"].items()},
        "param_groups": [{**g, "params": [name_of[number] for number in g["params"]]} for g in state["param_groups"]],
    }


def shard(network: nn.Module, device: torch.device, processes: int) -> None:
    """Spreads the weights of a network, and with them what an optimizer keeps, over all processes.

    The network keeps its class, names and shapes. It must have the same weights in all processes, and be called as a
    whole. A second call does nothing.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(network, FSDPModule):
        return
    network.to(memory_format=torch.contiguous_format)  # no other can be cut
    mesh = init_device_mesh(device.type, (processes,))
    for unit in units(network):
        fully_shard(unit, mesh=mesh)
    fully_shard(network, mesh=mesh)


def run_with_others(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What `run` makes of images, row by row. A process may have none where a batch is small: networks cannot be relied
    on to take none, yet where weights are spread every process must run them."""
    return run(images) if len(images) else run(images.new_zeros(1, *images.shape[1:]))[:0]


def units(network: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of a network that have no more than `LARGEST` parameters: the blocks of a large one. What is in
    none of them comes with the network itself."""
    for child in network.children():
        size = sum(parameter.numel() for parameter in child.parameters())
        if size > LARGEST or isinstance(child, CONTAINERS):
            yield from units(child)
        elif size >= SMALLEST:
            yield child
