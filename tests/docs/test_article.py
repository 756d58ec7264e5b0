"""The script on docs/from-the-article.md: it runs, and it is configs/cnn.yaml."""

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from lightning.pytorch import Callback
from pages import ROOT, blocks
from PIL import Image
from project_for_tests import DATA, MODEL
from torch import nn

from litengine import project
from litengine.cli.trainer import CLI
from litengine.data import Digits

CONFIG = ROOT / "configs/cnn.yaml"
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def article(tmp_path: Path) -> dict[str, Any]:
    """The names of the script."""
    (script,) = [block for block in blocks("docs/from-the-article.md") if block.title == "article.py"]
    (tmp_path / "article.py").write_text(script.text)
    return runpy.run_path("article.py")


class FewDigits(torch.utils.data.Dataset):
    """In the place of torchvision's CIFAR10."""

    def __init__(self, root: str, train: bool = True, transform: Any = None, download: bool = False) -> None:
        arrays = Digits().load("train" if train else "test")
        self.images = [Image.fromarray(image) for image in arrays.images[:60].permute(0, 2, 3, 1).numpy()]
        self.labels = arrays.labels[:60].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


class Watch(Callback):
    """Keeps the batches and the losses, and draws the dropout of batch n from seed n."""

    def __init__(self, network: nn.Module) -> None:
        self.before = copy.deepcopy(network.state_dict())
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((batch[0].clone(), batch[1].clone()))
        torch.manual_seed(batch_idx)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))


class Watched(CLI):
    def before_fit(self) -> None:
        self.watch = Watch(self.model.network)
        self.trainer.callbacks.append(self.watch)


def taken_over(weights: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """The weights by the names of another network with the same layers in the same order."""
    return dict(zip(network.state_dict(), (value.clone() for value in weights.values()), strict=True))


def test_it_runs(article: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FewDigits)
    names = article["main"].__globals__
    names["EPOCHS"] = 2
    article["main"]()
    first, second, tested = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1: val loss") and second.startswith("epoch 2: val loss")
    assert 0 <= float(tested.removeprefix("test acc ")) <= 1
    assert Path("best.pt").is_file()


def test_its_settings_are_those_of_the_config(article: dict[str, Any]) -> None:
    config = yaml.safe_load(CONFIG.read_text())
    trainer, data, model = config["trainer"], config["data"], config["model"]
    assert trainer["max_epochs"] == article["EPOCHS"]
    assert (data["batch_size"], data["val_fraction"]) == (article["BATCH_SIZE"], article["VAL_FRACTION"])
    optimizer, schedule = article["make_optimizer"](nn.Linear(1, 1))
    given = model["optimizer"]["init_args"]
    assert given.pop("fused") is True  # the same numbers in fewer operations
    assert given == {name: optimizer.defaults[name] for name in given} and len(given) == 2
    given = model["lr_scheduler"]["init_args"]
    assert given == {name: getattr(schedule, name) for name in given} and len(given) == 3
    text = Path("article.py").read_text()
    assert f"RandomCrop(32, padding={data['augment'][0]['init_args']['padding']})" in text


def test_both_learn_the_same_from_the_same_batches(article: dict[str, Any]) -> None:
    steps = 3
    arguments = [
        "fit", "--config", str(CONFIG), "--data.source", "litengine.data.Digits", "--data.augment", "[]",
        "--data.batch_size", "16", "--trainer.limit_train_batches", str(steps), "--trainer.limit_val_batches", "1",
        "--trainer.max_epochs", "1", "--trainer.precision", "32-true", "--trainer.logger", "false",
        "--model.channels_last", "false",  # else convolutions round otherwise, and Adam makes much of that
        "--data.mean", str(list(article["MEAN"])), "--data.std", str(list(article["STD"])),
    ]  # fmt: skip
    project.use(MODEL, DATA)
    program = Watched(arguments)
    watch = program.watch

    network = article["make_network"]()
    network.load_state_dict(taken_over(watch.before, network))
    optimizer, _ = article["make_optimizer"](network)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    normalize = torchvision.transforms.Normalize(article["MEAN"], article["STD"])
    losses = []
    for number, (images, labels) in enumerate(watch.batches):
        inputs = normalize(images / 255)
        torch.manual_seed(number)
        with torch.no_grad():
            network.train()
            statistics = copy.deepcopy(network.state_dict())
            losses.append(float(nn.functional.cross_entropy(network(inputs), labels)))
            network.load_state_dict(statistics)  # as if BatchNorm had not seen the batch
        torch.manual_seed(number)
        article["train_epoch"](network, [(inputs, labels)], optimizer, scaler)
    assert len(losses) == steps and losses[-1] != pytest.approx(losses[0], rel=1e-2)
    assert losses == pytest.approx(watch.losses, rel=1e-4)
    theirs = taken_over(network.state_dict(), program.model.network)
    no_effect = {f"{name}.bias" for name, layer in program.model.network.named_modules() if type(layer) is nn.Conv2d}
    for name, ours in program.model.network.named_parameters():
        if name not in no_effect:  # BatchNorm takes them out: their gradients are rounding, which Adam makes steps of
            difference = float((ours.detach() - theirs[name]).abs().mean())
            moved = float((ours.detach() - watch.before[name]).abs().mean())
            assert moved > 1e-4 and difference < 0.03 * moved, name
