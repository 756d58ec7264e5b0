"""The verb `export`: writes a checkpoint as a file that runs without this project, or without torch."""

import math
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from litengine import __version__
from litengine.files import check_can_write, relative
from litengine.training import run_directory

if TYPE_CHECKING:
    from torch import Tensor

    from litengine.inference.predictor import Predictor

BATCH, COMPARED = 64, 200  # images


class Format(NamedTuple):
    """File suffix, packages that it needs, and the code that uses the file."""

    suffix: str
    packages: tuple[str, ...]
    use: str


ONNX = 'onnxruntime.InferenceSession("{path}").run(None, {{"images": images}})'
FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), ONNX),
    "torch": Format(".pt2", (), 'torch.export.load("{path}").module()(images)'),
    "safetensors": Format(".safetensors", ("safetensors",), 'safetensors.torch.load_file("{path}")'),
}


def export(
    ckpt_path: str,
    format: Literal["onnx", "torch", "safetensors"] = "onnx",
    output: str | None = None,
    images: list[str] = [],  # noqa: B006 (only read)
    tolerance: float = 1e-4,
    trust: list[str] = [],  # noqa: B006
) -> Path:
    """Write a checkpoint as ONNX, torch.export or safetensors.

    The file is loaded again and compared with the checkpoint: it is kept only if both give the same probabilities.

    Args:
        ckpt_path: The checkpoint, such as best.ckpt.
        format: onnx and torch (a .pt2 of torch.export) hold the whole way from uint8 images to probabilities, with
            normalisation and test-time augmentation, for batches of any size; safetensors holds the bare weights, with
            the settings as JSON beside them.
        output: The file to write; by default in export/ of the checkpoint's run, or else beside the checkpoint.
        images: Image files, folders and globs to compare on, at most 200 of them; by default random patterns.
        tolerance: Largest difference of a probability, 0 to 1. The default is a hundred times what another order of
            sums makes of float32, and a hundredth of what a wrong mean or layer does.
        trust: Packages that the checkpoint may name too, those of your own network.

    Returns:
        The file.

    Raises:
        ValueError, OSError: if a package is missing, the checkpoint cannot be used, the network cannot be exported,
            or the file differs or cannot be written. An older file then stays as it was.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}: choose one of {', '.join(FORMATS)}")
    if missing := [package for package in FORMATS[format].packages if find_spec(package) is None]:
        raise ValueError(f'export to {format} needs {", ".join(missing)}: pip install -e ".[export]"')
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance is {tolerance}: a difference of probabilities is needed, such as 0.0001")
    target = _target(ckpt_path, format, output)

    import rich
    from rich.text import Text  # plain: in a path, [bold] is not markup

    from litengine.inference.predictor import load
    from litengine.inference.safe_config import read_for_prediction
    from litengine.terminal import print_line

    predictor = load(ckpt_path, "cpu", trust)  # a GPU rounds differently
    pixels, described = _images(predictor, images)
    settings = _settings(ckpt_path, read_for_prediction(ckpt_path, trust), predictor)
    with rich.get_console().status(Text(f"exporting {settings['checkpoint']} to {format}")):
        files, detail, difference = _write_checked(predictor, settings, format, target, pixels, tolerance)
    names = " and ".join(map(relative, files))
    print_line(Text(f"{names}: {sum(file.stat().st_size for file in files) / 1e6:,.2f} MB, {detail}"))
    compared = f"{difference:.1e} (tolerance {tolerance:g}), on {described}"
    print_line(Text(f"largest difference of a probability from the checkpoint's: {compared}"))
    print_line(Text(f"use: {FORMATS[format].use.format(path=relative(target))} (see docs/deploy.md)"))
    return target


def _target(ckpt_path: str, format: str, output: str | None) -> Path:
    suffix = FORMATS[format].suffix
    if output is None:
        if directory := run_directory.run_dir_of(ckpt_path):  # best.ckpt may be a link
            return directory / "export" / f"{Path(ckpt_path).resolve().stem}{suffix}"
        return Path(ckpt_path).absolute().with_suffix(suffix)
    check_can_write(Path(output))
    if Path(output).suffix != suffix:
        known = ", ".join(f"{name} {kind.suffix}" for name, kind in FORMATS.items())
        raise ValueError(f"output is {output}: the name must end with the suffix of its format ({known})")
    return Path(output).absolute()


def _images(predictor: "Predictor", words: list[str]) -> "tuple[Tensor, str]":
    """uint8 (N, 3, H, W) to compare on, N from 16 to 200, and what they are."""
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    if not words:  # patches of all sizes, so that every layer has something to see
        random = torch.Generator().manual_seed(0)
        rows, columns = predictor.classifier.image_shape[1:]
        patches = [max(1, max(rows, columns) >> power) for power in range(8)]
        fields = [torch.rand(8, 3, -(-rows // size), -(-columns // size), generator=random) for size in patches]
        patterns = (256 * torch.cat([interpolate(field, (rows, columns)) for field in fields])).to(torch.uint8)
        return patterns, f"{len(patterns)} random patterns (--images FILE… for images of yours)"

    from litengine.data.sources.find import find_images

    paths = find_images(words)
    # evenly spread: files and folders are often sorted by class
    chosen = [paths[int(place)] for place in np.linspace(0, len(paths) - 1, min(len(paths), COMPARED)).round()]
    pixels = torch.from_numpy(np.stack([predictor.prepare(path) for path in chosen]))
    return pixels.repeat(-(-16 // len(pixels)), 1, 1, 1), f"{len(chosen)} images of yours"


def _settings(ckpt_path: str, content: dict[str, Any], predictor: "Predictor") -> dict[str, Any]:
    """Plain data about the file and its checkpoint, such as the metric by which the best checkpoint was chosen."""
    import torch
    import yaml

    classifier, facts, metrics = predictor.classifier, content["data"], {}
    directory, file = run_directory.run_dir_of(ckpt_path), Path(ckpt_path).resolve().name
    if directory and file == "best.ckpt":  # the score of other weights is not known
        score = content.get("callbacks", {}).get("Checkpoints", {}).get("best_score")
        # the file stands for itself: an edited or damaged config.yaml costs no more than the metric
        with suppress(OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
            if score is not None and (monitor := run_directory.read_config(directory)["checkpoints"]["monitor"]):
                metrics[monitor] = score
    return {
        "litengine": __version__,
        "torch": torch.__version__,
        # the run, but no folders of this machine
        "checkpoint": f"{directory.parent.name}/{directory.name}/{file}" if directory else file,
        "metrics": metrics,
        "image_size": predictor.image_size,
        "mean": classifier.normalize.mean.flatten().tolist(),
        "std": classifier.normalize.std.flatten().tolist(),  # 1 where the facts have 0, a channel without variation
        "temperature": classifier.temperature,
        **{name: facts[name] for name in ("class_names", "reading", "tta") if name in facts},
        "network": content["network"],
    }


def _write_checked(
    predictor: "Predictor", settings: dict[str, Any], format: str, target: Path, images: "Tensor", tolerance: float
) -> tuple[list[Path], str, float]:
    """Writes the file, reads it again, compares its probabilities of `images`, uint8 (N, 3, H, W), with those of the
    checkpoint, and only then puts it in place.

    Returns the files, the main one first; a detail of the format; the largest difference.
    """
    import torch

    from litengine.export import formats

    batches = [images[:1], images[1:8], *torch.split(images[8:], BATCH)]  # of several sizes: any must do
    expected = torch.cat([predictor.probabilities(batch) for batch in batches])
    # on the same disk, so that the last step is a rename; export/ is made only for a good file
    beside = target.parent if target.parent.is_dir() else target.parent.parent
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=beside) as folder:
            file = Path(folder, target.name)
            detail = formats.write(format, predictor.classifier, settings, file)
            found = formats.run(format, file, batches)
            difference = float((found - expected).abs().max()) if found.shape == expected.shape else math.inf
            if not difference <= tolerance:  # or it is NaN
                raise ValueError(
                    f"the export differs from the checkpoint by {difference:.2g} in a probability, more than the "
                    f"tolerance of {tolerance:g}; nothing was written. Try another --format or a larger --tolerance"
                )
            target.parent.mkdir(exist_ok=True)
            parts = sorted(Path(folder).iterdir(), key=lambda part: (part != file, part.name))
            for part in reversed(parts):  # the main one last: it is whole once it is there
                part.replace(target.parent / part.name)
    except OSError as error:
        raise OSError(f"cannot write {relative(target)}: {error.strerror or error}") from error
    return [target.parent / part.name for part in parts], detail, difference
