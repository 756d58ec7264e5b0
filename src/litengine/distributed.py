"""Sums and maxima over the processes of a run, by torch.distributed.

Lightning's `all_gather` calls functions that torch deprecates, and its `reduce` waits for all processes twice.
"""

from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist


def gathered(value: Tensor) -> Tensor:
    """Tensors of one shape, one from each process: (processes, …)."""
    if not _several():
        return value[None]
    everywhere = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, value.contiguous())
    return torch.stack(everywhere)


def reduced(value: Tensor, operation: Literal["sum", "max"]) -> Tensor:
    """The elementwise sum or maximum of a tensor over all processes."""
    if _several():
        value = value.clone()
        dist.all_reduce(value, getattr(dist.ReduceOp, operation.upper()))
    return value


def share(count: int, device: torch.device) -> Tensor | float:
    """This process's share of the global batch, 0 to 1. Does not wait for the device.

    The mean over this process's items times its share, summed over the processes, is the mean over all items.
    """
    if not _several():
        return 1.0
    return count / reduced(torch.full((), count, device=device), "sum")  # torch.full copies nothing from the host


def largest(number: int, device: torch.device) -> int:
    """The largest number, 0 or more, of all processes. Waits for the device."""
    if not _several():
        return number
    return int(reduced(torch.tensor(number, device=device), "max"))


def is_lost_process(error: BaseException) -> bool:
    """Whether an exception comes from communication with another process, which has probably ended."""
    # gloo raises plain RuntimeErrors whose text names its source file
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
