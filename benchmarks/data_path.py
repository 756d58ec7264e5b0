"""Images a second of the training data path on the CPU, against torchvision's transforms in a DataLoader.

    python benchmarks/data_path.py                         # random pixels in the shape of CIFAR-10
    python benchmarks/data_path.py --images path/to/images  # real ones, in a folder a class

Both sides hold all images in memory, decoded to uint8, and give shuffled, normalised float32 batches (N, 3, 32, 32),
padded by 4 pixels, randomly cropped and mirrored. Theirs: a PIL image each, RandomCrop(32, padding=4),
RandomHorizontalFlip, ToTensor, Normalize, collated by 2 worker processes that stay from epoch to epoch. Ours:
litengine.data.BatchLoader with RandomCrop and RandomFlip, then the classifier's Normalize, in this process. An epoch of
each in turns; starting the workers is not counted.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
import torchvision
from machine import alternate, arguments, describe, middle, publish, ratio
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from litcnn.augment import RandomCrop, RandomFlip
from litengine.data import Arrays, BatchLoader, ImageFolder
from litengine.normalize import Normalize

WORKERS = 2
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


class PILImages(Dataset[tuple[Tensor, int]]):
    """The images as torchvision's own CIFAR10 gives them: a PIL image each, transformed one by one."""

    def __init__(self, arrays: Arrays) -> None:
        self.images = arrays.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, C, H, W) -> (N, H, W, C)
        self.labels = arrays.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class Ours:
    """Epoch after epoch of the loader's batches, normalised."""

    def __init__(self, arrays: Arrays, batch_size: int) -> None:
        augment = [RandomCrop(4), RandomFlip()]
        self.epoch = 0
        self.loader = BatchLoader(
            arrays.images, arrays.labels, batch_size, shuffle=True, augment=augment, position=lambda: (self.epoch, 0)
        )
        self.normalize = Normalize()
        self.normalize.set(MEAN, STD)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.loader:
            yield self.normalize(images), labels
        self.epoch += 1


def images_a_second(batches: Ours | DataLoader[tuple[Tensor, int]]) -> float:
    """Over one epoch, from asking for the first batch to having the last."""
    started, count = time.perf_counter(), 0
    for images, _ in batches:
        assert images.dtype == torch.float32 and images.shape[1:] == (3, 32, 32)
        count += len(images)
    return count / (time.perf_counter() - started)


def random_pixels(count: int) -> Arrays:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return Arrays(torch.from_numpy(pixels), torch.arange(count) % 10)


def folder(root: str) -> Arrays:
    source = ImageFolder(root)
    source.prepare()
    train = source.load("train")
    assert train is not None
    return train._replace(images=train.images.clone())  # into memory: the file is not a part of the comparison


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--images", metavar="FOLDER", help="real images in place of random pixels")
    args = parser.parse_args()
    arrays = folder(args.images) if args.images else random_pixels(50_000)
    if args.quick:
        args.rounds, arrays = 1, Arrays(arrays.images[:4096], arrays.labels[:4096])

    rows = []
    for batch_size in (128, 1024):
        theirs = DataLoader(PILImages(arrays), batch_size, shuffle=True, num_workers=WORKERS, persistent_workers=True)
        ours = Ours(arrays, batch_size)
        sides = {"ours": lambda ours=ours: images_a_second(ours), "theirs": lambda them=theirs: images_a_second(them)}
        for side in sides.values():  # starts the workers
            side()
        rates = alternate(f"batch {batch_size}", sides, args.rounds)
        shown = [middle(rates[side], "{:,.0f}") for side in ("ours", "theirs")]
        rows.append([str(batch_size), *shown, ratio(rates["ours"], rates["theirs"])])
    pixels = "CIFAR-10-sized images of a folder" if args.images else "random pixels"
    facts = (
        f"{describe(note=args.note)}, torchvision {torchvision.__version__}, {torch.get_num_threads()} torch threads. "
        f"{len(arrays.labels):,} {pixels}; medians of {args.rounds} epochs (least to most)."
    )
    columns = ["batch", "ours, images/s", f"torchvision, {WORKERS} workers, images/s", "ratio"]
    publish("data_path.py", facts, columns, rows, args.write)


if __name__ == "__main__":
    main()
