"""A checkpoint as a classifier: what it says against plain torch, what it takes, and what it refuses."""

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import project_for_tests as project
import pytest
import torch
from helpers import FakeSource, checkpoint_of, fit
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from PIL import Image
from project_for_tests import CNN, PACKAGE, ImageClassifier, ImageData
from torch import Tensor, nn

from litengine import __version__
from litengine.inference.predictor import Classifier, Ensemble, Prediction, Predictor, load_several

SIZE = 8
NETWORK: dict[str, Any] = {"widths": [4, 6], "hidden": 8, "image_size": SIZE, "num_classes": 3}
MODEL: dict[str, Any] = {"network": {"class_path": f"{PACKAGE}.networks.CNN", "init_args": NETWORK}}
FACTS = {"class_names": ["ant", "bee", "cat"], "tta": "none", "channels_last": True}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
RANDOM = np.random.default_rng(0)


@pytest.fixture
def network() -> nn.Module:
    """Whose answers differ from image to image."""
    torch.manual_seed(0)
    network = CNN(**NETWORK)
    network(torch.randn(64, 3, SIZE, SIZE))  # statistics of BatchNorm that are not the initial ones
    with torch.no_grad():
        network.head[-1].weight.mul_(10)
        network.eval()
        network.head[-1].bias.sub_(network(torch.randn(64, 3, SIZE, SIZE)).mean(0))
    return network


@pytest.fixture
def content(network: nn.Module) -> dict[str, Any]:
    """The parts of a checkpoint that are needed."""
    config = {"name": "a", "model": copy.deepcopy(MODEL), "data": {"source": {"class_path": "gone.Source"}}}
    made = checkpoint_of(network, None, **FACTS, mean=MEAN, std=STD)
    return made | {"engine": "0.0.1", "config": config}


@pytest.fixture
def predictor(content: dict[str, Any]) -> Predictor:
    torch.save(content, "best.ckpt")
    return project.load("best.ckpt", device="cpu")


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


@torch.no_grad()
def by_hand(network: nn.Module, images: Tensor) -> Tensor:
    """Probabilities of uint8 images (N, 3, SIZE, SIZE)."""
    normalised = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return network(normalised).softmax(1)


# What it says


def test_probabilities_are_those_of_plain_torch(predictor: Predictor, network: nn.Module) -> None:
    images = torch.from_numpy(pixels(20, 3, SIZE, SIZE))
    expected = by_hand(network, images)
    torch.testing.assert_close(predictor.probabilities(images), expected)
    predictions = predictor.predict(images, batch_size=6)  # the last batch is smaller
    np.testing.assert_allclose(np.stack([p.probabilities for p in predictions]), expected, rtol=1e-5, atol=1e-7)
    labels = [["ant", "bee", "cat"][label] for label in expected.argmax(1)]
    assert [p.label for p in predictions] == labels and len(set(labels)) > 1
    assert [p.confidence for p in predictions] == pytest.approx(expected.max(1).values.tolist())


def test_test_time_augmentation_is_the_checkpoints(content: dict[str, Any], network: nn.Module) -> None:
    content["data"]["tta"] = "flip"
    torch.save(content, "best.ckpt")
    image = pixels(3, SIZE, SIZE)
    views = torch.from_numpy(np.stack([image, image[:, :, ::-1]]))
    expected = by_hand(network, views).log().mean(0).softmax(0)  # a constant of the logits does not matter
    found = project.load("best.ckpt", device="cpu").predict(image).probabilities
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert not np.allclose(found, by_hand(network, views[:1])[0], rtol=1e-3)


def test_a_prediction_orders_classes_by_probability() -> None:
    prediction = Prediction(np.array([0.1, 0.3, 0.3, 0.2, 0.1], np.float32), list("abcde"))
    assert prediction.top(3) == [("b", pytest.approx(0.3)), ("c", pytest.approx(0.3)), ("d", pytest.approx(0.2))]
    assert len(prediction.top(10)) == 5 and repr(prediction) == "Prediction('b', confidence=0.3000)"


# What it takes


