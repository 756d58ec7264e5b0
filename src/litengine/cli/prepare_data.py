"""Data made ready ahead of a run: in the caches of its source, or written as a stream."""

import time
from pathlib import Path
from typing import get_args

from litengine.training.console import say
from litcnn.data import ImageData
from litengine.data.sources import Split
from litengine.data.sources.records import check_litdata
from litengine.training.run_directory import relative


def prepare(data: ImageData, to: str | None = None) -> None:
    """Downloads, decodes and caches the images, cuts the splits, and says what there is; with `to` it also writes them
    as a stream: training, validation and test images as `data` has them.

    Args:
        data: whose source, `val_fraction`, `folds`, `fold` and `split_seed` say what the splits are.
        to: a folder, or `s3://bucket/folder`.

    Raises:
        ValueError, OSError: where the images cannot be had, or the stream cannot be written.
    """
    if to is not None:
        check_litdata()
    started = time.monotonic()
    data.prepare_data()
    parts = {split: part for split in get_args(Split) if (part := data.part(split)) is not None}
    name = type(data.source).__name__
    counts = ", ".join(f"{split} {len(part.indices):,}" for split, part in parts.items())
    shape = "x".join(map(str, data.source.image_shape))
    say(f"{name}: {counts} images of {shape}, {len(data.class_names)} classes")
    if to is None:
        say(f"{_where(data)} ({time.monotonic() - started:.1f} s)")
        return
    if "train" not in parts:
        raise ValueError(f"{name} has no training images, and a stream needs some")
    from litengine.data.sources.stream_writer import write_stream

    splits = {str(split): (part.arrays, part.indices) for split, part in parts.items()}
    written = write_stream(splits, data.class_names, data.source.image_shape, to)
    size = f"{written.bytes / 1e6:,.1f} MB in {written.shards:,} shards"
    took = "there already" if written.seconds is None else f"{written.seconds:.1f} s"
    say(f"stream: {to}, {size} ({took})")
    say(f"train from it with: --data.source litengine.data.Stream --data.source.root {to}")


def _where(data: ImageData) -> str:
    place = data.source.location()
    if place is None:
        return "ready: there is nothing to keep on the disk"
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return f"ready: {relative(Path(place))}, {sum(path.stat().st_size for path in files) / 1e6:,.1f} MB"
