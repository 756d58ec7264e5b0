import json

import pytest

from litengine.study.results import read_epochs, read_result
from litengine.training.run_directory import write_config

ROWS = """epoch,step,train/loss_step,val/loss,val/acc,train/loss
0,4,2.1,,,
0,9,2.0,1.5,0.5,1.9
1,19,,1.2,0.8,1.1
2,29,,1.3,0.8,0.9
3,39,,1.4,0.7,0.8
"""


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "metrics.csv").write_text(ROWS)
    (tmp_path / "state.json").write_text(json.dumps({"mode": "max"}))
    write_config(tmp_path, {"trainer": {}, "checkpoints": {"monitor": "val/acc", "mode": None}, "trust": []})
    return tmp_path


def test_the_best_epoch_is_that_of_best_ckpt_the_newer_on_a_tie(run_dir):
    result = read_result(run_dir)
    assert (result.metrics["val/acc"], result.best_epoch, result.epochs, result.mode) == (0.8, 3, 4, "max")
    write_config(run_dir, {"trainer": {}, "checkpoints": {"monitor": "val/loss", "mode": "min"}, "trust": []})
    expected = {"epoch": 1, "step": 19, "val/loss": 1.2, "val/acc": 0.8, "train/loss": 1.1}
    assert read_result(run_dir).metrics == expected


@pytest.mark.parametrize(
    ("text", "best", "number"),
    [
        ("epoch,step,train/loss\n0,9,1.9\n1,19,1.1\n", 2, 2),  # without validation the last
        ("epoch,step,val/loss,val/acc\n0,9,1,0.3\n1,19,1,nan\n2,29,1,\n", 1, 3),  # NaN is never the best
        ("epoch,step,val/loss,val/acc\n0,9,1,nan\n1,19,1,nan\n", 2, 2),
    ],
)
def test_without_a_finite_metric_it_is_the_last_epoch(run_dir, text, best, number):
    (run_dir / "metrics.csv").write_text(text)
    result = read_result(run_dir)
    assert (result.best_epoch, result.epochs) == (best, number)


@pytest.mark.parametrize("cut", range(1, len("3,39,,1.4,0.7,0.8\n") + 1))
def test_an_incomplete_row_is_not_read(run_dir, cut):
    (run_dir / "metrics.csv").write_text(ROWS[:-cut])
    assert [epoch["val/acc"] for epoch in read_epochs(run_dir)] == [0.5, 0.8, 0.8]


def test_a_test_is_included_and_a_run_without_metrics_is_named(run_dir):
    (run_dir / "report").mkdir()
    (run_dir / "report/metrics.json").write_text(json.dumps({"test/acc": 0.75}))
    assert read_result(run_dir).metrics["test/acc"] == 0.75
    (run_dir / "metrics.csv").unlink()
    with pytest.raises(ValueError, match=f"{run_dir.name} has no metrics of any epoch"):
        read_result(run_dir)


def test_a_damaged_config_is_named(run_dir):
    write_config(run_dir, {"trainer": {}, "checkpoints": {"monitor": "val/acc", "mode": "max"}, "trust": []})
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("mode: max", "mode: min"))
    with pytest.raises(ValueError, match=r"config\.yaml is damaged \(the checksum of .* differs.*\): repair it"):
        read_result(run_dir)


@pytest.mark.parametrize(
    ("text", "reason"), [("", "it has no checkpoints, trainer, trust"), ("trainer: {}\n  max", "while parsing .*")]
)
def test_a_config_that_was_cut_short_is_named_in_one_line(run_dir, text, reason):
    (run_dir / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.yaml is damaged \({reason}\): repair it") as caught:
        read_result(run_dir)
    assert "\n" not in str(caught.value)


def test_a_damaged_table_is_named(run_dir):
    table = run_dir / "metrics.csv"
    table.write_bytes(table.read_bytes().replace(b"0.8", b"0.\xff"))
    with pytest.raises(ValueError, match=r"metrics\.csv is damaged \(.*byte 0xff.*\): repair it, or remove its folder"):
        read_epochs(run_dir)
