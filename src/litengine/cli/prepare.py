"""The verb `prepare`: the data of a config, made ready ahead of a run; all options that are not its own are fit's."""

import argparse
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from litengine.cli.trainer import CLI
from litcnn.data import ImageData
from litengine.cli.prepare_data import prepare

EPILOG = """\
All other options and configs are those of fit (main.py fit --help); what concerns the data is used.

  main.py prepare --config configs/cnn.yaml                                # download, decode, cache
  main.py prepare --config configs/cnn.yaml --to s3://bucket/cifar10       # write a stream
  main.py fit --config configs/cnn.yaml --data.source litengine.data.Stream --data.source.root s3://bucket/cifar10
"""


def run_verb(args: list[str]) -> None:
    """Runs a command line that begins with `prepare`."""
    parser = argparse.ArgumentParser(
        "main.py prepare",
        usage="main.py prepare --config CONFIG [--to PLACE] [options of fit]",
        description="Download and decode the images of a config ahead of a run, as on a machine that has a network "
        "but no GPU; or write them as a stream.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--to", metavar="PLACE", help="Folder or s3://bucket/folder that gets the images as a stream.")
    options, rest = parser.parse_known_args(args[1:])
    PrepareCLI(["fit", *rest], options.to)


class PrepareCLI(CLI):
    """Understands what a fit would, and makes nothing but the data."""

    def __init__(self, args: list[str], to: str | None) -> None:
        self.to = to
        super().__init__(args)

    def before_instantiate_classes(self) -> None:
        """Nothing: there is no network and no run directory."""

    def instantiate_classes(self) -> None:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(ImageData, "data")
        self.datamodule = parser.instantiate(parser.parse_object({"data": self.config.fit.data})).data
        self.config_init, self.model = self.config, None
        self.trainer = Trainer  # type: ignore[assignment]  # asked for nothing but its `fit`, and ours is used

    def fit(self, **kwargs: Any) -> None:
        prepare(self.datamodule, self.to)

    def after_fit(self) -> None:
        """Nothing: there is no checkpoint."""
