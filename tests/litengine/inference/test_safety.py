"""What the config of a checkpoint may name. Nothing that is refused is called or, outside known packages, imported."""

import builtins
import importlib
import inspect
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import timm
import torch
import torchvision
import yaml
from helpers import checkpoint_of
from project_for_tests import CNN, DATA, MODEL, PACKAGE
from torch import nn

from litengine import project
from litengine.data import Augment, Source
from litengine.inference.predictor import load
from litengine.inference.safe_config import check_config, read_config
from litengine.network import build_network

CONFIGS = sorted(Path(__file__).parents[3].glob("configs/**/*.yaml"))
NETWORK = f"{PACKAGE}.networks.CNN"
OWN = (PACKAGE,)
TORCHVISION = torchvision.models.list_models(module=torchvision.models)
TIMM = timm.list_models()
MODELS = {*TORCHVISION, *TIMM, "create_model", "get_model"}
Config = dict[str, Any]


@pytest.fixture(autouse=True)
def evil(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project of the repository, and a module in the working directory that runs code when it is imported."""
    monkeypatch.setattr(project, "_paths", (MODEL, DATA))
    Path("evil.py").write_text(
        "open('RAN', 'w').close()\nimport functools, os\nfrom torch import nn\n"
        "class Net(nn.Identity): ...\ndef make(): return Net()\ndef path() -> str: ...\n"
        "partial = functools.partial(nn.ReLU)\ninstance = nn.ReLU()\n"
    )
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "evil", raising=False)


# Positions: where a class path may stand in a config, down to the third level, and the classes that belong there


def spec(path: Any, /, **arguments: Any) -> Config:
    return {"class_path": path, "init_args": arguments}


def network(path: Any, /, **arguments: Any) -> Config:
    return {"model": {"network": spec(path, **arguments)}}


def dataset(path: Any, /, **arguments: Any) -> Config:
    return {"data": {"source": spec("litengine.data.TorchDataset", train=spec(path, **arguments))}}


POSITIONS: dict[str, tuple[type | tuple[type, ...], Callable[[Any], Config]]] = {
    "network": (nn.Module, lambda spec: {"model": {"network": spec}}),
    "loss": (nn.Module, lambda spec: {"model": {"network": None, "loss": spec}}),
    "optimizer": (torch.optim.Optimizer, lambda spec: {"model": {"optimizer": spec}}),
    "schedule": (
        (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau),
        lambda spec: {"model": {"lr_scheduler": spec}},
    ),
    "source": ((), lambda spec: {"data": {"source": spec}}),
    "augment": ((), lambda spec: {"data": {"augment": [spec]}}),
    "scalar": ((), lambda spec: {"data": {"batch_size": spec}}),
    "group": ((), lambda spec: {"model": {"parameter_groups": {"norms": {"lr": spec}}}}),
    "activation": (nn.Module, lambda spec: network(NETWORK, activation=spec)),
    "width": ((), lambda spec: network(NETWORK, widths=[spec])),
    "dataset": (
        torch.utils.data.Dataset,
        lambda value: {"data": {"source": spec("litengine.data.TorchDataset", train=value)}},
    ),
    "callable": ((), lambda spec: {"model": {"loss": lossy(spec)}}),
    "unknown": ((), lambda spec: network("torchvision.ops.FeaturePyramidNetwork", unknown=spec)),
    "transform": ((), lambda spec: dataset("torchvision.datasets.FakeData", transform=spec)),
    "builder": (nn.Module, lambda spec: network("timm.create_model", model_name="resnet10t", act_layer=spec)),
    "dict_kwargs": (
        (),
        lambda spec: {
            "model": {"network": {"class_path": "torchvision.models.resnet18", "dict_kwargs": {"anything": spec}}}
        },
    ),
    "deep": (
        (),
        lambda value: dataset(
            "torch.utils.data.Subset",
            dataset=spec("torchvision.datasets.FakeData", target_transform=value),
            indices=[0],
        ),
    ),
}


def lossy(value: Any) -> Config:
    return spec("torch.nn.TripletMarginWithDistanceLoss", distance_function=value)


# What a stranger could name: every public callable of the allowed packages and of others that are installed with them

PLACES = """
torch torch.nn torch.nn.functional torch.nn.init torch.nn.utils torch.nn.utils.stateless torch.nn.utils.rnn
torch.nn.utils.parametrize torch.nn.attention torch.optim torch.optim.lr_scheduler torch.optim.swa_utils
torch.hub torch.jit torch.package torch.serialization torch.utils.cpp_extension torch.utils.data torch.func
torch.compiler torch.utils.model_zoo torch.distributed torch.multiprocessing torchvision.datasets
torchvision.datasets.utils torchvision.datasets.folder torchvision.datasets.lsun torchvision.io
torchvision.models torchvision.models.detection torchvision.ops torchvision.transforms
torchvision.transforms.functional torchvision.transforms.v2 torchvision.utils
torchvision.transforms.v2.functional timm timm.data timm.layers timm.loss timm.models timm.optim timm.scheduler
timm.utils torchmetrics torchmetrics.classification torchmetrics.functional torchmetrics.text lightning.pytorch
lightning.pytorch.callbacks lightning.pytorch.cli lightning.pytorch.loggers lightning.pytorch.utilities
litengine.cli litengine.cli.errors litengine.data litengine.data.sources.cache litengine.data.sources.decode
litengine.data.sources.download litengine.files litengine.optim litengine.project litengine.inference.predictor
litengine.study litengine.training litengine.training.checkpoint_files PACKAGE PACKAGE.networks PACKAGE.model
PACKAGE.data os posix subprocess shutil builtins functools operator importlib pickle runpy socket ctypes code
pathlib types jsonargparse yaml numpy
""".replace("PACKAGE", PACKAGE)
FIXED = """
evil.Net evil.make evil.partial evil.instance torch.os.system torch.nn.modules.module.functools.partial
torch.nn.Linear.forward torch.nn.ReLU.__init__ torch.nn.utils.stateless.functional_call
torch.nn.functional.os.system torch.nn.utils._deprecation_utils.lazy_deprecated_import
torch.nn.attention._fa4.register_flash_attention_fa4 torchvision.models._utils.IntermediateLayerGetter
torchvision.models.list_models torchvision.datasets.LSUN torchvision.datasets.ImageNet torchvision.datasets.Cityscapes
torchvision.models.feature_extraction.DualGraphModule timm.models.FeatureGraphNet timm.models.GraphExtractNet
timm.models._hub.load_state_dict_from_hf
timm.models._factory.load_checkpoint timm.models.load_checkpoint litengine.data.np.load
litengine.data.sources.pixels.Image.open PACKAGE.load PACKAGE.__main__.main
lightning.pytorch.cli.instantiate_class torch.classes.load_library torch.ops.load_library
""".replace("PACKAGE", PACKAGE)


def public_callables() -> Iterator[tuple[str, Any]]:
    for place in PLACES.split():
        module = importlib.import_module(place)
        for name in dir(module):
            if not name.startswith("_") and callable(found := getattr(module, name, None)):
                yield f"{place}.{name}", found


def hostile(count: int) -> Iterator[tuple[str, Config]]:
    """Each callable at `count` positions where its kind does not belong: as a spec, as a spec with arguments, as a
    string, and as YAML in a string."""
    forms: list[Callable[[str], Any]] = [
        spec,
        lambda path: spec(path, command="touch RAN", path="RAN", fn="os.system", new_module="os"),
        lambda path: {**spec(path), "dict_kwargs": {"anything": spec("os.system", command="touch RAN")}},
        lambda path: f"{{class_path: {path}}}",
        str,
    ]
    positions = itertools.cycle(POSITIONS.items())
    every = itertools.chain(public_callables(), ((path, None) for path in FIXED.split()))
    for (path, found), form in zip(every, itertools.cycle(forms), strict=False):
        for name, (kinds, make) in itertools.islice(positions, count):
            is_text = form in (str, forms[3]) and name in PLAIN_TEXT
            if not is_text and not _belongs(found, kinds, name):
                yield f"{path} at {name}", make(form(path))


PLAIN_TEXT = ("scalar", "group", "width", "builder")  # positions whose types take any string, or no string at all


MAKES_CODE_OR_FILES = ("FeatureGraphNet", "GraphExtractNet", "ImageNet", "Cityscapes", "LSUN", "LSUNClass")


def _belongs(found: Any, kinds: Any, name: str) -> bool:
    if getattr(found, "__name__", "") in MAKES_CODE_OR_FILES:
        return False
    if not inspect.isclass(found):
        return name in ("network", "loss") and getattr(found, "__name__", "") in MODELS
    own = {"source": Source, "augment": (Augment, torchvision.transforms.v2.Transform)}.get(name, kinds)
    return bool(own) and any(base in inspect.getmro(found) for base in (own if isinstance(own, tuple) else (own,)))


# The hook


ALLOWED = ("timm.models._registry", "torchvision.models._api", "torchvision.models._utils", "litengine.project")


@contextmanager
def nothing_called() -> Iterator[None]:
    """Fails if a function or class of a hostile config is called. Those that the check itself needs are left out."""
    watched: dict[Any, str] = {}
    for path, found in public_callables():
        defined = str(getattr(found, "__module__", None))
        if defined in ALLOWED or defined.partition(".")[0] in sys.stdlib_module_names:
            continue
        if inspect.isclass(found):
            for method in ("__init__", "__new__"):
                if inspect.isfunction(own := vars(found).get(method)) and own.__module__ == defined:
                    watched[own.__code__] = path
        elif inspect.isfunction(found):
            watched[found.__code__] = path
    commands = {getattr(os, name) for name in ("system", "execv", "fork", "remove", "rename", "mkdir", "kill")}
    commands |= {builtins.eval, builtins.input}
    ran: list[str] = []

    def hook(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code in watched:
            ran.append(f"{watched[frame.f_code]} from {frame.f_back and frame.f_back.f_code.co_qualname}")
        elif event == "c_call" and not isinstance(argument, type(len).__mro__[0]) and argument in commands:
            ran.append(str(argument))

    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert ran == [] and not Path("RAN").exists()


@pytest.mark.parametrize("count", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_no_hostile_config_passes_or_calls_anything(count: int) -> None:
    cases = list(hostile(count))
    passed = []
    with nothing_called():
        for name, config in cases:
            try:
                check_config(config, OWN)
            except ValueError as error:
                assert "in the checkpoint" in str(error)
            else:
                passed.append(name)
    assert passed == [] and len(cases) > 5000


# Ways around


def refused(config: Any, *trusted: str) -> str:
    with nothing_called(), pytest.raises(ValueError, match="checkpoint") as raised:
        check_config(config, [*OWN, *trusted])
    return str(raised.value)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value] * 10
    return value


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model": {"network": "os.system"}}, "model.network in the checkpoint is os.system"),
        (network("posix.system"), "class_path in the checkpoint is posix.system, which belongs to Python itself"),
        (network("evil.Net"), "and was not imported. If you know what is in it: --trust evil"),
        (network("torch.load"), "it is torch.serialization.load"),
        (network("torch.hub.load"), "public part of a network"),
        (network(f"{PACKAGE}.__main__.main"), "full import path"),
        ({"model": {"network": "ReLU"}}, "a full import path is needed"),
        ({"model": {"network": "{class_path: evil.Net}"}}, "a full import path is needed"),
        (network(NETWORK, activation="[{class_path: evil.Net}]"), "a full import path is needed"),
        (network(NETWORK, activation="evil . Net"), "a full import path is needed"),
        (network("torchvision.models.resnet18", any="Lambda"), "a full import path is needed"),
        ({"model": {"network": "hidden"}}, "a full import path is needed"),
        ({"model": "hidden"}, "settings are needed"),
        ({"model": {"network.class_path": "evil.Net"}}, "is not a name of a setting"),
        ({"data": {"augment+": [{"class_path": "evil.Net"}]}}, "is not a name of a setting"),
        ({"model.network": {"class_path": "evil.Net"}}, "it may set name, seed_everything, model and data"),
        ({"trainer": {"callbacks": "evil.Net"}}, "the checkpoint sets trainer"),
        ({"config": "hidden"}, "the checkpoint sets config"),
        ({"name": "../../elsewhere"}, "a plain name or a number is needed"),
        ({"name": ["a"]}, "a plain name or a number is needed"),
        ({"seed_everything": {"class_path": "evil.Net"}}, "a plain name or a number is needed"),
        (network(["evil", "Net"]), "is not a full import path"),
        ({"model": {"network": {"init_args": {}}}}, "class_path is needed"),
        ({"model": {"network": {**spec(NETWORK), "__path__": "hidden"}}}, "class_path is needed"),
        (network(NETWORK, hidden={1, 2}), "is a set: plain settings are needed"),
        ([], "holds no settings"),
        (network("timm.create_model", model_name="hf-hub:a/b"), "names the model 'hf-hub:a/b', which timm does not"),
        (network("timm.create_model", model_name="local-dir:a"), "which timm does not have"),
        (network("torchvision.models.get_model", name="maskrcnn_resnet50_fpn"), "which torchvision does not have"),
        (network("torchvision.models.detection.maskrcnn_resnet50_fpn"), "which is not of type Module"),
        (network("torch.optim.Adam"), "torch.optim.Adam, which is not of type Module"),
        (network(f"{PACKAGE}.load"), f"{PACKAGE}.load, which is not of type Module"),
        (network(NETWORK, activation="torchvision.models.resnet18"), "which is not of type Module"),
        ({"model": {"optimizer": spec("torch.nn.Linear")}}, "which is not of type Optimizer"),
        ({"data": {"source": spec("torchvision.datasets.FakeData")}}, "which is not of type Source"),
        ({"model": {"loss": lossy("torch.nn.functional.mse_loss")}}, "mse_loss, which is not of type Tensor"),
    ],
)
def test_ways_around_are_closed(config: Any, said: str) -> None:
    Path("hidden").write_text("class_path: evil.Net")
    assert said in refused(config)


def test_loading_builds_the_network_and_nothing_else() -> None:
    for path in ("torch.nn.utils.stateless.functional_call", "os.system", "torchvision.transforms.v2.Lambda"):
        model = {**network(NETWORK, num_classes=3, image_size=8)["model"], "loss": spec(path, lambd="os.system")}
        save("best.ckpt", {"model": model}, CNN(num_classes=3, image_size=8))
        assert load("best.ckpt", "cpu", OWN).class_names == ["a", "b", "c"]
        with pytest.raises(ValueError, match="model.loss"):
            read_config("best.ckpt", OWN)


@pytest.mark.parametrize("nesting", [nested(40), circular()])
def test_a_config_without_end_is_refused_in_a_second(nesting: list[Any]) -> None:
    save("best.ckpt", {"model": nesting}, nn.Identity())
    start = time.monotonic()
    with pytest.raises(ValueError, match="100,000 values"):
        load("best.ckpt", "cpu")
    assert time.monotonic() - start < 2


def save(path: str, config: Config, network: nn.Module) -> None:
    torch.save(checkpoint_of(network, None) | {"config": config}, path)


# What passes


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_pass(config: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    given = {key: settings.get(key, {}) for key in ("model", "data")} | {"name": "a.b", "seed_everything": 0}
    assert check_config(given, OWN) == (given, [])


@pytest.mark.parametrize(
    "config",
    [
        network(NETWORK, activation="torch.nn.GELU", widths=[16, 32], pooling="max"),
        network("torchvision.models.resnet18", norm_layer="torch.nn.InstanceNorm2d"),
        network("timm.models.resnet18", act_layer="gelu"),
        {"model": {"lr_scheduler": spec("lightning.pytorch.cli.ReduceLROnPlateau")}},
        {"model": {"lr_scheduler": spec("torch.optim.lr_scheduler.OneCycleLR", max_lr=1)}},
        {"model": {"lr_scheduler": None, "mixing": spec("torchvision.transforms.v2.CutMix", alpha=1.0)}},
        {"model": {"optimizer": spec("timm.optim.Lamb")}},
        {"data": {"source": spec("litengine.data.ImageFolder", root="images.v2")}},
        dataset("torchvision.datasets.FashionMNIST", root="data.old", train=True, download=False),
    ],
)
def test_parts_of_a_training_pass(config: Config) -> None:
    assert check_config(config, OWN) == (config, [])


def test_what_a_dataset_does_by_default_is_switched_off() -> None:
    for name in ("SBU", "SEMEION"):  # they download by default
        config, _ = check_config(dataset(f"torchvision.datasets.{name}", root="data"), OWN)
        assert config["data"]["source"]["init_args"]["train"]["init_args"] == {"root": "data", "download": False}
    slow: Config = {"model": {"compile": "max-autotune", "tta": "flip"}}
    assert check_config(slow, OWN) == ({"model": {"tta": "flip"}}, ["model.compile"])
    many = {"data": {"source": spec("litengine.data.TorchDataset", train=None, num_workers=10**6)}}
    assert check_config(many, OWN)[0]["data"]["source"]["init_args"] == {"train": None}


def test_every_torchvision_and_timm_classifier_passes() -> None:
    for path in [*(f"torchvision.models.{name}" for name in TORCHVISION), *(f"timm.models.{name}" for name in TIMM)]:
        check_config(network(path))
    assert len(TORCHVISION) >= 80 and len(TIMM) > 1000


WEIGHTED = ("resnet18", "vit_b_16", "mobilenet_v3_small", "regnet_y_400mf", "squeezenet1_0", "mnasnet0_5")
BUILT = [
    *(spec(f"torchvision.models.{name}", weights="DEFAULT", num_classes=3) for name in WEIGHTED),
    *(spec(f"timm.models.{name}", pretrained=True) for name in ("convnext_atto", "vit_tiny_patch16_224", "mixnet_s")),
    spec("torchvision.models.get_model", name="shufflenet_v2_x0_5", weights="DEFAULT"),
    spec("timm.create_model", model_name="resnet10t.c3_in1k", pretrained=True, checkpoint_path="a.bin"),
    spec("timm.create_model", model_name="resnet10t", pretrained=True, pretrained_cfg_overlay={"file": "a.bin"}),
]


@pytest.mark.parametrize("built", BUILT, ids=lambda built: str(built["class_path"]))
def test_networks_that_started_from_weights_elsewhere_load_without_them(
    built: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *a, **k: pytest.fail("downloads"))
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: pytest.fail("downloads"))
    config, ignored = check_config({"model": {"network": built}})
    network = build_network(config["model"]["network"])
    assert ignored == [] and sum(parameter.numel() for parameter in network.parameters()) > 1000
    for name in ("weights", "pretrained", "checkpoint_path"):
        assert name not in config["model"]["network"]["init_args"]


@pytest.mark.parametrize(
    ("config", "ignored"),
    [
        ({"source": spec("litengine.data.CIFAR10", root="data", url="http://evil.example")}, ["source.init_args.url"]),
        (
            dataset("torchvision.datasets.FashionMNIST", root="data", download=True)["data"],
            ["source.init_args.train.init_args.download"],
        ),
        ({"source": spec("litengine.data.CIFAR10", root="../evil")}, ["source.init_args.root"]),
        ({"source": spec("litengine.data.CIFAR10", root="/evil/not/there")}, ["source.init_args.root"]),
        ({"source": spec("litengine.data.Stream", root="s3://evil/stream")}, ["source.init_args.root"]),
        ({"source": spec("litengine.data.ImageFolder", root="a", cache_dir="/etc")}, ["source.init_args.cache_dir"]),
        ({"source": spec("litengine.data.ImageFolder", root="a", cache_dir="../b")}, ["source.init_args.cache_dir"]),
        ({"source": spec("litengine.data.ImageFolder", root="a", cache_dir="data/cache")}, []),
        ({"source": spec("litengine.data.ImageFolder", root="/")}, ["source.init_args.root"]),
        ({"source": spec("litengine.data.ImageFolder", root="up")}, ["source.init_args.root"]),
        ({"source": spec("litengine.data.CSV", table="a.csv", root="/proc/self")}, ["source.init_args.root"]),
        ({"source": spec("litengine.data.ImageFolder", root=".")}, []),
    ],
)
def test_addresses_downloads_and_endless_folders_are_not_used(config: Config, ignored: list[str]) -> None:
    Path("up").symlink_to("..")
    checked, found = check_config({"data": config}, OWN)
    assert found == [f"data.{key}" for key in ignored]
    assert not any(word in str(checked) for word in ("evil", "True", "/etc", ".."))


def test_trust_lets_a_package_in_and_nothing_that_it_imports() -> None:
    assert "--trust evil" in refused(network("evil.Net"), "evi", "evil.Nets")
    check_config(network("evil.Net"), ["evil"])
    assert Path("RAN").exists()  # importing it ran it
    Path("RAN").unlink()
    check_config(network("evil.make"), ["evil"])  # a function, without the type that it returns
    assert "which is not of type Module" in refused(network("evil.path"), "evil")
    assert "cannot be imported" in refused(network("evil.os.system"), "evil")
    for path in ("evil.partial", "evil.instance"):
        assert "is neither a class nor a function" in refused(network(path), "evil")
    # one thing of an allowed package, by the name that the message gives
    loader = dataset("torchvision.datasets.DatasetFolder", loader="torch.load")
    assert refused(loader).endswith("--trust torch.serialization.load")
    check_config(loader, ["torch.serialization.load"])
    transform = dataset("torchvision.datasets.FakeData", transform=spec("torchvision.transforms.v2.ToImage"))
    name = refused(transform).rpartition("--trust ")[2]
    check_config(transform, [name])
