"""Every mistake ends in one message that names it, and what was meant; the words of jsonargparse are pinned by it."""

from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from litcnn.__main__ import main
from litengine.cli import errors

CALLBACK = "trainer:\n  callbacks:\n  - class_path: lightning.pytorch.callbacks."
SGD = "model:\n  optimizer:\n    class_path: torch.optim.SGD\n    init_args:\n      "

# Arguments, separated by spaces, and words that occur
FLAGS = [
    ("fti", "unknown verb fti: did you mean fit?"),
    ("", "say what to do: fit, validate, test, predict"),
    ("--trainer.max_epochs 3 fit", "fit comes first"),
    ("fit stray", "unexpected stray"),
    ("fit there.yaml", "unexpected there.yaml: did you mean --config there.yaml?"),
    ("fit --model.widht 3", "--model.widht: did you mean --model.network.init_args.widths?"),
    ("fit --model.zzz 3", "--model.zzz: known are network, optimizer, lr_scheduler"),
    ("fit --modle.network X", "--modle.network: did you mean --model.network?"),
    ("fit --max_epochs 3", "--max_epochs: did you mean --trainer.max_epochs?"),
    ("fit --trainer.max_epoch 3", "--trainer.max_epoch: did you mean --trainer.max_epochs?"),
    ("fit --trainer.max_epoch=3", "--trainer.max_epoch: did you mean --trainer.max_epochs?"),
    ("fit --data.source.rot x", "--data.source.rot of litengine.data.Digits"),
    ("fit --data.source ImageFolder --data.source.rot x", "--data.source.rot of litengine.data", "--data.source.root?"),
    (
        "fit --model.network.init_args.withs [1]",
        "withs of litcnn.networks.CNN",
        "mean --model.network.init_args.widths?",
    ),
    ('fit --model.network {"init_args":{"withs":[1]}}', "unknown option --model.network.init_args.withs", "widths?"),
    ("fit --model.optimizer.init_args.lrr 1", "lrr of torch.optim.Adam", "mean --model.optimizer.init_args.lr?"),
    (
        "fit --model.network torchvision.models.resnet18 --model.network.weigts x",
        "did you mean --model.network.weights?",
    ),
    ("fit --trainer.max_epochs many", "--trainer.max_epochs is many: must be int or null"),
    ("fit --trainer.precision 17-mixed", "is 17-mixed: must be one of", "bf16-mixed", "did you mean 16-mixed?"),
    ("fit --model.channels_last maybe", "--model.channels_last is maybe: must be true or false"),
    ("fit --data.mean [a]", "--data.mean is [a]: must be list[float] or null"),
    ("fit --model.network.init_args.pooling men", "pooling is men: must be max or avg"),
    ("fit --model.network.init_args.widths 3", "--model.network.init_args.widths is 3: must be list"),
    ("fit --model.optimizer.lr x", "--model.optimizer.lr is x: must be float or Tensor"),
    ("fit --trainer x", "--trainer is x: must be a group of settings, or a file that is there"),
    ("fit --config no.yaml", "there is no config no.yaml: known are there.yaml"),
    ("fit --config tere.yaml", "there is no config tere.yaml: did you mean there.yaml?"),
    ("fit --config gone/no.yaml", "there is no config gone/no.yaml"),
    ("fit --config .", ". is a folder, not a config"),
    (
        "fit --model.network litcnn.networks.CNNN",
        "is litcnn.networks.CNNN, which does not",
        "mean litcnn.networks.CNN?",
    ),
    ("fit --model.optimizer torch.optim.Adm", "torch.optim.Adm, which does not exist: did you mean torch.optim.Adam?"),
    ("fit --model.optimizer Adm", "did you mean torch.optim.Adam?"),
    ("fit --data.source Imagefolder", "did you mean litengine.data.ImageFolder?"),
    ("fit --trainer.callbacks+ EarlyStoping", "did you mean lightning.pytorch.callbacks.EarlyStopping?"),
    ("fit --model.network no.such.Module", "no.such.Module: No module named 'no'", "working directory /"),
    ("fit --model.network beside.Net", "beside.py lies there, but Python looks for it on PYTHONPATH only"),
    ("fit --model.network torch.optim.SGD", "torch.optim.SGD, which is not of the type Module"),
    ("fit --model.optimizer torch.nn.Linear", "torch.nn.Linear, which is not of the type Optimizer"),
    ("fit --data.source litengine.data.ImageFolder", "needs --data.source.init_args.root"),
    ("fit --trainer.callbacks+ EarlyStopping", "EarlyStopping, which needs --trainer.callbacks.init_args.monitor"),
]

