"""What the processes of one run must agree on before Lightning makes them a group, such as the run directory."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

MEETING = timedelta(minutes=10)  # for all to start; torchrun's own time for machines to join
DECISION = timedelta(minutes=30)  # for the first process, which may prepare data before; torch's own for a group
FAREWELL = timedelta(seconds=10)
_INHERITED = "LITCNN_AGREED"  # from the process of rank 0 to those that it starts itself


class Group(NamedTuple):
    """The processes that torchrun or srun started, and where they meet."""

    rank: int
    size: int
    address: str
    port: int
    hosted: bool  # whether torchrun keeps a store there; else the first process does
    attempt: str


def agree(what: str, decide: Callable[[], str]) -> str:
    """What the first process decides; the others wait for it and get the same.

    It knows processes started by Lightning (`--trainer.devices 2`), by torchrun and by srun.

    Args:
        what: is decided, in a few words; each is decided once.
        decide: called by the first process alone. Where it raises, the others end without words of their own.

    Raises:
        OSError: where a process is not heard of within ten minutes, or the decision not within thirty.
    """
    group = group_of_this_process()
    if group is not None:
        return _decided_by_first(group, what, decide)
    decisions = json.loads(os.environ.get(_INHERITED) or "{}")
    if what not in decisions or os.environ.get("LOCAL_RANK", "0") == "0":
        decisions[what] = decide()
        os.environ[_INHERITED] = json.dumps(decisions)
    return str(decisions[what])


def group_of_this_process() -> Group | None:
    """None where it runs alone, or where Lightning itself starts the others."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        # the same store serves processes that are started again: it still holds what was decided before
        attempt = os.environ["TORCHELASTIC_RESTART_COUNT"] if hosted else "0"
        rank, size, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        group = Group(rank, size, os.environ["MASTER_ADDR"], port, hosted, attempt)
    # in jobs of these names Lightning starts its own processes
    elif "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment()
        group = Group(slurm.global_rank(), slurm.world_size(), slurm.main_address, slurm.main_port, False, "0")
    else:
        return None
    return group if group.size > 1 else None


def check_size(machines: int, processes: int) -> None:
    """Compares what the Trainer will wait for with what was started: with too few it would wait for half an hour.

    Args:
        machines: trainer.num_nodes.
        processes: trainer.devices, on each of them.

    Raises:
        ValueError: where the one is not the other.
    """
    group = group_of_this_process()
    if group is None and machines > 1:
        raise ValueError(
            f"trainer.num_nodes is {machines}, but this process was started alone: start it on each machine with "
            "torchrun, or all with srun (docs/scale.md), or leave it to this machine with --trainer.num_nodes 1"
        )
    if group is not None and group.size != machines * processes:
        raise ValueError(
            f"{group.size} processes were started, but trainer.num_nodes {machines} times trainer.devices {processes} "
            f"is {machines * processes}: set both to what torchrun or srun were told"
        )


def _decided_by_first(group: Group, what: str, decide: Callable[[], str]) -> str:
    from torch.distributed import DistError

    store, key = _meet(group), f"litcnn {group.attempt} {what}"
    if group.rank == 0:
        try:
            decision = decide()
        except BaseException as error:
            store.set(key, json.dumps({"exit": error.code if isinstance(error, SystemExit) else 1}))
            with suppress(DistError):  # the store ends with this process
                store.wait([f"{key} is known to {rank}" for rank in range(1, group.size)], FAREWELL)
            raise
        store.set(key, json.dumps({"decision": decision}))
        return decision
    try:
        store.wait([key], DECISION)
    except DistError as error:
        raise OSError(
            f"process {group.rank} of {group.size} was not told the {what} by the first one, process 0, within "
            f"{_minutes(DECISION)}: {_first_line(error)}"
        ) from None
    answer = json.loads(store.get(key))
    if "exit" in answer:
        store.set(f"{key} is known to {group.rank}", "")
        raise SystemExit(answer["exit"])
    return str(answer["decision"])


@cache  # kept as long as the process, whose store Lightning will use too
def _meet(group: Group) -> Any:
    """The TCPStore of all processes, once each has come."""
    from torch.distributed import DistError, DistStoreError, TCPStore  # type: ignore[attr-defined]

    who, where = f"process {group.rank} of {group.size}", f"{group.address}:{group.port}"
    hosts = group.rank == 0 and not group.hosted
    present = [f"litcnn {group.attempt} process {rank}" for rank in range(group.size)]
    try:
        store = TCPStore(
            group.address, group.port, is_master=hosts, timeout=MEETING, wait_for_workers=False, multi_tenant=True
        )
        store.set(present[group.rank], "here")
        try:
            store.wait(present, MEETING)
        except DistStoreError:
            missing = [str(rank) for rank, key in enumerate(present) if not store.check([key])]
            raise OSError(
                f"{who} (counted from 0) waited {_minutes(MEETING)} at {where} for {', '.join(missing)}. Did they "
                "start (in a SLURM job: with srun), and does a firewall let them through?"
            ) from None
    except DistError as error:
        raise OSError(
            f"{who} cannot meet the others at {where}: {_first_line(error)}. Did process 0 start there, does it still "
            "run, and does a firewall let them through?"
        ) from None
    return store


def _minutes(time: timedelta) -> str:
    return f"{round(time.total_seconds() / 60, 2):g} minutes"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
