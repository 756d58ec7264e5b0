"""Images a second of `predict` and of the exported ONNX graph, against plain torchvision and PyTorch.

    python benchmarks/predict.py --images path/to/images   # all images below a folder
    python benchmarks/predict.py                           # 10,000 JPEG files of random pixels, made first

All ways end with the two most probable classes of each image, by the network of configs/cnn.yaml (fitted for four
batches: its speed is the same), `--batch_size` images at once. From files, each also lists them and writes a CSV file:

`predict`: the verb, in this process: with the reading of the checkpoint, the table and the file.
ONNX: the graph of `export`, by onnxruntime. A DataLoader with 2 workers opens, resizes and crops with torchvision.
plain: the same DataLoader, with ToTensor and Normalize; the network in evaluation mode, softmax.

From memory, each gets the same uint8 pixels, a batch at a time. The ways take turns. Imports are not counted.
"""

import contextlib
import csv
import io
import logging
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from machine import ROOT, alternate, arguments, describe, middle, publish, ratio
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import litcnn
from litcnn.__main__ import main as litcnn_main
from litcnn.networks import CNN
from litengine.data.sources.find import find_images
from litengine.export import export
from litengine.inference.predict import predict
from litengine.inference.predictor import Predictor

WORKERS = 2
SIZE = 32
QUICK = 600

Network = Callable[[Tensor], Tensor]  # images to probabilities, (N, 3, SIZE, SIZE) to (N, classes)


