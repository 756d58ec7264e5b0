"""Makes the two folders of configs/finetune.yaml from the training images of CIFAR-10: links, no copies.

    python benchmarks/five_classes.py data/cifar10-original data/five-classes

`pretrain` has all training images of five classes. `finetune` has 50 training images of each of the other five
classes, drawn with seed 0, and 4,400 others of each class as test images. `tune` has 50 and 500 others: the settings
of the config were chosen there.
"""

import os
import random
import sys
from pathlib import Path

PRETRAIN = ("airplane", "automobile", "bird", "cat", "deer")
FINETUNE = ("dog", "frog", "horse", "ship", "truck")


def link(images: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for image in images:
        os.link(image, folder / image.name)


def main(source: Path, target: Path) -> None:
    for name in PRETRAIN:
        link(sorted((source / "train" / name).iterdir()), target / "pretrain/train" / name)
    for name in FINETUNE:
        images = sorted((source / "train" / name).iterdir())
        random.Random(0).shuffle(images)
        link(images[:50], target / "finetune/train" / name)
        link(images[50:100], target / "tune/train" / name)
        link(images[100:600], target / "tune/test" / name)
        link(images[600:], target / "finetune/test" / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
