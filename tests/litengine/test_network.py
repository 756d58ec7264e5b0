"""Networks that others wrote, named by their class path: what they get, and what of them is refused."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from helpers import FakeSource, fit
from project_for_tests import ImageClassifier, ImageData, load, main
from torch import Tensor, nn
from torch.nn import functional as F

from litengine.data import Digits
from litengine.network import build_network, facts_taken, pretrained_weights

ON_CPU = ["--trainer.accelerator", "cpu", "--trainer.limit_test_batches", "1"]
pytestmark = pytest.mark.usefixtures("undrawn")
MODULE = """
from torch import nn

class Flat(nn.Module):
    def __init__(self, width, num_classes, in_channels=3, activation=nn.ReLU):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.head = nn.Linear(width * 900, num_classes)

    def forward(self, images):
        maps = self.conv(images)
        return self.head(maps.view(maps.shape[0], -1))

def unannotated():
    return Flat(2, 10)

def required(num_classes, in_channels):
    return Flat(2, num_classes, in_channels)

def number():
    return 3

def wrong_channels():
    return Flat(2, 10, 1)

def wrong_classes():
    return Flat(2, 7)

def two_outputs():
    class Two(Flat):
        def forward(self, images):
            return {"logits": super().forward(images)}
    return Two(2, 10)
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `theirs` of somebody else, on the import path."""
    Path("theirs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)


def fit_by_path(*network: str) -> None:
    settings = "--data.source litengine.data.Digits --data.batch_size 64 --trainer.logger false --trainer.max_epochs 1 "
    settings += "--trainer.limit_train_batches 2 --trainer.limit_val_batches 1 --trainer.accelerator cpu"
    main(["fit", *settings.split(), "--model.network", *network])


def test_untyped_code_is_fitted_resumed_tested_and_loaded(theirs, capsys):
    fit_by_path("theirs.Flat", "--model.network.width", "2")
    assert "channels_last: off" in capsys.readouterr().out  # it uses .view
    main(["fit", "--resume", "last", "--trainer.max_epochs", "2"])
    main(["test", "--ckpt_path", "best.ckpt", "--trust", "theirs", *ON_CPU])
    images = Digits().load("test").images[:5]
    predictor = load("best.ckpt", "cpu", trust="theirs")
    found = predictor.probabilities(images)
    pixels = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as decoded files lie in memory
    assert found.shape == (5, 10) and torch.equal(predictor.probabilities(pixels), found)
    with pytest.raises(SystemExit) as stopped:  # a stranger's checkpoint names no code that is not trusted
        main(["test", "--ckpt_path", "best.ckpt"])
    assert stopped.value.code == 2 and "--trust theirs" in capsys.readouterr().err


@pytest.mark.parametrize("network", ["theirs.unannotated", "theirs.required", "torchvision.models.shufflenet_v2_x0_5"])
def test_networks_with_odd_signatures_are_fitted_and_loaded(network, theirs):
    fit_by_path(network)
    assert load("best.ckpt", "cpu", trust="theirs").probabilities(Digits().load("test").images[:5]).shape == (5, 10)
    assert set(torch.load("best.ckpt", weights_only=True)["config"]["model"]["network"].get("init_args", {})) <= {
        *("num_classes", "in_channels", "weights", "progress")
    }


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (["theirs.number"], "theirs.number returns a int: a torch.nn.Module is needed"),
        (["theirs.wrong_channels"], "cannot take images of shape [3, 32, 32] (theirs.py, line 11)"),
        (["theirs.wrong_classes"], "logits of shape [2, 7] for 2 images, but the data has 10 classes"),
        (["theirs.two_outputs"], "the network returns a dict: a tensor of logits (N, classes) is needed"),
        (["torchvision.models.maxvit_t"], "num_classes 10, input_size [32, 32]: Input size"),
        (["torchvision.models.resnet18", "--model.network.num_classes", "5"], "num_classes is 5, but the data has 10"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_the_first_step(network, message, theirs, capsys):
    with pytest.raises(SystemExit) as stopped:
        fit_by_path(*network)
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and message in error and len([*filter(None, error.splitlines())]) == 1


class Pair(nn.Module):
    def __init__(self, image_size: int | tuple[int, int] = 32) -> None:
        super().__init__()


class Required(nn.Module):
    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("path", "names", "square", "oblong"),
    [
        ("torchvision.models.resnet18", ["num_classes"], None, None),
        (
            "torchvision.models.vit_b_16",
            ["num_classes", "image_size"],
            48,
            "takes image_size as one number, .*48x64",
        ),
        ("torchvision.models.maxvit_t", ["num_classes", "input_size"], [48, 48], [48, 64]),
        ("timm.models.mvitv2_tiny", ["num_classes", "in_chans", "img_size"], [48, 48], [48, 64]),
        ("timm.create_model resnet10t", ["num_classes", "in_chans"], None, None),  # the facts follow the model
        ("timm.create_model vit_tiny_patch16_224", ["num_classes", "in_chans", "img_size"], 48, [48, 64]),
        (f"{__name__}.Pair", ["image_size"], 48, [48, 64]),
        (f"{__name__}.Required", ["image_size"], [48, 48], [48, 64]),
        ("torch.nn.Flatten", [], None, None),
    ],
)
def test_networks_get_the_facts_of_the_data_that_they_take(path, names, square, oblong):
    class_path, *name = path.split()
    spec = {"class_path": class_path, "init_args": dict.fromkeys(["model_name"] * len(name), *name)}
    for width, size in ((48, square), (64, oblong)):
        known = {"num_classes": 7, "in_chans": 1, "image_size": size, "img_size": size, "input_size": size}
        if isinstance(size, str):
            with pytest.raises(ValueError, match=size):
                facts_taken(spec, 1, 48, width, 7)
        else:
            assert facts_taken(spec, 1, 48, width, 7) == {name: known[name] for name in names}


def test_losses_of_auxiliary_heads_are_added_with_their_weights():
    class Outputs(tuple):  # as of torchvision, without its large network
        pass

    Outputs.__name__ = "GoogLeNetOutputs"

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(192, 3) for _ in range(3))

        def forward(self, images: Tensor) -> Tensor:
            outputs = [head(images.flatten(1)) for head in self.heads]
            return Outputs(outputs) if self.training else outputs[0]

    torch.manual_seed(0)
    model, data = ImageClassifier(Network()), ImageData(FakeSource(), batch_size=8)
    fit(model, data, epochs=1)
    images, labels = FakeSource().load("train")[:2]
    outputs = model.network.train()(model.normalize(images))
    losses = [F.cross_entropy(logits, labels) for logits in outputs]
    model.count = lambda *_: None
    assert model.training_step((images, labels), 0).item() == pytest.approx(
        (losses[0] + 0.3 * (losses[1] + losses[2])).item()
    )


def test_pretrained_weights_come_from_their_file_and_are_needed_once(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    theirs = torchvision.models.mnasnet0_5()
    url = torchvision.models.MNASNet0_5_Weights.DEFAULT.url
    file = tmp_path / "torch/hub/checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), file)
    network = ["torchvision.models.mnasnet0_5", "--model.network.weights", "DEFAULT"]
    fit_by_path(*network, "--model.optimizer.lr", "0")
    assert "pretrained mnasnet0_5: loaded 312 of 314 tensors, new: classifier.1.weight" in capsys.readouterr().out
    file.unlink()
    recorded = torch.load("best.ckpt", weights_only=True)
    torch.testing.assert_close(recorded["state_dict"]["network.layers.0.weight"], theirs.layers[0].weight.detach())
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    main(["test", "--ckpt_path", "best.ckpt", *ON_CPU])
    assert build_network(recorded["config"]["model"]["network"]).classifier[1].out_features == 10


def test_without_the_file_and_without_network_it_says_where_to_put_it(monkeypatch, tmp_path):
    def refused(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refused)
    spec = {"class_path": "torchvision.models.resnet18", "init_args": {"weights": "DEFAULT"}}
    with pytest.raises(OSError, match=rf"no route to host.*put https://\S+/resnet18-\w+.pth into {tmp_path}/hub/chec"):
        pretrained_weights(spec)
    assert pretrained_weights({"class_path": "torchvision.models.resnet18"}) is None
