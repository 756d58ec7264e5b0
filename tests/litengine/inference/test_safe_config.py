"""What the config of a checkpoint may name. Nothing that is refused here is imported, let alone run."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from torch import nn

from litengine.inference.safe_config import check_trusted

CONFIGS = sorted(Path(__file__).parents[3].glob("configs/**/*.yaml"))
CNN = "litcnn.networks.CNN"


@pytest.fixture(autouse=True)
def evil(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working directory, on sys.path, that runs code when it is imported; and nothing else may run."""
    Path("evil.py").write_text(
        "open('RAN', 'w')\nimport os\nfrom torch import nn\nclass Net(nn.Module): pass\ndef make() -> nn.Module: ...\n"
    )
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "evil", raising=False)


def network(path: Any, **arguments: Any) -> dict[str, Any]:
    return {"model": {"network": {"class_path": path, "init_args": arguments}}}


def dataset(path: str, **arguments: Any) -> dict[str, Any]:
    train = {"class_path": path, "init_args": arguments}
    return {"data": {"source": {"class_path": "litengine.data.TorchDataset", "init_args": {"train": train}}}}


def refused(config: Any, *trusted: str) -> str:
    with pytest.raises(ValueError, match="checkpoint") as raised:
        check_trusted(config, trusted)
    assert not Path("RAN").exists()
    return str(raised.value)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_pass(config: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    check_trusted({key: settings.get(key, {}) for key in ("model", "data")} | {"name": "a.b", "seed_everything": 0})


@pytest.mark.parametrize(
    "config",
    [
        network(CNN, activation="torch.nn.GELU", widths=[16, 32], pooling="max"),
        network("torchvision.models.resnet18", weights="IMAGENET1K_V1"),
        network("timm.create_model", model_name="resnet50.a1_in1k", pretrained=True),
        {"model": {"network": {"init_args": {"activation": "torch.nn.GELU"}}, "lr_scheduler": None}},
        {"model": {"lr_scheduler": {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau"}}},
        {"model": {"lr_scheduler": {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 1}}}},
        {"model": {"optimizer": {"class_path": "timm.optim.Lamb"}}},
        {"data": {"source": {"class_path": "litengine.data.ImageFolder", "init_args": {"root": "images.v2"}}}},
        dataset(
            "torchvision.datasets.FashionMNIST",
            root="data.old",
            transform={"class_path": "torchvision.transforms.v2.ToImage"},
        ),
    ],
)
def test_what_training_is_made_of_passes(config: dict[str, Any]) -> None:
    check_trusted(config)


FOREIGN = {
    "os.system": "belongs to Python itself",
    "posix.system": "belongs to Python itself",
    "subprocess.Popen": "belongs to Python itself",
    "builtins.eval": "belongs to Python itself",
    "importlib.import_module": "belongs to Python itself",
    "evil.Net": "and was not imported",
    "jsonargparse.set_parsing_settings": "and was not imported",
    "torch.os.system": "leads out of its package (it is os)",
    "torch.nn.modules.module.functools.partial": "leads out of its package (it is functools)",
    "torch.nn.modules.module.torch.os.system": "leads out of its package (it is os)",
    "litengine.data.np.load": "cannot be imported",
    "litengine.training.checkpoint_files.os.system": "leads out of its package (it is os)",
    "torch.hub.load": "is no part of a network",
    "torch.load": "it is torch.serialization.load",
    "torch.jit.load": "is no part of a network",
    "torch.package.PackageImporter": "is no part of a network",
    "torch.utils.cpp_extension.load": "is no part of a network",
    "torch.utils.data.datapipes.iter.Mapper": "is no part of a network",
    "torchvision.datasets.utils.extract_archive": "is no part of a network",
    "timm.models.load_checkpoint": "it is timm.models._helpers.load_checkpoint",
    "lightning.pytorch.Trainer": "is no part of a network",
    "litengine.cli.main": "is no part of a network",
    "litengine.data.sources.download.download": "is no part of a network",
    "litcnn.__main__.main": "is no full import path",
    "torch.nn.ReLU.__init__": "is no full import path",
    "evil": "is no full import path",
}


@pytest.mark.parametrize("path", FOREIGN)
@pytest.mark.parametrize(
    ("key", "config"),
    [
        ("model.network.class_path", network),
        ("model.optimizer.class_path", lambda path: {"model": {"optimizer": {"class_path": path}}}),
        ("model.lr_scheduler.class_path", lambda path: {"model": {"lr_scheduler": {"class_path": path}}}),
        ("data.source.class_path", lambda path: {"data": {"source": {"class_path": path}}}),
        ("data.augment.0.class_path", lambda path: {"data": {"augment": [{"class_path": path}]}}),
        ("model.network.init_args.activation", lambda path: network(CNN, activation=path)),
        ("model.network.init_args.any.class_path", lambda path: network(CNN, any={"class_path": path})),
        (
            "data.source.init_args.train.init_args.loader",
            lambda p: dataset("torchvision.datasets.DatasetFolder", loader=p),
        ),
    ],
)
def test_foreign_code_is_refused_by_name_wherever_it_stands(path: str, key: str, config: Any) -> None:
    if path == "evil" and not key.endswith("class_path"):
        return  # a word like any other
    said = refused(config(path))
    assert said.startswith(f"{key} in the checkpoint is {path}, which ") and FOREIGN[path] in said


def test_parsing_the_same_without_the_check_imports() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    parser.parse_object({"network": {"class_path": "evil.Net"}})
    assert Path("RAN").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model": {"network": "os.system"}}, "model.network in the checkpoint is os.system"),
        ({"model": {"optimizer": "os.system"}}, "model.optimizer in the checkpoint is os.system"),
        ({"model": {"network": "{class_path: evil.Net}"}}, "model.network.class_path in the checkpoint is evil.Net"),
        (network(CNN, activation="[{class_path: evil.Net}]"), "activation.0.class_path in the checkpoint is evil.Net"),
        (network(CNN, activation="list[evil.Net]"), "activation in the checkpoint is evil.Net"),
        (network(CNN, activation="evil . Net"), "activation in the checkpoint is evil.Net"),
        ({"model": {"network": "hidden"}}, "a config inside a string is not read"),
        (network(CNN, activation="hidden"), "a config inside a string is not read"),
        ({"model": "hidden"}, "settings are needed"),
        ({"model": {"network.class_path": "evil.Net"}}, "is no name of a setting"),
        ({"data": {"augment+": [{"class_path": "evil.Net"}]}}, "is no name of a setting"),
        ({"model.network": {"class_path": "evil.Net"}}, "it may set name, seed_everything, model and data"),
        ({"trainer": {"callbacks": "evil.Net"}}, "the checkpoint sets trainer"),
        ({"config": "hidden"}, "the checkpoint sets config"),
        ({"name": "../../elsewhere"}, "a plain name is needed"),
        ({"name": ".."}, "a plain name is needed"),
        ({"name": ["a"]}, "a name or a number is needed"),
        ({"seed_everything": {"class_path": "evil.Net"}}, "a name or a number is needed"),
        ({"model": {"network": {"class_path": ["evil", "Net"]}}}, "is no full import path"),
        (network(CNN, hidden={1, 2}), "is a set: plain settings are needed"),
        ([], "holds no settings"),
        (network("timm.create_model", model_name="hf-hub:a/b", pretrained=True), "make timm load another file"),
        (network("timm.create_model", model_name="a", checkpoint_path="b"), "make timm load another file"),
        (network("timm.models.resnet50", pretrained_cfg={"url": "http://b"}), "make timm load another file"),
    ],
)
def test_ways_around_are_closed(config: Any, said: str) -> None:
    Path("hidden").write_text("class_path: evil.Net")
    assert said in refused(config)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (network("torch.optim.Adam"), "torch.optim.Adam, which is no Module"),
        (network("torch.nn.functional.relu"), "torch.nn.functional.relu, which is no Module"),
        ({"model": {"optimizer": {"class_path": "torch.nn.Linear"}}}, "which is no Optimizer"),
        (
            {"model": {"lr_scheduler": {"class_path": "torch.optim.Adam"}}},
            "which is no LRScheduler or ReduceLROnPlateau",
        ),
        ({"data": {"source": {"class_path": "torchvision.datasets.FakeData"}}}, "which is no Source"),
        ({"data": {"augment": [{"class_path": "torchvision.transforms.RandomCrop"}]}}, "which is no Augment"),
        (network(CNN, activation="torch.optim.Adam"), "which is no Module"),
    ],
)
def test_each_place_takes_its_kind_only(config: dict[str, Any], said: str) -> None:
    assert said in refused(config)


def test_what_the_user_trusts_is_imported_and_what_it_imports_is_not() -> None:
    assert "--trust evil" in refused(network("evil.Net"), "evi", "evil.Nets")
    check_trusted(network("evil.Net"), ["evil"])
    assert Path("RAN").exists()
    Path("RAN").unlink()
    check_trusted(network("evil.make"), ["evil"])
    check_trusted(network("evil.nn.ReLU"), ["evil"])
    assert "leads out of its package (it is os)" in refused(network("evil.os.system"), "evil")
    assert "cannot be imported" in refused(network("evil.Nett"), "evil")
    # one thing of an allowed package, by the name that the message gives
    loader = dataset("torchvision.datasets.DatasetFolder", loader="torch.load")
    assert refused(loader).endswith("--trust torch.serialization.load")
    check_trusted(loader, ["torch.serialization.load"])
