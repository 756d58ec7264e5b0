"""Cost of each augmentation, in images per second of one CPU thread, and a picture of each.

python benchmarks/augment.py docs/images/augment.png
"""

import platform
import sys
import time
from datetime import date

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision.transforms import v2

from litcnn import augment
from litengine.data import Augment, Draw

BATCH = 512
SHOWN = 7  # images of a row, after the original
SECONDS = 0.5
AUGMENTS: dict[str, Augment] = {
    "litcnn.augment.RandomFlip": augment.RandomFlip(),
    "litcnn.augment.RandomCrop": augment.RandomCrop(4),
    "litcnn.augment.Cutout": augment.Cutout(12),
    "litcnn.augment.RandomErasing": augment.RandomErasing(1.0),
    "litcnn.augment.RandomResizedCrop": augment.RandomResizedCrop(),
    "litcnn.augment.RandomRotation": augment.RandomRotation(30),
    "litcnn.augment.ColorJitter": augment.ColorJitter(0.4, 0.4, 0.4),
    "torchvision.transforms.v2.TrivialAugmentWide": augment.PerImage(v2.TrivialAugmentWide()),
    "torchvision.transforms.v2.RandAugment": augment.PerImage(v2.RandAugment()),
    "torchvision.transforms.v2.RandomPerspective": augment.PerImage(v2.RandomPerspective()),
}


def draw(count: int, epoch: int = 0) -> Draw:
    return Draw(0, epoch, 0, count, slice(0, count), np.arange(count), torch.device("cpu"))


def images_per_second(change: Augment, images: Tensor) -> float:
    change(images, draw(len(images)))  # what is made at the first call
    started, epochs = time.process_time(), 0
    while time.process_time() - started < SECONDS:
        epochs += 1
        change(images, draw(len(images), epochs))
    return epochs * len(images) / (time.process_time() - started)


def photograph(size: int) -> Tensor:
    """uint8 (3, size, size): a photograph that comes with scikit-learn."""
    pixels = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)
    resized: Tensor = v2.Resize(size, antialias=True)(v2.CenterCrop(400)(pixels))
    return resized


def main(target: str | None = None) -> None:
    torch.set_num_threads(1)
    images = photograph(32).expand(BATCH, 3, 32, 32).contiguous()
    print(f"{platform.processor() or platform.machine()}, one thread, torch {torch.__version__}, {date.today()}")
    for name, change in AUGMENTS.items():
        print(f"| `{name}` | {float(f'{images_per_second(change, images):.2g}'):,.0f} |", flush=True)
    if target:
        original = photograph(64)
        figure, axes = plt.subplots(len(AUGMENTS), 1 + SHOWN, figsize=(9, 9), layout="constrained")
        for (name, change), row in zip(AUGMENTS.items(), axes, strict=True):
            changed = change(original.expand(SHOWN, 3, 64, 64).contiguous(), draw(SHOWN))
            row[0].set_title(name.rpartition(".")[2], loc="left", fontsize=9)
            for axis, image in zip(row, [original, *changed], strict=True):
                axis.imshow(image.permute(1, 2, 0))
                axis.axis("off")
        figure.savefig(target, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
