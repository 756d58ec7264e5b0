import json

import pytest
import yaml

from litengine.study.results import best_epoch, read_epochs, read_result

ROWS = """epoch,step,train/loss_step,val/loss,val/acc,train/loss
0,4,2.1,,,
0,9,2.0,1.5,0.5,1.9
1,19,,1.2,0.8,1.1
2,29,,1.3,0.8,0.9
3,39,,1.4,0.7,0.8
"""


@pytest.fixture
def run_dir(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "metrics.csv").write_text(ROWS)
    write_config(directory)
    return directory


def write_config(directory, monitor="val/acc", mode="max"):
    (directory / "config.yaml").write_text(yaml.safe_dump({"checkpoints": {"monitor": monitor, "mode": mode}}))


def test_the_best_epoch_is_that_of_best_ckpt_the_newer_on_a_tie(run_dir):
    result = read_result(run_dir)
    assert (result.metrics["val/acc"], result.best_epoch, result.epochs) == (0.8, 3, 4)
    write_config(run_dir, "val/loss", "min")
    expected = {"epoch": 1, "step": 19, "val/loss": 1.2, "val/acc": 0.8, "train/loss": 1.1}
    assert read_result(run_dir).metrics == expected


def test_without_validation_it_is_the_last_epoch(run_dir):
    (run_dir / "metrics.csv").write_text("epoch,step,train/loss\n0,9,1.9\n1,19,1.1\n")
    result = read_result(run_dir)
    assert result.metrics == {"epoch": 1, "step": 19, "train/loss": 1.1} and result.best_epoch == result.epochs == 2


def test_nan_is_never_the_best():
    epochs = [{"val/acc": 0.3}, {"val/acc": float("nan")}, {"train/loss": 1.0}]
    assert best_epoch(epochs, "val/acc", "max") == 0
    assert best_epoch(epochs[1:], "val/acc", "max") is None


@pytest.mark.parametrize("cut", range(1, len("3,39,,1.4,0.7,0.8\n") + 1))
def test_an_incomplete_row_is_not_read(run_dir, cut):
    (run_dir / "metrics.csv").write_text(ROWS[:-cut])
    epochs = read_epochs(run_dir)
    assert [epoch["val/acc"] for epoch in epochs] == [0.5, 0.8, 0.8]


def test_the_metrics_of_the_test_are_included(run_dir):
    (run_dir / "report").mkdir()
    (run_dir / "report/metrics.json").write_text(json.dumps({"test/acc": 0.75}))
    assert read_result(run_dir).metrics["test/acc"] == 0.75


def test_a_run_without_metrics_is_named(run_dir):
    (run_dir / "metrics.csv").unlink()
    assert read_epochs(run_dir) == []
    with pytest.raises(ValueError, match="run has no metrics of any epoch"):
        read_result(run_dir)
