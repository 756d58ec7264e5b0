"""Exported files, used as their users would, against the checkpoint; and that a wrong one is never left behind."""

import errno
import functools
import importlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import project_for_tests as project
import pytest
import safetensors.torch
import torch
from helpers import checkpoint_of
from PIL import Image
from project_for_tests import CNN, PACKAGE, ImageClassifier
from safetensors import safe_open
from torch import Tensor, nn

import litengine
from litengine import views as tta
from litengine.data import Digits
from litengine.data.sources.pixels import fit
from litengine.export import export as export_with
from litengine.export import formats

DEPLOY = Path(__file__).parents[3] / "docs" / "deploy.md"


def export(ckpt_path: str, format: str = "onnx", trust: list[str] = [], **options: Any) -> Path:  # noqa: B006
    return export_with(ckpt_path, format, trust=[project.PACKAGE, *trust], **options)  # type: ignore[arg-type]


SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
AUGMENTATIONS = {"onnx": "flip", "torch": "flip+shift", "safetensors": "none"}
NETWORK: dict[str, Any] = {
    **{"widths": [6, 8], "convolutions": 1, "hidden": 32, "dropout": 0.1},
    **{"image_size": 32, "num_classes": 10},
}
CNN_SPEC: dict[str, Any] = {"class_path": f"{PACKAGE}.networks.CNN", "init_args": NETWORK}
MEAN, STD = [0.3, 0.35, 0.25], [0.3, 0.25, 0.4]
STRANGE = """
import torch
from torch import nn

class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 10)

class Branches(Head):
    def forward(self, images):
        means = images.mean((2, 3))
        if means.sum() > 0:
            return self.head(means)
        return self.head(-means)

class Loops(Head):
    def forward(self, images):
        return torch.stack([self.head(image.mean((1, 2))) for image in images])

class Blocks(Head):
    def forward(self, images):  # attention in blocks of rows, of five dimensions, as in timm's Nest
        blocks = images.unflatten(2, (4, 8))
        return self.head(nn.functional.scaled_dot_product_attention(blocks, blocks, blocks).mean((2, 3, 4)))

class Bessel(Head):
    def forward(self, images):
        return self.head(torch.special.bessel_j0(images.mean((2, 3))))

class Tied(Head):
    def __init__(self):
        super().__init__()
        self.twin = nn.Linear(3, 10)
        self.twin.weight = self.head.weight

    def forward(self, images):
        return self.head(images.mean((2, 3))) + self.twin(images.amax((2, 3)))

class Remembers(Head):
    def get_extra_state(self):
        return "no tensor"

    def set_extra_state(self, state): ...

    def forward(self, images):
        return self.head(images.mean((2, 3)))
"""


@functools.cache
def digits() -> Tensor:
    """200 real images that the export is not compared on: of the test split."""
    arrays = Digits().load("test")
    return arrays.images[:200]


def normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
    return (images / 255 - mean) / std


def awakened(network: nn.Module) -> nn.Module:
    """Untrained, but its answers differ from image to image."""
    images = normalized(digits())
    with torch.no_grad():
        network(images)  # statistics of BatchNorm that are not the initial ones
        network.eval()
        logits = network(images)
        scale = 1 / (logits - logits.mean(0)).std()
        network.head.weight.mul_(scale)
        network.head.bias.copy_((network.head.bias - logits.mean(0)) * scale)
    return network


def save(network: nn.Module, spec: dict[str, Any], path: str = "best.ckpt", tta: str = "none", **content: Any) -> str:
    facts = {"class_names": list("ABCDEFGHIJ"), "image_shape": [3, 32, 32], "mean": MEAN, "std": STD}
    torch.save(checkpoint_of(network, spec, **facts, tta=tta, temperature=0.5) | content, path)
    return path


