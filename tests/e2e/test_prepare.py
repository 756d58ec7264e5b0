"""`prepare` as a user runs it: with the configs and flags of a fit."""

import re
from pathlib import Path

import pytest
from program import CONFIGS, DIGITS, refusal

from litcnn.__main__ import main
from litengine.data import Stream


def test_digits_become_a_stream_and_nothing_else_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    of_fit = ["--config", str(CONFIGS / "with/one_cycle.yaml"), "--data.val_fraction", "0.5", "--name", "x"]
    main(["prepare", *DIGITS, *of_fit, "--to", "stream"])
    printed = capsys.readouterr().out
    assert "Digits: train 718, val 719, test 360 images of 3x32x32, 10 classes" in printed
    assert re.search(r"stream: stream, 5\.5 MB in 3 shards \(\d+\.\d s\)", printed)
    assert {path.name for path in Path().iterdir() if path.name[0] != "."} == {"home", "stream"}
    assert Stream("stream").load("test").labels.shape == (360,)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.val_fractio", "0.5"], "error: unknown option --data.val_fractio: did you mean --data.val_fraction?"),
        (["--to", "ftp://somewhere"], "error: --to is ftp://somewhere: a folder or s3://bucket/folder can be written"),
    ],
)
def test_a_mistake_is_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(capsys, "prepare", *DIGITS, *flags)
