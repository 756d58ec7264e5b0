"""The files of a stream: LitData datasets of one record a chunk, in a folder or an object store. Nothing in a stream is
trusted: the index is validated, no serializer of LitData is used, and the caller checks what is read."""

import hashlib
import json
import re
from functools import cached_property
from importlib.util import find_spec
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

UINT8 = 11  # LitData's number of the type
ATTEMPTS = 8  # at a request, over half a minute


def is_remote(place: str) -> bool:
    """Whether it is the address of an object store, and no folder."""
    return re.match(r"[a-z0-9]{2,}:", place) is not None


def check_litdata() -> None:
    """Raises ValueError if LitData is not installed."""
    if find_spec("litdata") is None:
        raise ValueError("a stream needs LitData: pip install -e '.[stream]'")


class StreamFiles:
    """Chunks of the datasets that lie beside each other under `root`.

    Args:
        root: a folder, or the address of an object store (`s3://bucket/folder`).
        cache_dir: where copies of the files in an object store are kept.
    """

    def __init__(self, root: str, cache_dir: Path) -> None:
        self.is_remote = is_remote(root)
        self.root = root.rstrip("/") if self.is_remote else str(Path(root).expanduser())
        self.cache = cache_dir / f"stream-{hashlib.sha256(self.root.encode()).hexdigest()[:16]}"
        self._indices: dict[str, list[tuple[str, int]]] = {}

    def read(self, name: str, number: int) -> bytes:
        """A chunk of the dataset `name`. Raises OSError, ValueError, or what the object store's client raises."""
        if name not in self._indices:
            self._indices[name] = parse_index(self._read(name, "index.json"))
        chunks = self._indices[name]
        if number >= len(chunks):
            raise ValueError(f"{name}/index.json has {len(chunks)} chunks: there is no number {number}")
        file, size = chunks[number]
        content = self._read(name, file)
        if len(content) != size:
            raise OSError(f"{name}/{file} has {len(content):,} bytes in place of {size:,}")
        return content

    def _read(self, name: str, file: str) -> bytes:
        if not self.is_remote:
            path = Path(self.root, name, file)
            if not path.is_file():  # nor a FIFO, which would never end
                raise FileNotFoundError(f"{path} is not there")
            return path.read_bytes()
        buffer = BytesIO()
        self._downloader.download_fileobj(f"{self.root}/{name}/{file}", buffer)
        return buffer.getvalue()

    @cached_property
    def _downloader(self) -> Any:
        """LitData's, for any of its object stores; safe for several threads."""
        from litdata.streaming.downloader import get_downloader

        if not self.root.startswith("s3:"):
            return get_downloader(self.root, str(self.cache), [])
        from botocore.config import Config

        retries = Config(retries={"total_max_attempts": ATTEMPTS, "mode": "standard"})
        return get_downloader(self.root, str(self.cache), [], {"config": retries})


def parse_index(text: bytes) -> list[tuple[str, int]]:
    """File name and size in bytes of each chunk of a LitData dataset, from its index.json.

    Raises ValueError for anything that `write_stream` does not write: other types than dicts of tensors, compression,
    several records in a chunk, file names that lead elsewhere.
    """
    try:
        index = json.loads(text)
        config, chunks = index["config"], [(chunk["filename"], chunk["chunk_bytes"]) for chunk in index["chunks"]]
        kinds = set(config["data_format"])
        kinds |= {spec["type"] for spec in _specs(json.loads(config["data_spec"])[1])} - {None, "builtins.dict"}
        plain = kinds == {"tensor"} and not config["compression"] and not config["encryption"]
        named = all(re.fullmatch(r"chunk-\d+-\d+\.bin", name, re.ASCII) and type(size) is int for name, size in chunks)
        single = all(chunk["chunk_size"] == 1 for chunk in index["chunks"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"its index.json is damaged ({type(error).__name__}: {error})") from error
    if not (plain and named and single):
        raise ValueError(f"its index.json is of another program: it has {', '.join(map(str, kinds))} in {chunks[:1]}")
    return chunks


def _specs(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec, *(below for child in spec["children_spec"] for below in _specs(child))]


def parse_chunk(content: bytes, tensors: int) -> list[np.ndarray]:
    """The uint8 arrays of a chunk with one record: a table of offsets, the bytes of each tensor (uint32), and for each
    tensor its type, number of dimensions, shape (big-endian uint32) and values. Raises ValueError if it is not such."""
    _, start, end = np.frombuffer(content, "<u4", 3).tolist()
    if end != len(content):
        raise ValueError("the chunk has another size than it says")
    sizes = np.frombuffer(content, "<u4", tensors, start).tolist()
    arrays, start = [], start + 4 * tensors
    for size in sizes:
        kind, dimensions = np.frombuffer(content, ">u4", 2, start).tolist()
        shape = np.frombuffer(content, ">u4", dimensions, start + 8).tolist()
        if kind != UINT8 or size != 8 + 4 * dimensions + prod(shape):
            raise ValueError("the chunk does not hold uint8 tensors")
        arrays.append(np.frombuffer(content, np.uint8, prod(shape), start + 8 + 4 * dimensions).reshape(shape))
        start += size
    return arrays
