"""Initial weights, and parts of a network that are frozen for a while."""

from pathlib import Path

import pytest
import torch
from helpers import FakeSource, fit
from lightning.pytorch import Callback
from torch import nn

from litcnn.data import ImageData
from litcnn.model import ImageClassifier
from litengine.training import Checkpoints
from litengine.training.initial_weights import load_initial_weights


def network(classes: int = 3) -> nn.Module:
    torch.manual_seed(classes)
    stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(stem, nn.Flatten(), nn.Linear(4 * 36, classes))


def classifier(**options) -> ImageClassifier:
    settings = {"optimizer": lambda groups: torch.optim.Adam(groups, lr=1e-2, weight_decay=0.1), "lr_scheduler": None}
    return ImageClassifier(network(), **(settings | options))


def data() -> ImageData:
    return ImageData(FakeSource(), batch_size=8, val_fraction=0.2)


class States(Callback):
    """The weights after every epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append({name: value.clone() for name, value in module.network.state_dict().items()})


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


HEAD = {"2.weight", "2.bias"}


def test_frozen_parts_keep_weights_and_statistics_and_the_rest_is_trained():
    model, states = classifier(freeze=["0"]), States()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    fit(model, data(), states, epochs=2)
    assert changed(before, states.epochs[-1]) == HEAD


def test_they_are_trained_from_the_epoch_given_and_a_resume_in_any_epoch_is_exact():
    options = {"freeze": ["0.*"], "unfreeze_at_epoch": 2}
    whole = States()
    fit(classifier(**options), data(), whole, epochs=4)
    assert changed(whole.epochs[0], whole.epochs[1]) == HEAD
    assert changed(whole.epochs[1], whole.epochs[2]) > HEAD | {"0.0.weight", "0.1.running_mean"}
    for epochs in (1, 2, 3):
        fit(classifier(**options), data(), Checkpoints(), epochs=epochs)
        rest = States()
        fit(classifier(**options), data(), rest, epochs=4, ckpt_path="checkpoints/last.ckpt")
        assert changed(whole.epochs[-1], rest.epochs[-1]) == set()


def test_a_pattern_that_matches_nothing_names_the_modules():
    with pytest.raises(ValueError, match=r"model.freeze 'backbone' matches no parameter of the network; .* 0, 1, 2"):
        classifier(freeze=["backbone"])


@pytest.mark.parametrize("form", ["ckpt", "pth", "nested.pth", "safetensors"])
def test_a_fit_starts_from_the_weights_of_a_file_except_for_another_head(form, capsys):
    fit(ImageClassifier(network(5)), ImageData(FakeSource(train=[10] * 5, test=None), val_fraction=0.2), Checkpoints())
    content = torch.load("checkpoints/last.ckpt", weights_only=True)
    weights = {name.removeprefix("network."): value.contiguous() for name, value in content["state_dict"].items()}
    path = f"weights.{form}"
    if form == "ckpt":
        Path("checkpoints/last.ckpt").rename(path)
        torch.save(content | {"config": {}}, path)
    elif form == "safetensors":
        from safetensors.torch import save_file

        save_file(weights, path)
    else:
        wrapped = {f"module.{name}": value for name, value in weights.items()}
        torch.save({"state_dict": wrapped, "epoch": 3} if form == "nested.pth" else weights, path)
    model, states = classifier(init_from=path, freeze=["0"]), States()
    fit(model, data(), states, epochs=1)
    assert changed({name: weights[name] for name in weights if name not in HEAD}, states.epochs[0]) == set()
    assert f"{path}: loaded 7 of 9 tensors, new: 2.weight, 2.bias" in capsys.readouterr().out
    Path(path).unlink()  # the checkpoint has all weights: the file is not needed any more
    fit(classifier(freeze=["0"]), data(), Checkpoints(), epochs=1)
    fit(classifier(init_from=path, freeze=["0"]), data(), epochs=2, ckpt_path="checkpoints/last.ckpt")


def test_the_head_of_a_checkpoint_with_other_classes_of_the_same_number_is_new():
    fit(classifier(), data(), Checkpoints(), epochs=1)
    content = torch.load("checkpoints/last.ckpt", weights_only=True)
    names = content["data"]["class_names"]
    trained = {name.removeprefix("network."): value for name, value in content["state_dict"].items()}
    for others, new in {(*names,): set(), ("x", *names[1:]): HEAD}.items():
        content["data"]["class_names"] = list(others)
        torch.save(content | {"config": {}}, "other.ckpt")
        started = network(3)
        line = load_initial_weights(started, "other.ckpt", names)
        assert changed(trained, started.state_dict()) == new
        assert ("new: 2.weight, 2.bias" in line) == bool(new)


def test_weights_of_another_network_and_other_files_are_refused():
    torch.save(nn.Linear(2, 2).state_dict(), "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: only 0 of the network's 9 tensors .*the file has weight, bias"):
        load_initial_weights(network(), "other.pth")
    torch.save([1, 2], "list.pth")
    with pytest.raises(ValueError, match="list.pth: the file holds no state dict"):
        load_initial_weights(network(), "list.pth")
    with pytest.raises(FileNotFoundError, match="gone.pth: there is no such file"):
        load_initial_weights(network(), "gone.pth")