def test_every_form_of_an_image_gives_the_same(predictor: Predictor) -> None:
    array = pixels(SIZE, SIZE, 3)
    Image.fromarray(array).save("a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = ["a.png", Path("a.png"), Image.open("a.png"), array, array / 255, array.transpose(2, 0, 1), tensor]
    forms += [tensor.float() / 255, tensor.permute(1, 2, 0)]
    expected = predictor.predict(array).probabilities
    for form in forms:
        found = predictor.predict(form)
        assert isinstance(found, Prediction) and np.array_equal(found.probabilities, expected)
    for several in (forms, tuple(forms), iter(forms)):
        assert [p.probabilities.argmax() for p in predictor.predict(several)] == [expected.argmax()] * len(forms)
    for batch in (np.stack([array] * 3), tensor.expand(3, -1, -1, -1), torch.stack([tensor] * 3) / 255):
        found = predictor.predict(batch)
        assert len(found) == 3
        np.testing.assert_allclose(found[2].probabilities, expected, rtol=1e-5)
    assert predictor.predict([]) == []


def test_a_picture_taken_sideways_is_turned_as_file_and_as_pil_image(predictor: Predictor) -> None:
    image = Image.fromarray(pixels(SIZE, SIZE, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save("turned.png", exif=exif)
    expected = np.rot90(np.asarray(image), k=-1).transpose(2, 0, 1)
    for form in ("turned.png", Image.open("turned.png")):
        assert np.array_equal(predictor.prepare(form), expected)


def cut_image() -> Image.Image:
    Image.fromarray(pixels(64, 64, 3)).save("whole.jpg")
    Path("cut.jpg").write_bytes(Path("whole.jpg").read_bytes()[:1000])
    return Image.open("cut.jpg")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (lambda: None, "the image is a NoneType"),
        (lambda: [pixels(4, 4), np.zeros((4, 4), np.int64)], r"images\[1\] has type int64"),
        (cut_image, "the image cannot be decoded: .*truncated"),
        (lambda: [cut_image(), "cut.jpg"], r"images\[0\] cannot be decoded: .*truncated"),
        (lambda: cut_image() and "cut.jpg", "cut.jpg: .*truncated"),
    ],
)
def test_what_is_no_image_is_named(predictor: Predictor, images: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        predictor.predict(images())


def test_a_checkpoint_with_another_number_of_class_names_is_refused(content: dict[str, Any]) -> None:
    content["data"]["class_names"] = ["only one"]
    torch.save(content, "named.ckpt")
    with pytest.raises(ValueError, match="but the checkpoint names 1 classes"):
        project.load("named.ckpt").predict(pixels(8, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["data"].update(image_shape=[3, 1, 1]), r"the network cannot take images of shape \[3, 1, 1\]: "),
        (lambda c: c["state_dict"]["network.head.4.bias"].fill_(math.nan), "the network gives NaN or infinity"),
    ],
)
def test_a_network_that_gives_no_probabilities(
    content: dict[str, Any], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(content)
    torch.save(content, "odd.ckpt")
    with pytest.raises(ValueError, match=message):
        project.load("odd.ckpt").predict(pixels(8, 8))


def test_missing_files_are_named(predictor: Predictor) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no image gone\.png"):
        predictor.predict(["gone.png"])
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at bets\.ckpt: there are best\.ckpt"):
        project.load("bets.ckpt")


@pytest.mark.parametrize("shape", [(), (1, 8, 8), (3, 8), (3, 0, 0), (3, 8, 5000)])
def test_only_images_of_three_channels_are_made_from_files(network: nn.Module, shape: tuple[int, ...]) -> None:
    channels = shape[0] if shape else 1
    facts = {**FACTS, "image_shape": list(shape), "mean": MEAN[:channels], "std": STD[:channels]}
    classifier = Classifier(network, facts)
    with pytest.raises(ValueError, match=re.escape(f"images of shape {list(shape)}")):
        Predictor(classifier, "cpu")


@pytest.mark.gpu
def test_a_gpu_is_taken_and_says_what_the_cpu_says(predictor: Predictor) -> None:
    images = torch.from_numpy(pixels(20, 3, SIZE, SIZE))
    on_gpu = project.load("best.ckpt")
    assert next(on_gpu.classifier.parameters()).is_cuda
    found = on_gpu.probabilities(images)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, predictor.probabilities(images), atol=1e-3, rtol=0)
    assert on_gpu.predict(images.cuda())[0].label == predictor.predict(images)[0].label


# Checkpoints


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["config"]["model"]["network"]["init_args"].update(depth=3), "unexpected keyword argument 'depth'"),
        (lambda c: c["config"]["model"]["network"]["init_args"].update(hidden="9a"), "'9a', which is not of type int"),
        (lambda c: c["config"]["model"]["network"]["init_args"].update(widths=[4] * 9), "nothing is left of a 8x8"),
        (lambda c: c["config"]["model"]["network"]["init_args"].update(hidden=9), "size mismatch for network.head"),
        (lambda c: c.pop("state_dict"), "it has no 'state_dict'"),
        (lambda c: c["state_dict"].popitem(), r'Missing key\(s\) in state_dict: "network.head.4.bias"'),
        (lambda c: c["data"].pop("mean"), "its mean is None"),
        (lambda c: c["data"].update(tta="mirror"), "its tta is 'mirror': none, flip, flip.shift are known"),
        (lambda c: c["data"].update(class_names=[1, 2, 3]), r"its class_names is \[1, 2, 3\]"),
        (lambda c: c["data"].update(temperature="hot"), "its temperature is 'hot'"),
        (lambda c: c["data"].update(temperature=0), "its temperature is 0"),
        (lambda c: c["data"].update(temperature=math.nan), "its temperature is nan"),
        (lambda c: c["data"].update(temperature=1e308), r"its temperature is 1e\+308"),
        (lambda c: c["data"].update(temperature=10**400), r"its temperature is \[\.\.\.\]"),
        (lambda c: c["data"].update(mean=[math.nan] * 3), r"mean \[nan, nan, nan\] and std .* finite numbers"),
        (lambda c: c["data"].update(std=[-1.0] * 3), r"std \[-1.0, -1.0, -1.0\] are not those of images"),
        (lambda c: c["data"].update(mean=[10**31] * 3), "are not those of images"),
        (lambda c: c["data"].update(mean=[0.0, 0.0]), "it has 2 means and 3 deviations for images"),
    ],
)
def test_a_checkpoint_of_another_version_is_told(
    content: dict[str, Any], change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    change(content)
    torch.save(content, "old.ckpt")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        project.load("old.ckpt")
    message = str(caught.value)
    assert re.match(rf"old\.ckpt does not fit litengine {__version__} \(written by 0\.0\.1\): .*{reason}", message)
    assert "\n" not in message and len(message) < 500


# Checkpoints of fits that are not plain


class Config(Callback):
    """Adds what the command line adds to a checkpoint."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = {"model": MODEL}


class Steps(Callback):
    """Keeps the weights after each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.weights.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def fitted(*callbacks: Callback, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    classifier = ImageClassifier(CNN(**NETWORK), **settings)
    data = ImageData(FakeSource(), batch_size=9)
    trainer = fit(classifier, data, Config(), *callbacks)
    trainer.save_checkpoint("best.ckpt")
    return trainer


def test_ema_checkpoints_give_the_averaged_weights() -> None:
    steps = Steps()
    fitted(steps, EMAWeightAveraging(decay=0.7))
    expected = dict(steps.weights[0])
    for weights in steps.weights[1:]:
        for name, value in weights.items():
            expected[name] = 0.7 * expected[name] + 0.3 * value
    loaded = project.load("best.ckpt", device="cpu").classifier.state_dict()
    assert len(steps.weights) > 4
    for name, value in loaded.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
            assert not torch.allclose(value, steps.weights[-1][name], atol=1e-6), name


def test_checkpoints_of_a_compiled_network_load_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network, mode: compiled.append(network))
    trainer = fitted(compile=True)
    assert compiled == [trainer.lightning_module.network]
    loaded = project.load("best.ckpt", device="cpu").classifier.network
    assert len(compiled) == 1
    for name, value in trainer.lightning_module.network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=0, rtol=0)


