import csv
import math
from pathlib import Path

import pytest
import torch

from litengine.loggers.csv import CSVMetrics


def rows(path: Path = Path("metrics.csv")) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_of_one_step_share_a_row():
    logger = CSVMetrics(".")
    logger.log_metrics({"epoch": 0, "train/loss_step": 2.5}, 9)
    logger.log_metrics({"epoch": 0, "val/loss": 1.25}, 9)
    logger.log_metrics({"epoch": 0, "train/loss": 2.0}, 9)
    logger.log_metrics({"epoch": 1, "train/loss_step": 0.5}, 19)
    assert Path("metrics.csv").read_text() == (
        "epoch,step,train/loss_step,val/loss,train/loss\n0,9,2.5,1.25,2\n1,19,0.5,,\n"
    )


def test_every_row_is_on_disk_when_the_call_returns():
    logger = CSVMetrics(".")
    for step in range(50):
        metrics = {"epoch": step // 10, "loss": 1 / (step + 1)} | ({"acc": step / 50} if step % 10 == 9 else {})
        logger.log_metrics(metrics, step)
        assert [int(row["step"]) for row in rows()] == list(range(step + 1))
        assert float(rows()[-1]["loss"]) == pytest.approx(1 / (step + 1), rel=1e-6)
    assert [row["acc"] for row in rows() if row["acc"]] == ["0.18", "0.38", "0.58", "0.78", "0.98"]


def test_a_row_that_gets_shorter_leaves_nothing_of_the_longer_one():
    logger = CSVMetrics(".")
    logger.log_metrics({"loss": 0.123456789}, 0)
    logger.log_metrics({"loss": 1}, 0)
    assert Path("metrics.csv").read_text() == "epoch,step,loss\n,0,1\n"


def test_numbers_of_any_kind_keep_seven_digits():
    logger = CSVMetrics(".")
    logger.log_metrics({"tensor": torch.tensor(1 / 3), "small": 1.2345678e-9, "nan": math.nan, "inf": math.inf}, 0)
    row = rows()[0]
    assert (row["tensor"], row["small"], row["nan"], row["inf"]) == ("0.3333333", "1.234568e-09", "nan", "inf")


def test_names_with_commas_and_quotes_are_read_back():
    logger = CSVMetrics(".")
    logger.log_metrics({'test/acc/cat, "tabby"': 0.5, "test/acc/Ü": 1.0}, 3)
    logger.log_metrics({'test/acc/cat, "tabby"': 0.25}, 4)
    logger.log_metrics({"test/acc/Ü": 0.75}, 4)
    assert [list(row.values()) for row in rows()] == [["", "3", "0.5", "1"], ["", "4", "0.25", "0.75"]]


def test_rows_without_any_metric_and_a_folder_that_is_not_there_yet():
    logger = CSVMetrics("runs/here")
    logger.log_metrics({"epoch": 0}, 0)
    logger.log_metrics({"epoch": 0, "loss": 1}, 1)
    assert [list(row.values()) for row in rows(Path("runs/here/metrics.csv"))] == [["0", "0", ""], ["0", "1", "1"]]


def test_other_processes_write_nothing(monkeypatch):
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    CSVMetrics(".").log_metrics({"loss": 1.0}, 0)
    assert not Path("metrics.csv").exists()
