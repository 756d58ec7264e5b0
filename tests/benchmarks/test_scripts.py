"""The scripts run, at tiny scale and on this machine, and every table of theirs has a place in the docs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accuracy
import exactness
import pytest
import scale
import startup
import training
from loop import Timing
from PIL import Image

NUMBER = r"\*{0,2}-?[\d,]+(\.\d+)?"
Main = Callable[[list[str]], Any]


def table(text: str) -> list[list[str]]:
    """The cells of the only table in a Markdown text, without its ruler."""
    (found,) = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [
        [cell.strip() for cell in line.strip("|\n").split(" | ")] for line in found.splitlines() if "---" not in line
    ]


@pytest.mark.parametrize(
    ("main", "arguments", "expected"),
    [
        (training.main, ["--only", "step"], {"linear layer": 500}),
        (exactness.main, [], {"a checkpoint": None, "a step": None}),
        pytest.param(
            training.main, ["--only", "epoch"], {"`fast.yaml`": 1.03, "`cnn.yaml`": 1.03}, marks=pytest.mark.slow
        ),
        pytest.param(
            training.main, ["--only", "memory"], {"`fast.yaml`": 1.1, "`cnn.yaml`": 1.1}, marks=pytest.mark.slow
        ),
        pytest.param(startup.main, [], {"--help": 1.3, "to the first batch": None}, marks=pytest.mark.slow),
    ],
    ids=["step", "exactness", "epoch", "memory", "startup"],
)
def test_a_comparison_prints_its_table(
    main: Main, arguments: list[str], expected: dict[str, float | None], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*arguments, "--quick", "--note", "in a test"])
    printed = capsys.readouterr().out
    assert "in a test" in printed
    columns, *rows = table(printed)
    for what, reach in expected.items():
        (row, *_) = [row for row in rows if what in row[0]]
        assert len(row) == len(columns)
        numbers = [float(match[0].strip("*").replace(",", "")) for cell in row[1:] if (match := re.match(NUMBER, cell))]
        assert all(number > 0 for number in numbers[:-1] if what != "linear layer")
        if reach is not None:
            assert columns[-1] == "reach" and numbers[-1] == reach


@pytest.mark.usefixtures("undrawn")
def test_accuracy_fits_tests_and_compares(capsys: pytest.CaptureFixture[str]) -> None:
    accuracy.main(["--quick", "--bare", "--pixels", "random", "--", "--trainer.max_epochs", "1"])
    printed = capsys.readouterr().out
    assert "`fast.yaml` --trainer.max_epochs 1, random pixels" in printed
    values = {what: value for what, value, _ in table(printed)}
    assert re.fullmatch(r"\*\*\d+\.\d\d%\*\* \(one seed\)", values["test accuracy"])
    assert Path("runs/fast-seed0").is_dir()  # the runs are kept


def test_accuracy_is_a_mean_with_the_interval_of_student(monkeypatch: pytest.MonkeyPatch) -> None:
    # mean 0.9, deviation 0.01, Student's t for 2 degrees of freedom 4.3027: 4.3027 * 0.01 / sqrt(3) = 0.02484
    assert accuracy.accuracy([0.89, 0.90, 0.91]) == "**90.00%** ± 1.00% (3 seeds; 95 % interval 87.52% to 92.48%)"
    monkeypatch.setattr(accuracy, "STARTED", 1000.0)
    fits = [Timing(120.0, 1.0, 1150.0, 0.9), Timing(100.0, 1.0, 1300.0, 0.9), Timing(110.0, 1.0, 1500.0, 0.9)]
    articles = [Timing(9.0, step, 0.0) for step in (0.1, 0.2, 0.3)]
    bares = [Timing(100.0, 1.0, 0.0), Timing(50.0, 1.0, 0.0), Timing(50.0, 1.0, 0.0)]
    values = {what: value for what, value, _ in accuracy.table(fits, articles, bares)}
    assert values["training, warm"] == "105.0 s (100.0 to 110.0)"  # without the first
    assert values["training, cold: from the start of the process"] == "150.0 s"
    assert values["its 50 epochs, computed: 17,600 steps"] == "3,520 s"
    assert values["training, of the article's 50 epochs"] == "**1/33.5**"
    assert values["training, of the bare loop"] == "**2.10** (2.00 to 2.20)"


def test_scale_prints_its_table_and_draws_it(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main(["--quick", "--note", "in a test", "--image-size", "32", "--plot", "scale.png"])
    *_, small, large, computed = capsys.readouterr().out.strip().splitlines()
    firsts = [row.split(" | ")[0] for row in (small, large, computed)]
    assert firsts == ["| 20", "| 50", "| 1,000,000, computed"]
    assert Image.open("scale.png").size == (990, 396)
    assert {path.name for path in Path().iterdir()} == {"home", "scale.png"}


def test_the_table_of_scale_has_rates_and_a_million_at_those_of_the_largest() -> None:
    values = [scale.Cost(40.0, 2**29), scale.Cost(2.0, 2**28), scale.Cost(5.0, 2**29), scale.Cost(4.0, 2**28)]
    costs = dict(zip(scale.STEPS, values, strict=True))
    rows = scale.table({10: costs, 100_000: costs}, 224)
    assert rows[1][:4] == ["100,000", "15.1 GB", "40.0 s, 2,500/s, 512 MiB", "2.0 s, 50,000/s, 256 MiB"]
    assert rows[2] == ["1,000,000, computed", "151 GB", "6.7 min", "0.3 min", "0.8 min", "0.7 min"]
