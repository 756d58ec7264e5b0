"""`tune` as a user runs it."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from litcnn.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs"
DIGITS = ["--config", str(CONFIGS / "digits.yaml")]


def test_it_draws_the_curve_and_prints_a_line_that_fit_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tune", *DIGITS, "--config", str(CONFIGS / "with/cosine.yaml")])
    (picture,) = tmp_path.glob("runs/digits/*/learning_rate.png")
    assert Image.open(picture).size == (770, 440)
    assert not list(tmp_path.rglob("*.ckpt"))
    flag, value = capsys.readouterr().out.split("paste: ")[1].split()
    assert flag == "--model.optimizer.init_args.lr" and 1e-6 < float(value) < 10
    with pytest.raises(SystemExit):
        main(["fit", *DIGITS, flag, value, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["optimizer"]["init_args"]["lr"] == float(value)


def test_of_a_schedule_with_a_highest_rate_that_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", *DIGITS])
    assert "paste: --model.lr_scheduler.init_args.max_lr" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--find", "batch_size", "--trainer.accelerator", "cpu"], "there is none here"),
        (["--steps", "2"], "--steps is 2"),
        (["--model.chanels_last", "true"], "--model.chanels_last: did you mean --model.channels_last?"),
    ],
)
def test_what_cannot_be_done_is_said(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["tune", *DIGITS, *options])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