def test_several_checkpoints_give_the_mean_of_their_probabilities(content: dict[str, Any]) -> None:
    images = RANDOM.integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    for fold, time, names in ((0, "1", ("best", "last")), (0, "2", ("best", "last")), (1, "1", ("last",))):
        for name in names:
            content["state_dict"]["network.head.1.bias"] = torch.randn_like(
                content["state_dict"]["network.head.1.bias"]
            )
            folder = Path(f"runs/digits/fold-{fold}/{time}/checkpoints")
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(content, folder / f"{name}.ckpt")
    used = ["runs/digits/fold-0/2/checkpoints/best.ckpt", "runs/digits/fold-1/1/checkpoints/last.ckpt"]
    expected = np.mean([[p.probabilities for p in project.load(file).predict(images)] for file in used], axis=0)
    for paths in (["runs/digits"], used, ["runs/digits/fold-0", used[1]], ["runs/digits/fold-0/2", used[1]]):
        found = load_several(paths, trust=PACKAGE).predict(images)
        np.testing.assert_allclose([prediction.probabilities for prediction in found], expected, atol=1e-6)
    assert not isinstance(load_several(used[:1], trust=PACKAGE), Ensemble)


@pytest.mark.parametrize(("fact", "value"), [("class_names", ["bee", "ant", "cat"]), ("image_shape", [3, 16, 16])])
def test_checkpoints_that_do_not_fit_together_are_refused(content: dict[str, Any], fact: str, value: Any) -> None:
    torch.save(content, "a.ckpt")
    content["data"][fact] = value
    torch.save(content, "b.ckpt")
    with pytest.raises(ValueError, match=r"b\.ckpt and a\.ckpt differ in their"):
        load_several(["a.ckpt", "b.ckpt"], trust=PACKAGE)
    Path("empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no checkpoints"):
        load_several(["empty"])
