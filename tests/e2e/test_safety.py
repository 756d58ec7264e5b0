"""No checkpoint runs code through the program, wherever it is named. Its damage is reported in one line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from program import CONFIGS, last, only_run, refusal

from litcnn.__main__ import main

TINY = [
    "--config", str(CONFIGS / "with/debug.yaml"), "--checkpoints.link_best", "true", "--data.batch_size", "8",
    "--data.source", "litengine.data.Digits", "--model.network.init_args.widths", "[4]",
]  # fmt: skip
pytestmark = pytest.mark.usefixtures("undrawn")
EVIL = "import pathlib\npathlib.Path('RAN').touch()\nfrom torch import nn\nclass Net(nn.Identity): ...\n"


@pytest.fixture
def content(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The content of a checkpoint, to be made evil; beside it a module that must not be imported."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)  # that of another test in this process
    return dict(torch.load(home / "best.ckpt", weights_only=True))


def refused(capsys: pytest.CaptureFixture[str], content: dict[str, Any], *words: str) -> str:
    torch.save(content, "evil.ckpt")
    message = refusal(capsys, *words)
    assert not Path("RAN").exists()
    return message


@pytest.mark.parametrize(("verb", "path"), [("test", "evil.Net"), ("fit", "torch.os.system")])
def test_a_class_path_is_refused_by_name(
    verb: str, path: str, content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    content["config"]["model"]["network"] = {"class_path": path}
    message = refused(capsys, content, verb, "--ckpt_path", "evil.ckpt")
    assert f"model.network.class_path in the checkpoint is {path}" in message


def test_a_checkpoint_named_in_a_config_is_checked_too(
    content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    content["config"]["model"]["network"] = {"class_path": "evil.Net"}
    Path("mine.yaml").write_text("ckpt_path: evil.ckpt")
    assert "is evil.Net" in refused(capsys, content, "test", "--config", "mine.yaml")


def test_hyper_parameters_which_lightning_would_import_are_refused(
    content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    content["hyper_parameters"] = {"network": {"class_path": "evil.Net"}}
    assert "hyper_parameters" in refused(capsys, content, "test", "--ckpt_path", "evil.ckpt")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("loops", 3, "the checkpoint cannot be restored: TypeError"),
        ("loops", {"fit_loop": {"epoch_progress": {"total": {"ready": "x"}}}}, "a counter in its loops is 'x'"),
        ("train_sums", "x", "the checkpoint cannot be restored: IndexError"),
        ("callbacks", {"Checkpoints": 3}, "the checkpoint cannot be restored: TypeError"),
        ("data", {"class_names": ["a"], "mean": ["a", "b", "c"]}, "its mean is ['a', 'b', 'c']"),
    ],
)
def test_a_wrong_part_is_reported_in_one_line(
    part: str, value: Any, message: str, content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    content[part] = {**content[part], **value} if part == "data" else value
    error = refused(capsys, content, "test", "--ckpt_path", "evil.ckpt")
    assert message in error and error.count("\n") == 1


def test_a_trusted_package_is_used(content: dict[str, Any]) -> None:
    content["config"]["model"]["network"] = {"class_path": "evil.Net"}
    torch.save(content, "evil.ckpt")
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", "evil.ckpt", "--trust", "evil", "--print_config"])
    assert Path("RAN").exists()  # importing it ran it: that is what trust means


def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *TINY, "--trainer.max_epochs", "2"])
    run = only_run()
    (run / "state.json").write_text(json.dumps({"state": "running"}))
    with (run / "checkpoints/last.ckpt").open("r+b") as file:
        file.truncate(1000)
    capsys.readouterr()
    main(["fit", "--resume", "last"])
    assert "last.ckpt" in capsys.readouterr().out
    assert last(run)["epoch"] == 1


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("with/one_cycle", "OneCycleLR of this run was made for 4 steps"),
        ("with/cosine", "CosineAnnealingLR of this run was made for 1 epoch"),
    ],
)
def test_a_schedule_cannot_be_stretched_and_the_run_stays_as_it_was(
    overlay: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *TINY, "--config", str(CONFIGS / f"{overlay}.yaml")])
    files = [only_run() / name for name in ("config.yaml", "state.json")]
    before = [file.read_text() for file in files]
    assert message in refusal(capsys, "fit", "--resume", str(only_run()), "--trainer.max_epochs", "3")
    assert [file.read_text() for file in files] == before
