"""What processes know together, by three real ones over gloo; the closed form is on the right."""

from typing import Any

import pytest
import torch
from processes import together
from torch import distributed as dist

from litengine.distributed import gathered, is_lost_process, largest, reduced, share

CPU = torch.device("cpu")
COUNTS = (3, 1, 0)  # items of each process


def in_group() -> int:
    dist.init_process_group("gloo")  # by the environment
    return dist.get_rank()


def everything() -> dict[str, Any]:
    rank = in_group()
    mine = torch.tensor([rank, 10.0 - rank])
    found = {
        "gathered": gathered(mine).tolist(),
        "sum": reduced(mine, "sum").tolist(),
        "max": reduced(mine, "max").tolist(),
        "untouched": mine.tolist() == [rank, 10.0 - rank],
        "largest": largest((0, 15, 10)[rank], CPU),
        "share": float(share(COUNTS[rank], CPU)),
    }
    dist.destroy_process_group()
    return found


def test_all_processes_know_the_same() -> None:
    everywhere = together(3, everything)
    for rank, found in enumerate(everywhere):
        assert found["gathered"] == [[0, 10], [1, 9], [2, 8]]
        assert found["sum"] == [3, 27] and found["max"] == [2, 10] and found["untouched"]
        assert found["largest"] == 15
        assert found["share"] == COUNTS[rank] / 4


def test_a_lone_process_knows_itself() -> None:
    mine = torch.tensor([1.0, 2.0])
    assert gathered(mine).tolist() == [[1, 2]] and reduced(mine, "sum") is mine
    assert largest(15, CPU) == 15 and share(3, CPU) == 1.0


def talk() -> None:
    while True:
        reduced(torch.ones(1), "sum")


def left_alone() -> bool:
    """The second process ends; the first talks to it."""
    rank = in_group()
    dist.barrier()
    if rank == 1:
        return True
    with pytest.raises(RuntimeError) as caught:
        talk()
    return is_lost_process(caught.value)


def test_a_process_that_has_ended_is_told_by_the_error() -> None:
    assert together(2, left_alone, seconds=30) == [True, True]


def test_other_errors_tell_of_no_lost_process() -> None:
    for error in (RuntimeError("CUDA error: device-side assert"), ValueError("/gloo/"), OSError()):
        assert not is_lost_process(error)
