"""`prepare` as a user runs it: with the configs and flags of a fit."""

import re
from pathlib import Path

import pytest

from litcnn.__main__ import main
from litengine.data import Stream

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = ["--config", str(CONFIGS / "digits.yaml")]


def test_digits_become_a_stream_and_nothing_else_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    main(["prepare", *DIGITS, "--config", str(CONFIGS / "with/one_cycle.yaml"), "--to", "stream", "--name", "x"])
    printed = capsys.readouterr().out
    assert "Digits: train 1,293, val 144, test 360 images of 3x32x32, 10 classes" in printed
    assert re.search(r"stream: stream, 5\.5 MB in 3 shards \(\d+\.\d s\)", printed)
    assert {path.name for path in Path().iterdir() if path.name[0] != "."} == {"home", "stream"}
    assert Stream("stream").load("test").labels.shape == (360,)


def test_flags_of_fit_hold(capsys: pytest.CaptureFixture[str]) -> None:
    main(["prepare", *DIGITS, "--data.val_fraction", "0.5", "--trainer.max_epochs", "3"])
    assert "Digits: train 718, val 719, test 360 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.val_fractio", "0.5"], "error: unknown option --data.val_fractio: did you mean --data.val_fraction?"),
        (["--data.val_fraction", "2"], "error: data.val_fraction is 2.0: choose a fraction of 0 to below 1"),
        (
            ["--data.source", "litengine.data.ImageFolder", "--data.source.root", "no"],
            "The image folder no does not exi",
        ),
        (["--to", "ftp://somewhere"], "error: --to is ftp://somewhere: a folder or s3://bucket/folder can be written"),
        (
            ["--data.source", "litengine.data.Stream", "--data.source.root", "no"],
            "error: no does not exist; make it with",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", *DIGITS, *flags])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "--help"])
    assert stopped.value.code == 0
    assert "--to PLACE" in capsys.readouterr().out