@functools.cache
def small() -> nn.Module:
    """A CNN, trained until it knows its images."""
    arrays = Digits().load("train")
    images, labels = normalized(arrays.images[:300]), arrays.labels[:300]
    torch.manual_seed(0)
    network = CNN(**NETWORK)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.eval()


@pytest.fixture
def checkpoint() -> str:
    return save(small(), CNN_SPEC)


class Exported(NamedTuple):
    path: Path
    checkpoint: str


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """The file of a format, made once, each of a checkpoint with another test-time augmentation."""

    @functools.cache
    def make(format: str) -> Exported:
        folder = tmp_path_factory.mktemp("exported")
        checkpoint = save(small(), CNN_SPEC, str(folder / "best.ckpt"), tta=AUGMENTATIONS[format])
        return Exported(export(checkpoint, format), checkpoint)

    return make


def use(path: Path, images: Tensor) -> Tensor:
    """Probabilities, by the means of each format's own library and plain torch."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (probabilities,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(probabilities)
    if path.suffix == ".pt2":
        with torch.inference_mode():
            found: Tensor = torch.export.load(path).module()(images)
            return found
    settings = json.loads(Path(f"{path}.json").read_text())
    network = CNN(**settings["network"]["init_args"]).eval()
    network.load_state_dict(safetensors.torch.load_file(path))
    mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        logits = tta.average(network, (images / 255 - mean) / std, settings["tta"])
        return (logits / settings["temperature"]).softmax(1)


def left() -> list[str]:
    """The files in the working directory."""
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


# Agreement


@pytest.mark.parametrize("format", SUFFIXES)
def test_it_says_what_the_checkpoint_says(exported: Any, format: str) -> None:
    path, checkpoint = exported(format)
    assert path == Path(checkpoint).with_suffix(SUFFIXES[format])
    predictor = project.load(checkpoint, device="cpu")
    expected = predictor.probabilities(digits())
    assert len(set(expected.argmax(1).tolist())) > 7 and expected.max() > 0.8  # it has opinions
    for count in (1, 7, 200):
        found = use(path, digits()[:count])
        assert found.dtype == torch.float32 and found.shape == (count, 10)
        torch.testing.assert_close(found, expected[:count], atol=5e-6, rtol=0)
    predictor.classifier.tta = "flip" if predictor.classifier.tta == "none" else "none"
    assert (predictor.probabilities(digits()) - expected).abs().max() > 0.01


@pytest.mark.slow
def test_attention_with_a_mask_as_onnx() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    arguments = {"num_classes": 10, "img_size": 32}
    network = awakened(timm.create_model("test_vit_relpos", **arguments))
    checkpoint = save(network, {"class_path": "timm.models.test_vit_relpos", "dict_kwargs": arguments})
    expected = project.load(checkpoint, device="cpu").probabilities(digits()[:50])
    torch.testing.assert_close(use(export(checkpoint), digits()[:50]), expected, atol=2e-5, rtol=0)


# What is in the file


def about(path: Path) -> dict[str, Any]:
    if path.suffix == ".pt2":
        files = {"about.json": ""}
        torch.export.load(path, extra_files=files)
        settings: dict[str, Any] = json.loads(files["about.json"])
        return settings
    if path.suffix == ".onnx":
        text = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    else:
        with safe_open(path, "pt") as file:
            text = file.metadata()
    plain = ("litengine", "torch", "checkpoint", "tta")
    return {key: value if key in plain else json.loads(value) for key, value in text.items()}


@pytest.mark.parametrize("format", SUFFIXES)
def test_it_knows_what_it_is(exported: Any, format: str) -> None:
    assert about(exported(format).path) == {
        "litengine": litengine.__version__,
        "torch": torch.__version__,
        "checkpoint": "best.ckpt",
        "metrics": {},
        "class_names": list("ABCDEFGHIJ"),
        "image_size": 32,
        "mean": pytest.approx(MEAN),
        "std": pytest.approx(STD),
        "tta": AUGMENTATIONS[format],
        "temperature": 0.5,
        "network": CNN_SPEC,
    }


def test_the_onnx_graph_is_one_valid_file_from_uint8_images_of_any_number(exported: Any) -> None:
    path = exported("onnx").path
    onnx.checker.check_model(str(path), full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    (images,), (probabilities,) = ([value.type.tensor_type for value in side] for side in (graph.input, graph.output))
    assert (images.elem_type, probabilities.elem_type) == (onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT)
    assert [d.dim_param or d.dim_value for d in images.shape.dim] == ["batch", 3, 32, 32]
    assert [d.dim_param or d.dim_value for d in probabilities.shape.dim] == ["batch", 10]
    assert not any(tensor.external_data for tensor in graph.initializer)
    assert sorted(file.name for file in path.parent.iterdir()) == ["best.ckpt", "best.onnx"]


def test_no_image_is_left_in_a_program(exported: Any) -> None:
    program = torch.export.load(exported("torch").path)
    (example,), _ = program.example_inputs
    assert example.shape == (2, 3, 32, 32) and not example.any()


def test_safetensors_are_the_weights_alone_with_their_settings_beside(exported: Any) -> None:
    path = exported("safetensors").path
    weights, expected = safetensors.torch.load_file(path), small().state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert json.loads(Path(f"{path}.json").read_text()) == about(path)


@pytest.mark.parametrize("in_a_run", [True, False])
@pytest.mark.parametrize("name", ["best", "last"])
def test_it_lies_in_the_run_or_else_beside_the_checkpoint(name: str, in_a_run: bool) -> None:
    folder = Path("runs/digits/2026-01-01_00-00-00/checkpoints")
    folder.mkdir(parents=True)
    callbacks = {"Checkpoints": {"best_score": 0.75, "best_epoch": 3}}
    save(small(), CNN_SPEC, str(folder / f"{name}.ckpt"), callbacks=callbacks)
    if in_a_run:
        (folder.parent / "config.yaml").write_text("checkpoints: {monitor: val/acc}")
    Path("link.ckpt").symlink_to(folder / f"{name}.ckpt")
    path = export("link.ckpt", "safetensors")
    expected = folder.parent / "export" / f"{name}.safetensors" if in_a_run else Path("link.safetensors")
    assert path == expected.absolute() and path.is_file()
    known = about(path)
    assert known["checkpoint"] == ("digits/2026-01-01_00-00-00/" if in_a_run else "") + f"{name}.ckpt"
    # of later weights than the best ones the score is not known
    assert known["metrics"] == ({"val/acc": 0.75} if in_a_run and name == "best" else {})


def test_it_can_be_divided_by_the_std_of_a_channel_without_variation() -> None:
    facts = {"class_names": list("ABCDEFGHIJ"), "image_shape": [3, 32, 32], "mean": MEAN, "std": [0.3, 0.0, 0.4]}
    torch.save(checkpoint_of(small(), CNN_SPEC, **facts), "flat.ckpt")
    assert about(export("flat.ckpt", "safetensors"))["std"] == pytest.approx([0.3, 1, 0.4])


@pytest.mark.parametrize("config", ["", "a: [", "checkpoints: 3", "name: edited\n# sha256 of all above: 0"])
def test_a_damaged_config_beside_the_checkpoint_costs_the_metric_only(config: str) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.yaml").write_text(config)
    save(small(), CNN_SPEC, "run/checkpoints/best.ckpt", callbacks={"Checkpoints": {"best_score": 0.75}})
    assert about(export("run/checkpoints/best.ckpt", "safetensors"))["metrics"] == {}


# What it is compared on


def folder_of(count: int) -> Path:
    folder = Path("images")
    folder.mkdir()
    for index in range(count):
        Image.fromarray(digits()[index % 200].permute(1, 2, 0).numpy()).resize((40, 36)).save(folder / f"{index}.png")
    return folder


def test_on_images_of_ones_own(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    export(checkpoint, "safetensors", images=[str(folder_of(230))])
    assert "on 200 images of yours" in capsys.readouterr().out
    Path("text.png").write_text("no image")
    before = left()
    for wrong in ("nothing.png", "text.png"):
        with pytest.raises(ValueError, match=wrong):
            export(checkpoint, "safetensors", output="other.safetensors", images=[wrong])
    assert left() == before


# A wrong file is not left behind


def change_weights(classifier: ImageClassifier, by: float) -> None:
    classifier.network.head[-1].bias.data[3] += by  # type: ignore[index, union-attr]


@pytest.mark.parametrize(
    ("format", "change"),
    [
        ("safetensors", lambda classifier: change_weights(classifier, 1e-2)),
        ("safetensors", lambda classifier: change_weights(classifier, math.nan)),
        ("torch", lambda classifier: classifier.normalize.set([m + 1 / 255 for m in MEAN], STD)),
        ("torch", lambda classifier: setattr(classifier, "tta", "flip")),
        ("torch", lambda classifier: setattr(classifier, "temperature", 1.0)),
        ("torch", lambda classifier: classifier.network.train()),
    ],
    ids=["weights", "NaN", "mean", "views", "temperature", "dropout"],
)
def test_a_file_that_works_otherwise_is_not_kept(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, format: str, change: Callable[[ImageClassifier], Any]
) -> None:
    """What goes wrong with exports in life: another mean (by one grey value), other views, dropout."""

    def tampered(format: str, classifier: ImageClassifier, *args: Any) -> str:
        change(classifier)
        return original(format, classifier, *args)

    older = Path(f"best{SUFFIXES[format]}")
    older.write_text("older")
    original = formats.write
    monkeypatch.setattr(formats, "write", tampered)
    monkeypatch.setattr(formats._Probabilities, "eval", lambda module: module)
    with pytest.raises(ValueError, match="differs from the checkpoint by .*nothing was written"):
        export(checkpoint, format)
    assert left() == ["best.ckpt", str(older)] and older.read_text() == "older"
    assert not any(path.is_dir() for path in Path().glob(".*"))


def test_a_file_that_cannot_be_read_again_is_not_kept(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"more than the tolerance of 1e-12"):
        export(checkpoint, "safetensors", tolerance=1e-12)
    monkeypatch.setattr(formats, "write", lambda format, classifier, settings, path: path.write_bytes(b"torn") and "")
    for format in SUFFIXES:
        with pytest.raises(ValueError, match=r"exported file does not work: .*; nothing was written"):
            export(checkpoint, format)
    assert left() == ["best.ckpt"]


@pytest.mark.parametrize("format", [pytest.param("onnx", marks=pytest.mark.slow), "torch", "safetensors"])
def test_a_full_disk(checkpoint: str, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    Path(f"best{SUFFIXES[format]}").write_text("older")
    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", full)
    with pytest.raises(OSError, match=rf"cannot write best{SUFFIXES[format]}: No space left on device"):
        export(checkpoint, format)
    assert left() == ["best.ckpt", f"best{SUFFIXES[format]}"]
    assert Path(f"best{SUFFIXES[format]}").read_text() == "older"


def test_an_older_file_is_replaced(checkpoint: str) -> None:
    for name in ("a.safetensors", "a.safetensors.json"):
        Path(name).write_text("older")
    export(checkpoint, "safetensors", output="a.safetensors")
    assert left() == ["a.safetensors", "a.safetensors.json", "best.ckpt"]
    assert use(Path("a.safetensors"), digits()[:2]).shape == (2, 10)


# Networks that cannot be exported


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The checkpoint of one of the networks in STRANGE."""
    folder = Path("code")
    folder.mkdir()
    (folder / "strange_networks.py").write_text(STRANGE)
    monkeypatch.syspath_prepend(folder.absolute())
    module = importlib.import_module("strange_networks")

    def make(name: str) -> str:
        torch.manual_seed(0)
        return save(getattr(module, name)(), {"class_path": f"strange_networks.{name}"}, f"{name}.ckpt")

    return make


