"""Initial weights, and parts of a network that are frozen for a while."""

from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from helpers import FakeSource, fit
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

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
    for epochs in (1, 2):
        fit(classifier(**options), data(), Checkpoints(), epochs=epochs)
        rest = States()
        fit(classifier(**options), data(), rest, epochs=4, ckpt_path="checkpoints/last.ckpt")
        assert changed(whole.epochs[-1], rest.epochs[-1]) == set()


def test_a_pattern_that_matches_nothing_names_the_modules():
    with pytest.raises(ValueError, match=r"model.freeze 'backbone' matches no parameter of the network; .* 0, 1, 2"):
        classifier(freeze=["backbone"])
    with pytest.raises(ValueError, match=r"model.freeze \['0', '2'\] leaves nothing to train"):
        classifier(freeze=["0", "2"])
    with pytest.raises(ValueError, match="model.unfreeze_at_epoch 1 has no effect without model.freeze"):
        classifier(unfreeze_at_epoch=1)


CONFIG = """
optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.5, weight_decay: 0}}
lr_scheduler:
  class_path: torch.optim.lr_scheduler.OneCycleLR
  init_args: {max_lr: 0.2, total_steps: 6, cycle_momentum: false}
parameter_groups: {norms: {weight_decay: 0.01}, "2": {weight_decay: 0.5}, "0.0.*": {momentum: 0.9}}
layer_decay: 0.25
"""
EXPECTED = [  # from the last layer to the first: role, momentum, weight decay, factor of the rate
    *(("matrices", 0, 0.5, 1), ("biases", 0, 0.5, 1)),
    *(("filters", 0.9, 0, 0.25), ("norms", 0, 0.01, 0.25), ("biases", 0.9, 0, 0.25)),
]


def decayed(**changed) -> ImageClassifier:
    parser = ArgumentParser()
    parser.add_class_arguments(ImageClassifier, "model", skip={"network"}, instantiate=False)
    given = yaml.safe_load(CONFIG)
    made = parser.instantiate(parser.parse_object({"model": given})).model
    return ImageClassifier(network(), **({name: made[name] for name in given} | changed))


class Groups(Callback):
    """The settings of every group in every step."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[str, float, float, float]]] = []

    def on_train_batch_start(self, trainer, *args):
        groups = trainer.optimizers[0].param_groups
        self.steps.append([(each["role"], each["momentum"], each["weight_decay"], each["lr"]) for each in groups])


def test_groups_by_pattern_and_layer_have_their_exact_rates_also_after_a_resume():
    plain, groups, rest, whole, resumed = Groups(), Groups(), Groups(), States(), States()
    fit(decayed(lr_scheduler=None), data(), plain, epochs=1)
    assert plain.steps == [[(role, momentum, decay, 0.5 * part) for role, momentum, decay, part in EXPECTED]] * 3
    fit(decayed(), data(), whole, groups, epochs=2)
    schedule = OneCycleLR(torch.optim.SGD(network().parameters()), 0.2, total_steps=6)
    for step in groups.steps:
        (rate,) = schedule.get_last_lr()
        assert step == [(role, m, decay, pytest.approx(rate * part)) for role, m, decay, part in EXPECTED]
        schedule.optimizer.step()
        schedule.step()
    fit(decayed(), data(), Checkpoints(), epochs=1)
    fit(decayed(), data(), resumed, rest, epochs=2, ckpt_path="checkpoints/last.ckpt")
    assert rest.steps == groups.steps[3:] and changed(whole.epochs[-1], resumed.epochs[-1]) == set()


@pytest.mark.parametrize("form", ["ckpt", "nested.pth", "safetensors"])
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


def test_auxiliary_heads_of_other_classes_are_new_too():
    trained, started = (torchvision.models.googlenet(num_classes=3, init_weights=False) for _ in range(2))
    weights = {f"network.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": weights, "data": {"class_names": ["x", "b", "c"]}, "config": {}}, "other.ckpt")
    load_initial_weights(started, "other.ckpt", ["a", "b", "c"])
    new = {f"{head}.{kind}" for head in ("fc", "aux1.fc2", "aux2.fc2") for kind in ("weight", "bias")}
    assert changed(trained.state_dict(), started.state_dict()) == new


def test_weights_of_another_network_and_other_files_are_refused():
    torch.save(nn.Linear(2, 2).state_dict(), "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: only 0 of the network's 9 tensors .*the file has weight, bias"):
        load_initial_weights(network(), "other.pth")
    torch.save([1, 2], "list.pth")
    with pytest.raises(ValueError, match="list.pth: the file holds no state dict"):
        load_initial_weights(network(), "list.pth")
    torch.save({name: value.to("meta") for name, value in network().state_dict().items()}, "hollow.pth")
    with pytest.raises(ValueError, match=r"hollow.pth: While copying the parameter"):
        load_initial_weights(network(), "hollow.pth")
    torch.save(nn.Linear(2, 2), "whole.pth")
    for name in ("cut.pth", "cut.safetensors"):
        Path(name).write_text("cut")
    for name in ("whole.pth", "cut.pth", "cut.safetensors"):
        with pytest.raises(ValueError, match=f"{name}: the file is damaged, or holds more than tensors"):
            load_initial_weights(network(), name)
    with pytest.raises(FileNotFoundError, match="gone.pth: there is no such file"):
        load_initial_weights(network(), "gone.pth")
