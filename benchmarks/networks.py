"""Which networks of torchvision and timm work with nothing but their class path.

    python benchmarks/networks.py --write docs/networks.md              # all of torchvision, one of each timm family
    python benchmarks/networks.py --only torchvision.models.resnet18 timm.models.resnet10t --onnx

Every network gets two batches of a folder of 12 images of three classes: `fit`, `fit --resume last` for a second epoch,
`test`, `predict`, and with --onnx `export`. Images have 64 x 64 pixels; if the network refuses these before the first
step, the size that timm names for it, 224, and then 299. Each network runs in its own process. With --results, each row
goes into a file at once, and a later run with that file does not try its networks again.
"""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from machine import absolute, arguments, describe, publish
from PIL import Image

from litcnn.__main__ import main as program
from litengine.network import import_object

SMALL = ("test_", "atto", "femto", "pico", "nano", "tiny", "_xx", "mini", "small", "_xs", "_s")  # in names of timm
SETTINGS = {
    "data.source": "litengine.data.ImageFolder",
    "data.source.root": "images",
    "data.batch_size": 4,
    "model.optimizer": "torch.optim.SGD",
    "model.optimizer.lr": 0.001,
    "model.lr_scheduler": "null",
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 2,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.logger": "false",
    "trainer.enable_progress_bar": "false",
}
COLUMNS = ["network", "million parameters", "pixels", "fit", "resume", "test", "predict", "onnx", "seconds"]


def parameters(builder: Any) -> int:
    """Of a model with its default arguments; it takes no memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in builder().parameters())


def torchvision_networks() -> Iterator[tuple[str, int]]:
    """Class path and parameters of every classification architecture."""
    for name in torchvision.models.list_models(module=torchvision.models):
        yield f"torchvision.models.{name}", torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]


def timm_networks() -> Iterator[tuple[str, int]]:
    """Class path and parameters of one small model of each family, which is a module of timm."""
    try:
        import timm
    except ImportError:  # an optional package
        return
    for family in timm.list_modules():
        names = sorted(timm.list_models(module=family), key=lambda name: not any(word in name for word in SMALL))
        sizes = {}
        for name in names[:4]:
            with contextlib.suppress(Exception):  # some cannot be built without memory
                sizes[name] = parameters(timm.model_entrypoint(name))
        if names:
            name = min(sizes, key=sizes.__getitem__, default=names[0])
            yield f"timm.models.{name}", sizes.get(name, 0)


def sides(path: str) -> list[int]:
    """The sides of images to try, in pixels."""
    own = []
    if path.startswith("timm."):
        import timm

        settings = timm.get_pretrained_cfg(path.rpartition(".")[2])
        own = [settings.input_size[1]] if settings else []
    return [64, *own, 224, 299]


def timm_families() -> str:
    try:
        import timm
    except ImportError:
        return "timm, which is not installed"
    return f"timm {timm.__version__}, which has {len(timm.list_modules())} families"


def make_images(root: Path) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in "abc":
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(4 if split == "train" else 1):
                pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")


def steps(path: str, size: int, onnx: bool) -> dict[str, list[str]]:
    settings = SETTINGS | {"data.source.image_size": size, "model.network": path}
    start = ["fit", *(f"--{name}={value}" for name, value in settings.items())]
    found = {
        "fit": start,
        "resume": ["fit", "--resume", "last", "--trainer.max_epochs", "2"],
        "test": ["test", "--ckpt_path", "best.ckpt", "--trainer.accelerator", "cpu"],
        "predict": ["predict", "--ckpt_path", "best.ckpt", "--images", "images/test"],
    }
    return found | ({"onnx": ["export", "--ckpt_path", "best.ckpt", "--format", "onnx"]} if onnx else {})


def attempt(path: str, onnx: bool, answers: Any) -> None:
    """Puts the pixels, and for each step yes or the error, into `answers`. Runs in its own process."""
    with tempfile.TemporaryDirectory(prefix="networks-") as home:
        os.chdir(home)
        make_images(Path("images"))
        for size in sides(path):
            found = {"pixels": str(size)}
            for step, args in steps(path, size, onnx).items():
                found[step] = outcome(args)
                if found[step] != "yes":
                    break
            if found["fit"] == "yes" or not found["fit"].startswith("error: "):
                break
        os.chdir("/")
    answers.put(found)


def outcome(args: list[str]) -> str:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            program(args)
    except SystemExit as stop:
        if stop.code:
            return said.getvalue().strip().rpartition("\n")[2] or str(stop.code)
    except BaseException:
        return f"traceback: {traceback.format_exc(chain=False).strip().rpartition(chr(10))[2]}"
    return "yes"


def main(given: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", metavar="CLASS_PATH", help="these networks")
    parser.add_argument("--onnx", action="store_true", help="also export each network, which takes longest")
    parser.add_argument("--largest", type=float, default=1000, help="million parameters; larger ones are not tried")
    parser.add_argument("--minutes", type=float, default=600, help="no network is begun after this time")
    parser.add_argument("--results", type=absolute, metavar="FILE", help="rows of this and of earlier runs")
    args = parser.parse_args(given)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name in ("timm", *(("onnxruntime", "onnxscript", "torch._dynamo") if args.onnx else ())):
        with contextlib.suppress(ImportError):  # here once, not in every process
            import_module(name)
    began = time.monotonic()
    if args.only:
        counts = dict(torchvision_networks())
        networks = {path: counts.get(path, 0) for path in args.only}
    elif args.quick:
        networks = {"torchvision.models.squeezenet1_1": 0}
    else:
        pairs = sorted([*torchvision_networks(), *timm_networks()], key=lambda pair: pair[1])
        first = {import_object(path).__module__: path for path, _ in reversed(pairs)}.values()  # of each family
        networks = dict(sorted(pairs, key=lambda pair: pair[0] not in first))
    context = multiprocessing.get_context("fork")
    rows = []
    if args.results and args.results.exists():
        rows = [json.loads(line) for line in args.results.read_text().splitlines()]
    tried = {row[0].strip("`") for row in rows}
    for path, count in networks.items():
        if path in tried or count > args.largest * 1e6 or time.monotonic() - began > 60 * args.minutes:
            continue
        started, answers = time.monotonic(), context.SimpleQueue()
        process = context.Process(target=attempt, args=(path, args.onnx, answers))
        process.start()
        process.join()
        found = {"fit": f"exit code {process.exitcode}"} if answers.empty() else answers.get()
        number = f"{count / 1e6:.1f}" if count else ""
        cells = [found.get(column, "") for column in COLUMNS[2:-1]]
        rows.append([f"`{path}`", number, *cells, f"{time.monotonic() - started:.0f}"])
        print(*rows[-1], flush=True)
        if args.results:
            with args.results.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    works = sum(row[3:7] == ["yes"] * 4 for row in rows)
    theirs = sum(row[0].startswith("`torchvision.") for row in rows)
    facts = (
        f"{describe(note=args.note)}, torchvision {torchvision.__version__}. {len(rows)} networks were tried: {theirs} "
        f"of torchvision's {len(dict(torchvision_networks()))}, and {len(rows) - theirs} of {timm_families()}. "
        f"Fit, resume, test and predict passed for {works}, and the export to ONNX for "
        f"{sum(row[7] == 'yes' for row in rows)} of the {sum(row[7] != '' for row in rows)} with which it was tried."
    )
    publish("networks.py", facts, COLUMNS, sorted(rows), args.write)


if __name__ == "__main__":
    main()
