"""Each class of mistake ends in one line that names it and, if something similar exists, what was meant."""

from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from project_for_tests import PACKAGE, main

from litengine.cli import errors

STOP = "trainer:\n  callbacks:\n  - class_path: lightning.pytorch.callbacks.EarlyStop"
SGD = "model:\n  optimizer:\n    class_path: torch.optim.SGD\n    init_args:\n      "
CROP = f"data:\n  augment:\n  - class_path: {PACKAGE}.augment.RandomCrop\n"
JITTER = (
    "data:\n  augment:\n  - class_path: torchvision.transforms.v2.ColorJitter\n    init_args:\n      brightnes: 1\n"
)
# Arguments, the text of my.yaml if they name it, and words of the message
MISTAKES = [
    ("fti", "", "unknown verb fti: say what to do: fit, validate, test, predict"),
    ("--trainer.max_epochs 3 fit", "", "fit comes first"),
    ("fit there.yaml", "", "unrecognized arguments: there.yaml: write an option as in --data.batch_size 32"),
    ("validate --ckpt_path a.ckpt b.ckpt", "", "validate takes one checkpoint, not a.ckpt, b.ckpt"),
    ("demo --ckpt_path a.ckpt --ckpt_path b.ckpt", "", "give --ckpt_path once"),
    ("fit --trainer.max_epochs", "", "--trainer.max_epochs: expected one argument"),
    ("fit --dropuot 0.2", "", "unknown option --dropuot: did you mean --model.network.dropout?"),
    ("fit --data.augment.2.padding 3", "", "data.augment has 0 items, counted from 0"),
    ("fit --config my.yaml --data.augment.0.padd 3", CROP, "--data.augment.padd: did you mean --data.augment.padding?"),
    ("fit --config my.yaml", "data: 3\n", "my.yaml:1: data is 3, but must be a group of settings"),
    ("fit --config my.yaml", "trainer:\n\ndata: {batch_size: 3}\n", "my.yaml:1: trainer is empty, but must be a group"),
    ("fit --config my.yaml --data.batch_size -1", "model: {}\ntrainer: {}\n", "batch_size is -1"),
    (
        "fit --config my.yaml",
        SGD.replace("    init_args:\n  ", "") + "lr: 1\n",
        "torch.optim.SGD: the arguments of a class belong under its init_args",
    ),
    # of a flag and a config, the one with the wrong value
    (
        "fit --config my.yaml --trainer.precision 17",
        "trainer: {precision: 16-mixed}\n",
        "error: --trainer.precision is 17",
    ),
    ("fit --config my.yaml --trainer.precision 32", "trainer: {precision: 17}\n", "my.yaml:1: trainer.precision is 17"),
    ("fit --config my.yaml --data.mean [a,b]", "data: {mean: [0.5, 0.5]}\n", "error: --data.mean is [a,b]"),
    (
        "fit --config my.yaml --data.augment.0.padding x",
        f"{CROP}    init_args: {{padding: 2}}\n",
        "padding is x: Expected",
    ),
    ("fit --data.augment [3]", "", "error: --data.augment is [3]: Not a valid subclass of Augment"),
    ("fit --trainer.epochs 3", "", "unknown option --trainer.epochs: did you mean --trainer.max_epochs?"),
    ("fit --trainer.nonsense 3", "", "trainer.max_epochs, trainer.min_epochs, …"),
    ("fit --model.network torchvision.models.resnet18 --model.network.weights X", "", "is X: Expected a member of"),
    ("export a.ckpt", "", "unrecognized arguments: a.ckpt: write --ckpt_path best.ckpt"),
    (
        "fit --config my.yaml",
        f"{SGD}lrr: 1\n",
        "my.yaml:5: unknown key model.optimizer.lrr: did you mean model.optimizer",
    ),
    (
        "fit --config my.yaml",
        "trainer:\n  max_epochs: [1, 2]\n",
        "my.yaml:2: trainer.max_epochs is [1, 2]: Expected a int",
    ),
    ("fit --config my.yaml", f"{SGD}lr: high\n", "my.yaml:5: model.optimizer.init_args.lr is high: Expected a float"),
    ("fit --model.network packagee.Net", "", "No module named 'packagee': pip install packagee, or is packagee.py"),
    ("fit --config my.yaml", f"{STOP}ing\n", "my.yaml:3: trainer.callbacks", "has no attribute 'EarlyStoping'"),
    ("fit --model.network torch.optim.SGD", "", "torch.optim.SGD does not correspond to a subclass of Module"),
    (
        "fit --config my.yaml",
        JITTER,
        "my.yaml:5: unknown key data.augment.brightnes: did you mean data.augment.brightness?",
    ),
    ("fit --data.source litengine.data.ImageFolder", "", "the following arguments are required: root"),
    ("fit --config tere.yaml", "", "there is no config tere.yaml: did you mean there.yaml?"),
    ("fit --config my.yaml", "data:\n  - [1\nmodel: 3\n", "my.yaml:3: not valid YAML:"),
    ("fit --config my.yaml", "just words\n", "my.yaml holds no settings"),
    ("fit --config my.yaml", "data:\n  batch_size: ${NOT_SET}\n", "the environment has no variable 'NOT_SET'"),
    ("predict --ckpt_path a.ckpt --imags x", "", "unknown option --imags: did you mean --images?"),
    # what only Lightning or a class finds wrong
    ("fit --trainer.max_epochs -5", "", "max_epochs", "-5"),
    ("fit --data.batch_size -1", "", "batch_size is -1"),
    ("fit --trainer.logger MLFlowLogger", "", "pip install -U 'mlflow"),
    ("fit --runs there.yaml", "", "Not a directory"),
]


@pytest.fixture
def fail(capsys):
    """Runs a command line beside there.yaml; it has to end with one line and exit code 2."""
    Path("there.yaml").write_text("data:\n  batch_size: 3\n")

    def run(args):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        assert stopped.value.code == 2
        out, err = capsys.readouterr()
        message = err[err.index("error: ") :].strip("\n")
        assert "\n" not in message and not {"usage", "Subclass"} & {*(out + err).split()} and "Traceback" not in err
        return message

    return run


@pytest.mark.parametrize(("args", "config", "words"), [(args, config, words) for args, config, *words in MISTAKES])
def test_a_mistake_is_named_in_one_line(fail, args, config, words):
    Path("my.yaml").write_text(config)
    message = fail(args.split())
    assert not [word for word in words if word not in message], message
    assert not Path("runs").exists()


def raised(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        call()
    return caught.value


def instantiate_classes(build):
    """Named as the part of LightningCLI that builds things from the settings."""
    build()


def test_bugs_keep_their_traceback(monkeypatch):
    import torch

    def wrong_rate():
        torch.optim.SGD([torch.zeros(1)], lr=-1)

    assert errors.is_for_the_user(raised(lambda: instantiate_classes(wrong_rate)))
    assert not errors.is_for_the_user(raised(wrong_rate))
    assert not errors.is_for_the_user(raised(lambda: instantiate_classes(lambda: len(3))))
    assert not errors.is_for_the_user(raised(lambda: {}["key"]))
    assert not errors.is_for_the_user(raised(lambda: Path("/no/such/file").read_text()))
    wrong_setting = raised(lambda: Trainer(max_epochs=-5))
    assert isinstance(wrong_setting, MisconfigurationException) and errors.is_for_the_user(wrong_setting)
    monkeypatch.setenv("LITENGINE_TRACEBACK", "1")
    assert not errors.is_for_the_user(wrong_setting)
