"""What several processes know together, by torch.distributed itself.

Lightning's `all_gather` calls what torch deprecates, and its `reduce` waits for all processes twice.
"""

from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist


def gathered(value: Tensor) -> Tensor:
    """A tensor of the same shape in every process, from all of them: (processes, …)."""
    if not _several():
        return value[None]
    everywhere = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, value.contiguous())
    return torch.stack(everywhere)


def reduced(value: Tensor, operation: Literal["sum", "max"]) -> Tensor:
    """Element by element the sum, or the largest, of a tensor of all processes."""
    if _several():
        value = value.clone()
        dist.all_reduce(value, getattr(dist.ReduceOp, operation.upper()))
    return value


def share(count: int, device: torch.device) -> Tensor | float:
    """The part of all items that the `count` of this process are, 0 to 1: means over its items, times this, sum up to
    the mean over all items. Waits for nothing."""
    if not _several():
        return 1.0
    return count / reduced(torch.full((), count, device=device), "sum")  # made without a copy, which would wait


def largest(number: int, device: torch.device) -> int:
    """The largest of a number, 0 or more, of all processes. Waits for the device, which is that of this process."""
    if not _several():
        return number
    return int(reduced(torch.tensor(number, device=device), "max"))


def is_sharded(value: Tensor) -> bool:
    """Whether a process has only a part of it (a DTensor)."""
    return hasattr(value, "full_tensor")


def tells_of_lost_process(error: BaseException) -> bool:
    """Whether an exception comes from talking to another process, which has mostly ended, with its own words why."""
    # what gloo raises has no type of its own, but names its source file
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