# Text of my.yaml, and words that occur
CONFIGS = [
    ("modle:\n  network: x\n", "my.yaml:1: unknown key modle: did you mean model?"),
    ("trainer:\n  max_epochs: 3\n  max_epoch: 3\n", "my.yaml:3: unknown key trainer.max_epoch: did", "max_epochs?"),
    (f"{SGD}lrr: 1\n", "my.yaml:5: unknown key model.optimizer.init_args.lrr of torch.optim.SGD: did", "init_args.lr?"),
    (f"{SGD}lr: high\n", "my.yaml:5: model.optimizer.init_args.lr is high: must be float or Tensor"),
    ("model:\n  network:\n    class_pth: x\n", "my.yaml:3: unknown key model.network.class_pth", "network.class_path?"),
    ("model:\n  network: 3\n", "my.yaml:2: model.network is 3: must be the path of a class"),
    ("model:\n  network: null\n", "my.yaml:2: model.network is required"),
    (f"{CALLBACK}EarlyStopping\n    init_args:\n      montor: x\n", "my.yaml:5: unknown key", "montor", "monitor?"),
    (f"{CALLBACK}EarlyStopping\n", "my.yaml:3: trainer.callbacks is", "EarlyStopping, which needs", "monitor"),
    (f"{CALLBACK}EarlyStoping\n", "my.yaml:3: trainer.callbacks is", "did you mean", "EarlyStopping?"),
    ("data:\n  batch_size: big\n", "my.yaml:2: data.batch_size is big: must be int"),
    (
        "trainer:\n  precision: 17-mixed\n",
        "my.yaml:2: trainer.precision is 17-mixed: must be",
        "did you mean 16-mixed?",
    ),
    (
        "data:\n  augment:\n  - class_path: torch.nn.Linear\n",
        "my.yaml:3: data.augment is torch.nn.Linear, which is not",
    ),
    ("data:\n  - [1\nmodel: 3\n", "my.yaml:3:6: not valid YAML:"),
    ("model:\n\tnetwork: x\n", "my.yaml:2:1: not valid YAML:", "'\\t'"),
    ("just words\n", "my.yaml holds no settings"),
    ("# nothing yet\n", "my.yaml holds nothing"),
]

# Arguments of a fit that only what they are meant for finds wrong, and words that occur
LATER = [
    ("--trainer.max_epochs -5", "max_epochs", "-5"),
    ("--trainer.strategy foo", "strategy='foo'"),
    ("--trainer.accelerator gpuu", "accelerator='gpuu'", "cpu"),
    ("--trainer.devices x --trainer.accelerator cpu", "devices"),
    ("--data.batch_size -1", "data.batch_size is -1"),
    ("--runs there.yaml", "Not a directory"),
]


@pytest.fixture
def fail(tmp_path, monkeypatch, capsys):
    """Runs the command line where there are there.yaml and beside.py; it has to fail as it should, with one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITCNN_RUN_DIR", "")  # which a run would leave behind
    monkeypatch.delenv("LITCNN_TRACEBACK", raising=False)
    Path("there.yaml").write_text("data:\n  batch_size: 3\n")
    Path("beside.py").write_text("")

    def run(args):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        assert stopped.value.code == 2
        out, err = capsys.readouterr()
        message = err[err.index("error: ") :].strip("\n")
        assert "\n" not in message
        assert "usage" not in out + err
        assert "Traceback" not in err
        return message

    return run


@pytest.mark.parametrize(("args", "words"), [(args, words) for args, *words in FLAGS])
def test_a_wrong_flag(fail, args, words):
    message = fail(args.split())
    assert not [word for word in words if word not in message], message
    assert not Path("runs").exists()


@pytest.mark.parametrize(("text", "words"), [(text, words) for text, *words in CONFIGS])
def test_a_wrong_config(fail, text, words):
    Path("my.yaml").write_text(text)
    message = fail(["fit", "--config", "there.yaml", "--config", "my.yaml"])
    assert not [word for word in words if word not in message], message
    assert not Path("runs").exists()


@pytest.mark.parametrize(("args", "words"), [(args, words) for args, *words in LATER])
def test_a_wrong_value(fail, args, words):
    message = fail(["fit", *args.split()])
    assert not [word for word in words if word not in message], message


@pytest.mark.parametrize("message", ["", "new words", "Parser key \"a\": Option 'b' is not accepted", "\n\n"])
def test_what_cannot_be_explained_is_said_as_it_is(message):
    words = message.replace('Parser key "a"', "a")
    assert errors.explain(message, ["fit"], {}) == words
    assert errors.explain(message, [], {}) == words


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
    assert errors.is_for_the_user(MisconfigurationException("x"))
    monkeypatch.setenv("LITCNN_TRACEBACK", "1")
    assert not errors.is_for_the_user(MisconfigurationException("x"))