class Files(Dataset[Tensor]):
    """Image files as torchvision's own ImageFolder opens them."""

    def __init__(self, folder: str, transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths = sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with open(self.paths[index], "rb") as file:
            return self.transform(Image.open(file).convert("RGB"))


def plain_network(content: dict[str, Any]) -> torch.nn.Module:
    """The network of a checkpoint without this project's classifier around it."""
    network = CNN()
    weights = content["state_dict"].items()
    network.load_state_dict({name.removeprefix("network."): value for name, value in weights})
    return network.eval()


def onnx_network(file: Path) -> Network:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # knows nothing of OMP_NUM_THREADS
    session = onnxruntime.InferenceSession(file, options)
    return lambda images: torch.from_numpy(session.run(["probabilities"], {"images": images.numpy()})[0])


def classify_files(dataset: Files, network: Network, names: list[str], batch_size: int, output: str) -> None:
    with open(output, "w", newline="") as file:
        writer, done = csv.writer(file), 0
        for images in DataLoader(dataset, batch_size, num_workers=WORKERS):
            best = network(images).topk(2)
            for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                writer.writerow([dataset.paths[done], names[indices[0]], values[0], names[indices[1]], values[1]])
                done += 1


def rate(count: int, work: Callable[[], None]) -> float:
    """Images a second; of what the work prints nothing is seen."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.inference_mode():
        work()
    return count / (time.perf_counter() - started)


def differences(first: str, second: str) -> int:
    """Rows of two CSV files that name another class for the same image."""
    tables = []
    for name in (first, second):
        with open(name, newline="") as file:
            tables.append({row[0]: row[1] for row in csv.reader(file) if row[0] != "path"})
    assert tables[0].keys() == tables[1].keys()
    return sum(tables[0][path] != tables[1][path] for path in tables[0])


def make_files(folder: str, count: int) -> None:
    Path(folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(f"{folder}/{index:05}.jpg")


def make_checkpoint() -> dict[str, Any]:
    """best.ckpt in the working directory, and its content."""
    configs = ["--config", str(ROOT / "configs/cnn.yaml"), "--config", str(ROOT / "configs/with/debug.yaml")]
    source = ["--data.source", "litengine.data.Digits", "--trainer.precision", "32-true"]
    litcnn_main(["fit", *configs, *source, "--checkpoints.link_best", "true"])
    content: dict[str, Any] = torch.load("best.ckpt", weights_only=True)
    return content


def from_files(folder: str, content: dict[str, Any], graph: Path, batch_size: int) -> dict[str, Callable[[], float]]:
    count, names = len(find_images([folder])), content["data"]["class_names"]
    mean, std = content["data"]["mean"], content["data"]["std"]
    steps = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE)]

    def ours() -> None:
        predict(["best.ckpt"], [folder], output="predict.csv", batch_size=batch_size, trust=["litcnn"])

    def plain() -> None:
        network = plain_network(content)
        transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])
        dataset = Files(folder, transform)
        classify_files(dataset, lambda images: network(images).softmax(1), names, batch_size, "plain.csv")

    def onnx() -> None:
        transform = transforms.Compose([*steps, transforms.PILToTensor()])
        classify_files(Files(folder, transform), onnx_network(graph), names, batch_size, "onnx.csv")

    ways = {"predict": ours, "ONNX": onnx, "plain": plain}
    return {name: lambda way=way: rate(count, way) for name, way in ways.items()}


def from_memory(
    images: Tensor, predictor: Predictor, content: dict[str, Any], graph: Path, batch_size: int
) -> dict[str, Callable[[], float]]:
    network, run_graph = plain_network(content), onnx_network(graph)
    mean, std = (torch.tensor(content["data"][name]).view(3, 1, 1) for name in ("mean", "std"))

    def plain(images: Tensor) -> Tensor:
        probabilities: Tensor = network((images / 255 - mean) / std).softmax(1)
        return probabilities

    def classify(way: Network) -> None:
        for batch in images.split(batch_size):
            way(batch).topk(2)

    ways: dict[str, Network] = {"predict": predictor.probabilities, "ONNX": run_graph, "plain": plain}
    return {name: lambda way=way: rate(len(images), lambda: classify(way)) for name, way in ways.items()}


def main(given: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--images", type=os.path.abspath, metavar="FOLDER", help="real images; other files break it")
    parser.add_argument("--batch_size", type=int, default=32, help="of every way")
    args = parser.parse_args(given)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="litcnn-predict-") as home:
        os.chdir(home)
        folder = args.images or "images"
        if not args.images:
            make_files(folder, QUICK if args.quick else 10_000)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            content = make_checkpoint()
            graph = export("best.ckpt", output=str(Path(home, "best.onnx")), trust=["litcnn"])
        paths = find_images([folder])
        predictor = litcnn.load("best.ckpt")
        pixels = np.stack([predictor.prepare(path) for path in paths[:QUICK]])
        images = torch.from_numpy(pixels).repeat(-(-len(paths) // len(pixels)), 1, 1, 1)[: len(paths)]

        rows = []
        for start, ways in {
            f"{len(paths):,} files": from_files(folder, content, graph, args.batch_size),
            f"{len(images):,} images in memory": from_memory(images, predictor, content, graph, args.batch_size),
        }.items():
            for way in ways.values():  # once before it counts: files come into the system's cache, code into memory
                way()
            found = alternate(start, ways, 1 if args.quick else args.rounds)
            for name, shown in {"predict": "`predict`", "ONNX": "exported ONNX, onnxruntime"}.items():
                if name == "predict" and "memory" in start:
                    shown = "`litcnn.load(…).probabilities`"
                cells = [middle(found[way], "{:,.0f}") for way in (name, "plain")]
                rows.append([f"{start}: {shown}", *cells, ratio(found[name], found["plain"])])
        other = {name: differences("plain.csv", f"{name}.csv") for name in ("predict", "onnx")}
    versions = ", ".join(f"{package} {version(package)}" for package in ("torchvision", "pillow", "onnxruntime"))
    facts = (
        f"{describe(note=args.note)}, {versions}; {torch.get_num_threads()} threads of torch and of onnxruntime, "
        f"{WORKERS} workers of the DataLoader, batches of {args.batch_size}. Images a second, medians of "
        f"{1 if args.quick else args.rounds} rounds (least to most). Images of which `predict` names another class "
        f"than plain PyTorch: {other['predict']}; ONNX: {other['onnx']}."
    )
    columns = ["", "images/s", "plain torchvision + PyTorch, images/s", "ratio"]
    publish("predict.py", facts, columns, rows, args.write)


if __name__ == "__main__":
    main()
