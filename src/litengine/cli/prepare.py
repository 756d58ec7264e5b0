"""The verb `prepare`: the data of a config, made ready ahead of a run. It takes all options of fit too."""

import time
from typing import Any, get_args

from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from litengine import project
from litengine.cli.trainer import CLI
from litengine.data import Split
from litengine.data.sources.stream_files import check_litdata
from litengine.datamodule import ClassificationData
from litengine.files import relative
from litengine.terminal import print_line


class PrepareCLI(CLI):
    """Understands what a fit would, and makes nothing but the data."""

    leaves_run = False

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        help = "Folder or s3://bucket/folder that gets the images as a stream."
        parser.add_argument("--to", type=str | None, metavar="PLACE", help=help)

    def instantiate_classes(self) -> None:  # no network, and no run directory
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(project.data_class(), "data")
        self.datamodule = parser.instantiate(parser.parse_object({"data": self.config.fit.data})).data
        self.config_init, self.model = self.config, None
        self.trainer = Trainer  # type: ignore[assignment]  # asked for nothing but its `fit`, and ours is used

    def fit(self, **kwargs: Any) -> None:
        prepare(self.datamodule, self.config.fit.to)


def prepare(data: ClassificationData, to: str | None = None) -> None:
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
    parts = {split: part for split in get_args(Split) if (part := data.subset(split)) is not None}
    name = type(data.source).__name__
    counts = ", ".join(f"{split} {len(part.indices):,}" for split, part in parts.items())
    shape = "x".join(map(str, data.source.image_shape))
    print_line(f"{name}: {counts} images of {shape}, {len(data.class_names)} classes")
    if to is None:
        place, kept = data.source.location(), "there is nothing to keep on the disk"
        if place is not None:
            size = sum(path.stat().st_size for path in [place, *place.rglob("*")] if path.is_file())
            kept = f"{relative(place)}, {size / 1e6:,.1f} MB"
        print_line(f"ready: {kept} ({time.monotonic() - started:.1f} s)")
        return
    if "train" not in parts:
        raise ValueError(f"{name} has no training images, and a stream needs some")
    from litengine.data.sources.stream_writer import write_stream

    splits = {str(split): (part.arrays, part.indices) for split, part in parts.items()}
    written = write_stream(splits, data.class_names, data.source.image_shape, to, data.source.reading)
    took = "there already" if written.seconds is None else f"{written.seconds:.1f} s"
    print_line(f"stream: {to}, {written.bytes / 1e6:,.1f} MB in {written.shards:,} shards ({took})")
    print_line(f"train from it with: --data.source litengine.data.Stream --data.source.root {to}")
