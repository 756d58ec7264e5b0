"""`tune` as a user runs it."""

from pathlib import Path

import pytest
from PIL import Image
from program import CONFIGS, DIGITS, only_run

from litcnn.__main__ import main

COSINE = ["--config", str(CONFIGS / "with/cosine.yaml")]


@pytest.mark.parametrize(
    ("overlay", "key"), [(COSINE, "model.optimizer.init_args.lr"), ([], "model.lr_scheduler.init_args.max_lr")]
)
def test_it_draws_the_curve_and_prints_a_flag(overlay: list[str], key: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["tune", *DIGITS, *overlay, "--steps", "12"])
    assert Image.open(only_run() / "learning_rate.png").size == (770, 440)
    assert not list(Path().rglob("*.ckpt"))
    flag, value = capsys.readouterr().out.split("paste: ")[1].split()
    assert flag == f"--{key}" and 1e-6 < float(value) < 10