@pytest.mark.parametrize("format", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Branches", r"data-dependent .*strange_networks.py:13: if means.sum\(\) > 0:"),
        ("Loops", r"batch .* constant \(2\)"),
    ],
)
def test_a_network_that_is_no_graph(
    strange: Callable[[str], str], capfd: pytest.CaptureFixture[str], name: str, reason: str, format: str
) -> None:
    checkpoint = strange(name)
    match = rf"^{name} cannot be exported to {format}: .*{reason}.*torch\.where.*--format safetensors"
    with pytest.raises(ValueError, match=match) as raised:
        export(checkpoint, format, trust=["strange_networks"])
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")  # torch would print its graph
    assert not list(Path().glob("*.onnx")) and not list(Path().glob("*.pt2"))


@pytest.mark.slow
def test_attention_of_five_dimensions_as_onnx(strange: Callable[[str], str]) -> None:
    path = export(strange("Blocks"), trust=["strange_networks"])
    expected = project.load("Blocks.ckpt", "cpu", ["strange_networks"]).probabilities(digits()[:5])
    torch.testing.assert_close(use(path, digits()[:5]), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_an_operator_that_onnx_lacks(strange: Callable[[str], str]) -> None:
    checkpoint = strange("Bessel")
    with pytest.raises(ValueError, match=r"^Bessel cannot be exported to onnx: .*bessel_j0.*\. Try --format torch$"):
        export(checkpoint, "onnx", trust=["strange_networks"])


def test_weights_that_share_memory_and_states_that_are_no_tensors(strange: Callable[[str], str]) -> None:
    path = export(strange("Tied"), "safetensors", trust=["strange_networks"])
    weights = safetensors.torch.load_file(path)
    assert torch.equal(weights["head.weight"], weights["twin.weight"]) and len(weights) == 4
    with pytest.raises(ValueError, match="--trust strange_networks"):  # a network of one's own
        export("Tied.ckpt", "safetensors")
    with pytest.raises(ValueError, match=r"_extra_state in its state is a str, .* Try --format torch"):
        export(strange("Remembers"), "safetensors", trust=["strange_networks"])


# What is asked for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "a.pt2"}, r"output is a.pt2: the name must end .*\(onnx \.onnx, torch \.pt2, "),
        ({"output": "no/a.onnx"}, r"cannot write no/a.onnx: there is no folder no"),
        ({"tolerance": -1.0}, r"tolerance is -1.0"),
        ({"tolerance": float("nan")}, r"tolerance is nan"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        export("no such.ckpt", **options)


def test_the_page_works(exported: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Every snippet of docs/deploy.md, on an image that has to be resized and cropped."""
    for format in SUFFIXES:
        for file in exported(format).path.parent.glob(f"best{SUFFIXES[format]}*"):
            shutil.copy(file, ".")
    pixels = digits()[11].permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).resize((97, 75)).save("image.jpg")
    snippets = re.findall(r"```python\n(.*?)```", DEPLOY.read_text(), re.S)
    assert len(snippets) == 4
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(snippet, names)
    predictors = [project.load(exported(format).checkpoint, device="cpu") for format in SUFFIXES]
    assert np.array_equal(names["read_image"]("image.jpg", 32)[0], predictors[0].prepare("image.jpg"))
    oblong = fit(Image.open("image.jpg"), (24, 40))
    assert np.array_equal(names["read_image"]("image.jpg", [24, 40])[0], oblong)
    answers = [line.split() for line in capsys.readouterr().out.splitlines() if " " in line and line[1] == " "]
    for (label, confidence), predictor in zip(answers, predictors, strict=True):
        expected = predictor.predict("image.jpg")
        assert label == expected.label and float(confidence) == pytest.approx(expected.confidence, abs=1e-5)
