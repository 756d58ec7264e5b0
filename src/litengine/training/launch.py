"""What the processes of one run must agree on before Lightning makes them a group, such as the run directory."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

PATIENCE = timedelta(minutes=30)  # as torch has for a group; the first process may prepare the data first
_INHERITED = "LITENGINE_AGREED"  # from the first process to those that Lightning starts


def cluster() -> ClusterEnvironment | None:
    """torchrun or srun, if one of them started this process and others; None if Lightning starts the others."""
    found = next((kind() for kind in (TorchElasticEnvironment, SLURMEnvironment) if kind.detect()), None)
    return found if found and found.world_size() > 1 else None


def agree(what: str, decide: Callable[[], str]) -> str:
    """What the first process decides, in every process. `what` names the decision; each is made once.

    Raises:
        OSError: if the first process cannot be reached, or has not decided within 30 minutes.
        SystemExit: in the other processes if `decide` raises in the first one, with the same exit code.
    """
    group = cluster()
    if group is None:
        decisions = json.loads(os.environ.get(_INHERITED) or "{}")
        if what not in decisions or os.environ.get("LOCAL_RANK", "0") == "0":
            decisions[what] = decide()
            os.environ[_INHERITED] = json.dumps(decisions)
        return str(decisions[what])
    rank, where = group.global_rank(), f"{group.main_address}:{group.main_port}"
    key = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT')} {what}"  # torchrun keeps the store over a restart
    try:
        store = _store(group.main_address, group.main_port, rank == 0)
        if rank == 0:
            return _decided(store, key, decide, [f"{key} {other}" for other in range(1, group.world_size())])
        answer = json.loads(store.get(key))
        store.set(f"{key} {rank}", "read")
    except DistError as error:
        raise OSError(f"process {rank} cannot agree with the others at {where} on the {what}: {error}") from None
    if "exit" in answer:
        raise SystemExit(answer["exit"])
    return str(answer["value"])


def _decided(store: TCPStore, key: str, decide: Callable[[], str], read: list[str]) -> str:
    """The decision of this process, after all others have read it: the store ends with this process."""
    try:
        value = decide()
    except BaseException as error:
        store.set(key, json.dumps({"exit": error.code if isinstance(error, SystemExit) else 1}))
        with suppress(DistError):
            store.wait(read, timedelta(seconds=10))
        raise
    store.set(key, json.dumps({"value": value}))
    store.wait(read, PATIENCE)
    return value


@cache  # it lives as long as the process; Lightning's group uses it too
def _store(address: str, port: int, is_first: bool) -> TCPStore:
    hosts = is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return TCPStore(address, port, is_master=hosts, timeout=PATIENCE, wait_for_workers=False, multi_tenant=True)
