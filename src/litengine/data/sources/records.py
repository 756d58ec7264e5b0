"""Records of LitData's datasets, one at a time, asked for by any thread, out of a folder or an object store."""

import json
import re
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

NEVER = 2**60  # bytes; LitData empties its cache beyond so many, under the hands of other processes
ATTEMPTS = 8  # at a request, over half a minute; LitData would try a thousand times, without a word


def is_remote(place: str) -> bool:
    """Whether it is the address of an object store, and no folder."""
    return re.match(r"[a-z0-9]{2,}:", place) is not None


def check_litdata() -> None:
    """Raises ValueError where LitData is not installed."""
    if find_spec("litdata") is None:
        raise ValueError('a stream needs LitData: pip install -e ".[stream]"')


class Records:
    """The datasets that lie beside each other under `root`.

    Args:
        root: a folder, or the address of an object store (`s3://bucket/folder`).
        cache_dir: where the indices of datasets in an object store are kept.
    """

    def __init__(self, root: str, cache_dir: Path) -> None:
        self.is_remote = is_remote(root)
        self.root = root.rstrip("/") if self.is_remote else str(Path(root).expanduser())
        self.cache_dir = cache_dir
        self._datasets = threading.local()  # LitData's are not made for several threads
        self._locally: set[str] = set()  # names of datasets whose index is in the cache

    def read(self, name: str, number: int) -> dict[str, Tensor]:
        """A record of the dataset `name`; of a folder it is memory-mapped. Raises whatever the store does."""
        try:
            record: dict[str, Tensor] = self._dataset(name)[number]
            return record
        except Exception:
            if not self.is_remote:
                _check(Path(self.root) / name, number)
            raise

    def beside(self, name: str) -> Path:
        """The folder with the index of the dataset `name` of an object store; LitData empties it when that is replaced
        by another one."""
        return Path(self._dataset(name).input_dir.path)

    def _dataset(self, name: str) -> Any:
        opened: dict[str, Any] = vars(self._datasets)  # this thread's own
        if name not in opened:
            if self.is_remote and name not in self._locally:
                self.cache_dir.mkdir(parents=True, exist_ok=True)
                # who opens a dataset that was replaced empties its cache, under the hands of all who open it too
                with FileLock(self.cache_dir / ".litdata.lock"):
                    opened[name] = self._open(name)
                self._locally.add(name)
            else:
                opened[name] = self._open(name)
        return opened[name]

    def _open(self, name: str) -> Any:
        from litdata import StreamingDataset

        return StreamingDataset(
            f"{self.root}/{name}",
            cache_dir=str(self.cache_dir),
            # what is pickled could run code, and the stream may be anybody's
            serializers={"pickle": Refuse(), "graph": Refuse()},
            max_cache_size=NEVER,
            storage_options=self._options(),
        )

    def _options(self) -> dict[str, Any]:
        if not self.root.startswith("s3:"):
            return {}
        from botocore.config import Config

        return {"config": Config(retries={"total_max_attempts": ATTEMPTS, "mode": "standard"})}


class Refuse:
    """A serializer, as LitData wants them, that opens nothing."""

    def setup(self, metadata: Any) -> None: ...

    def can_serialize(self, item: Any) -> bool:
        return False

    def deserialize(self, data: bytes) -> Any:
        raise ValueError("it holds pickled objects, which are not opened")


def _check(folder: Path, number: int) -> None:
    """Says what is wrong with a file; LitData calls it a download that hangs."""
    chunk = json.loads((folder / "index.json").read_text())["chunks"][number]
    file = folder / chunk["filename"]
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there")
    if file.stat().st_size != chunk["chunk_bytes"]:
        raise OSError(f"{file} has {file.stat().st_size:,} bytes in place of {chunk['chunk_bytes']:,}")
