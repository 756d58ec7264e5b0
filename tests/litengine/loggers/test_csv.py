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


def forget(content: bytes, step: int, caplog: pytest.LogCaptureFixture) -> tuple[list[str], str]:
    """The steps that are kept of a file with this content, and what is said."""
    Path("metrics.csv").write_bytes(content)
    logger = CSVMetrics(".")
    logger.forget_from(step)
    logger.log_metrics({"epoch": 9, "loss": 1.0}, 99)  # the file can be continued
    assert rows()[-1]["step"] == "99"
    return [row["step"] for row in rows()[:-1]], caplog.text


GOOD = b"epoch,step,loss\n0,0,0.5\n0,1,0.25\n0,2,0.125\n"


@pytest.mark.parametrize(
    ("content", "kept", "damaged"),
    [
        (GOOD, ["0", "1"], 0),
        (GOOD[:-3], ["0", "1"], 1),  # cut within a number, which is then another number
        (GOOD[:-9], ["0", "1"], 1),
        (GOOD.replace(b"0.5", b'0"5'), ["1"], 1),
        (GOOD.replace(b"0.25", b"\xff\x00.2"), ["0"], 1),
        (GOOD.replace(b"0,1,", b"0,"), ["0"], 1),
        (GOOD.replace(b"step", b"st\xffp"), [], 4),
        (GOOD[:11], [], 1),
    ],
)
def test_a_damaged_file_keeps_its_intact_rows(
    content: bytes, kept: list[str], damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    steps, said = forget(content, 2, caplog)
    assert steps == kept
    assert said.count("\n") == (damaged > 0) and (f"is damaged: {damaged} line" in said) == (damaged > 0)


def test_a_missing_file_is_said(caplog: pytest.LogCaptureFixture) -> None:
    CSVMetrics(".").forget_from(5)
    assert "metrics.csv is missing: the metrics before step 5 are lost" in caplog.text


def test_an_evaluation_is_at_the_step_of_its_checkpoint_and_is_kept() -> None:
    logger = CSVMetrics(".")
    logger.log_metrics({"epoch": 0, "loss": 1.0}, 9)
    logger.evaluate_at(10)
    logger.log_metrics({"epoch": 0, "test/acc": 0.5}, 0)
    logger.forget_from(10)
    assert [list(row.values()) for row in rows()] == [["0", "9", "1", ""], ["", "10", "", "0.5"]]
