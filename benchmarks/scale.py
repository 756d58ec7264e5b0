"""How time and memory grow with the number of images: preparing them, and one epoch of training batches.

    python benchmarks/scale.py --write docs/scale.md --plot docs/images/scale.png
    python benchmarks/scale.py --image-size 224 --numbers 2000 --write docs/scale.md   # what a million would take

Generated JPEG files in ten folders, twice as large a side as the images made of them. Four steps, each in a process of
its own and one after the other:

- fill the cache: what `prepare` does: as many processes as there are cores decode the files into one array on the disk
- memory-mapped epoch: litengine.data.BatchLoader over that array, shuffled, batches of 128, RandomCrop and RandomFlip
- write a stream: what `prepare --to FOLDER` does after that
- streamed epoch: the same batches from the shards in that folder

No network is trained. Memory is the most that the process had to itself (RssAnon), its imports included: what it has
mapped from files is left out, for the system takes that back when it needs room. Files are read soon after they were
written, so most come from the system's memory, not from the disk.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import numpy as np
import torch
from machine import absolute, arguments, describe, publish
from PIL import Image

from litcnn.augment import RandomCrop, RandomFlip
from litcnn.data import ImageData
from litengine.cli.prepare import prepare
from litengine.data import BatchLoader, ImageFolder, Source, Stream

FILES, STREAM = "files", "stream"
MILLION = 1_000_000


class Cost(NamedTuple):
    """Seconds, and the most bytes of memory that a process had to itself."""

    seconds: float
    memory: int


def write_files(number: int, image_size: int) -> None:
    """JPEG files of soft noise, in ten folders; 200 different ones, again and again."""
    generator, contents = np.random.default_rng(0), []
    for _ in range(min(number, 200)):
        noise = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        file = BytesIO()
        noise.resize((2 * image_size, 2 * image_size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
        contents.append(file.getvalue())
    for folder in range(10):
        Path(FILES, f"class{folder}").mkdir(parents=True)
    for index in range(number):
        Path(FILES, f"class{index % 10}", f"{index:07}.jpg").write_bytes(contents[index % len(contents)])


def fill_cache(image_size: int) -> None:
    folder(image_size).prepare()


def write_stream(image_size: int) -> None:
    prepare(ImageData(folder(image_size), val_fraction=0), STREAM)


def mapped_epoch(image_size: int) -> None:
    epoch(folder(image_size))


def streamed_epoch(_: int) -> None:
    epoch(Stream(STREAM))


def folder(image_size: int) -> ImageFolder:
    return ImageFolder(FILES, image_size, test_fraction=0)


def epoch(source: Source) -> None:
    source.prepare()
    arrays = source.load("train")
    assert arrays is not None
    augment = [RandomCrop(4), RandomFlip()]
    for _ in BatchLoader(arrays.images, arrays.labels, 128, shuffle=True, augment=augment):
        pass


STEPS: dict[str, Callable[[int], None]] = {
    "fill the cache": fill_cache,
    "memory-mapped epoch": mapped_epoch,
    "write a stream": write_stream,
    "streamed epoch": streamed_epoch,
}


def cost(step: str, image_size: int) -> Cost:
    """Of a step, in a process that begins as a copy of this one, with everything imported."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(watched(STEPS[step], image_size)))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise RuntimeError(f"{step} failed: its error stands above") from None
    finally:
        process.join()


def watched(step: Callable[[int], None], image_size: int) -> Cost:
    """Of a step, in this process."""
    ended, most = Event(), [own_memory()]

    def watch() -> None:
        while not ended.wait(0.01):
            most[0] = max(most[0], own_memory())

    watcher = Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        with redirect_stdout(sys.stderr):  # which has the table
            step(image_size)
        return Cost(time.perf_counter() - started, max(most[0], own_memory()))
    finally:
        ended.set()
        watcher.join()


def own_memory() -> int:
    """Bytes that this process has to itself now."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise ValueError("memory is read from /proc: this script needs Linux")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) * 1024


def measure(numbers: Sequence[int], image_size: int) -> dict[int, dict[str, Cost]]:
    found: dict[int, dict[str, Cost]] = {}
    before = Path.cwd()
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="litcnn-scale-") as directory:
            os.chdir(directory)
            write_files(number, image_size)
            found[number] = {}
            for step in STEPS:
                print(f"{number:,} images: {step}", file=sys.stderr)
                found[number][step] = cost(step, image_size)
            os.chdir(before)
    return found


def table(found: dict[int, dict[str, Cost]], image_size: int) -> list[list[str]]:
    """A row a number of images, and what a million would take at the rates of the most."""
    rows = []
    for number, costs in found.items():
        cells = [
            f"{one.seconds:,.1f} s, {number / one.seconds:,.0f}/s, {one.memory / 2**20:,.0f} MiB"
            for one in costs.values()
        ]
        rows.append([f"{number:,}", size(number, image_size), *cells])
    most = max(found)
    if most < MILLION:
        times = [f"{one.seconds * MILLION / most / 60:,.1f} min" for one in found[most].values()]
        rows.append([f"{MILLION:,}, computed", size(MILLION, image_size), *times])
    return rows


def size(number: int, image_size: int) -> str:
    return f"{number * 3 * image_size**2 / 1e9:,.3g} GB"


def draw(found: dict[int, dict[str, Cost]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for step in STEPS:
        costs = [costs[step] for costs in found.values()]
        seconds.plot(list(found), [one.seconds for one in costs], "o-", label=step)
        memory.plot(list(found), [one.memory / 2**20 for one in costs], "o-", label=step)
    seconds.set(xscale="log", yscale="log", ylabel="seconds", title="Time")
    memory.set(xscale="log", ylabel="MiB", title="Memory of the process")
    memory.set_ylim(0, 1.15 * memory.get_ylim()[1])
    seconds.yaxis.set_major_formatter("{x:,g}")
    seconds.legend(frameon=False)
    for axes in (seconds, memory):
        axes.set_xlabel("images")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main(args: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--numbers", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="of images")
    parser.add_argument("--image-size", type=int, default=64, help="height and width of the images, in pixels")
    parser.add_argument("--plot", type=absolute, metavar="PNG", help="a picture of the table")
    given = parser.parse_args(args)
    torch.set_num_threads(1)
    numbers = [20, 50] if given.quick else sorted(given.numbers)
    found = measure(numbers, given.image_size)
    facts = f"{describe(note=given.note)}, 1 torch thread. Measured once; seconds, images a second, memory."
    columns = ("images", "pixels", *STEPS)
    publish(f"scale.py {given.image_size} pixels", facts, columns, table(found, given.image_size), given.write)
    if given.plot:
        draw(found, given.plot)


if __name__ == "__main__":
    main()
