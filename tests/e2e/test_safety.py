"""No checkpoint runs code through the program, wherever it is named. Its damage is reported in one line."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from litcnn.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = [
    "--config",
    str(CONFIGS / "with/debug.yaml"),
    "--checkpoints.link_best",
    "true",
    "--model.network.init_args.widths",
    "[4]",
    "--data.batch_size",
    "8",
]
EVIL = "import pathlib\npathlib.Path('RAN').touch()\nfrom torch import nn\nclass Net(nn.Identity): ...\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        main(["fit", *TINY])
    (path,) = home.glob("runs/*/*/checkpoints/best.ckpt")
    return path


@pytest.fixture
def content(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is in a checkpoint, to be made evil; a module beside it that must not be imported."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)  # that of another test in this process
    return dict(torch.load(good, weights_only=True))


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert stopped.value.code == 2
    assert not Path("RAN").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("path", ["evil.Net", "os.system", "subprocess.Popen", "torch.os.system", "torch.hub.load"])
@pytest.mark.parametrize("verb", ["test", "fit"])
def test_a_class_path_is_refused_by_name(
    path: str, verb: str, content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    content["config"]["model"]["network"] = {"class_path": path}
    torch.save(content, "evil.ckpt")
    assert f"model.network.class_path in the checkpoint is {path}" in refusal(capsys, verb, "--ckpt_path", "evil.ckpt")


def test_a_checkpoint_named_in_a_config_is_checked_too(
    content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    content["config"]["model"]["network"] = {"class_path": "evil.Net"}
    torch.save(content, "evil.ckpt")
    Path("mine.yaml").write_text("ckpt_path: evil.ckpt")
    assert "is evil.Net" in refusal(capsys, "test", "--config", "mine.yaml")


def test_hyper_parameters_which_lightning_would_import_are_refused(
    content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    content["hyper_parameters"] = {"network": {"class_path": "evil.Net"}}
    torch.save(content, "evil.ckpt")
    assert "hyper_parameters" in refusal(capsys, "test", "--ckpt_path", "evil.ckpt")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("loops", 3, "the checkpoint cannot be restored: TypeError"),
        ("loops", {"fit_loop": {"epoch_progress": {"total": {"ready": "x"}}}}, "a counter in its loops is 'x'"),
        ("train_sums", "x", "the checkpoint cannot be restored: AttributeError"),
        ("callbacks", {"Checkpoints": 3}, "the checkpoint cannot be restored: TypeError"),
        ("data", {"class_names": ["a"], "mean": ["a", "b", "c"]}, "its mean is ['a', 'b', 'c']"),
    ],
)
def test_a_wrong_part_is_reported_in_one_line(
    part: str, value: Any, message: str, content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    content[part] = {**content[part], **value} if part == "data" else value
    torch.save(content, "bad.ckpt")
    error = refusal(capsys, "test", "--ckpt_path", "bad.ckpt")
    assert message in error and error.count("\n") == 1


def test_a_trusted_package_is_used(content: dict[str, Any]) -> None:
    content["config"]["model"]["network"] = {"class_path": "evil.Net"}
    torch.save(content, "evil.ckpt")
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path", "evil.ckpt", "--trust", "evil", "--print_config"])
    assert Path("RAN").exists()  # importing it ran it: that is what trust means


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *TINY, "--trainer.max_epochs", "2"])
    (run,) = (tmp_path / "runs").glob("*/*")
    (run / "state.json").write_text('{"state": "running"}')
    with (run / "checkpoints/last.ckpt").open("r+b") as file:
        file.truncate(1000)
    capsys.readouterr()
    main(["fit", "--resume", "last"])
    assert "last.ckpt is no intact checkpoint" in capsys.readouterr().out
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    shutil.rmtree(run / "checkpoints")


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("one_cycle", "OneCycleLR of this run was made for 4 steps and cannot go on for 12"),
        ("cosine", "CosineAnnealingLR of this run was made for 1 epoch"),
    ],
)
def test_a_schedule_cannot_be_stretched_and_the_run_stays_as_it_was(
    overlay: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *TINY, "--config", str(CONFIGS / f"with/{overlay}.yaml")])
    (run,) = (tmp_path / "runs").glob("*/*")
    before = (run / "config.yaml").read_text(), (run / "state.json").read_text()
    assert message in refusal(capsys, "fit", "--resume", str(run), "--trainer.max_epochs", "3")
    assert before == ((run / "config.yaml").read_text(), (run / "state.json").read_text())
