"""The file format of a stream: LitData datasets of one record a chunk. Nothing in a stream is trusted: the index is
validated, no serializer of LitData is used, and the caller checks what is read."""

import json
import re
from importlib.util import find_spec
from math import prod

import numpy as np

UINT8 = 11  # LitData's number of the type
MOST_DIMENSIONS = 4  # (N, C, H, W); the product of a million others takes minutes


def is_remote(place: str) -> bool:
    """Whether it is the address of an object store, and no folder."""
    return re.match(r"[a-z0-9]{2,}:", place) is not None


def check_litdata() -> None:
    """Raises ValueError if LitData is not installed."""
    if find_spec("litdata") is None:
        raise ValueError("a stream needs LitData: pip install -e '.[stream]'")


def parse_index(text: bytes) -> list[tuple[str, int]]:
    """File name and size in bytes of each chunk of a LitData dataset, from its index.json.

    Raises ValueError if it is damaged, or names files as `write_stream` does not: they may lead elsewhere.
    """
    try:
        chunks = [(chunk["filename"], chunk["chunk_bytes"]) for chunk in json.loads(text)["chunks"]]
        known = all(re.fullmatch(r"chunk-\d+-\d+\.bin", name, re.ASCII) and type(size) is int for name, size in chunks)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"its index.json is damaged ({type(error).__name__}: {error})") from error
    if not known:
        raise ValueError(f"its index.json is of another program: it has the chunks {chunks[:3]}")
    return chunks


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
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"the chunk holds a tensor with {dimensions:,} dimensions")
        shape = np.frombuffer(content, ">u4", dimensions, start + 8).tolist()
        if kind != UINT8 or size != 8 + 4 * dimensions + prod(shape):
            raise ValueError("the chunk does not hold uint8 tensors")
        arrays.append(np.frombuffer(content, np.uint8, prod(shape), start + 8 + 4 * dimensions).reshape(shape))
        start += size
    return arrays
