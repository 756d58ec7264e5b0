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
    logger = CSVMetrics("runs/here")
    for step in range(20):
        metrics = {"epoch": step // 10, "loss": 1 / (step + 1)} | ({"acc": step / 50} if step % 10 == 9 else {})
        logger.log_metrics(metrics, step)
        found = rows(Path("runs/here/metrics.csv"))
        assert [int(row["step"]) for row in found] == list(range(step + 1))
        assert float(found[-1]["loss"]) == pytest.approx(1 / (step + 1), rel=1e-6)
    assert [row["acc"] for row in found if row["acc"]] == ["0.18", "0.38"]


def test_a_row_that_gets_shorter_leaves_nothing_of_the_longer_one():
    logger = CSVMetrics(".")
    logger.log_metrics({"loss": 0.123456789}, 0)
    logger.log_metrics({"loss": 1}, 0)
    assert Path("metrics.csv").read_text() == "epoch,step,loss\n,0,1\n"


def test_numbers_keep_seven_digits_and_names_their_commas_and_quotes():
    logger = CSVMetrics(".")
    logger.log_metrics({"tensor": torch.tensor(1 / 3), "small": 1.2345678e-9, "nan": math.nan, "inf": math.inf}, 0)
    logger.log_metrics({'test/acc/cat, "tabby"': 0.25, "test/acc/Ü": 1.0}, 4)
    first, second = rows()
    assert [first[name] for name in ("tensor", "small", "nan", "inf")] == ["0.3333333", "1.234568e-09", "nan", "inf"]
    assert (second['test/acc/cat, "tabby"'], second["test/acc/Ü"], second["nan"]) == ("0.25", "1", "")


def test_other_processes_write_nothing(monkeypatch):
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    CSVMetrics(".").log_metrics({"loss": 1.0}, 0)
    assert not Path("metrics.csv").exists()


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
        (GOOD.replace(b"loss", b"step"), [], 4),  # one column would hide the other
        (GOOD.replace(b"0,1,", b"nan,1,"), ["0"], 1),
        (b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"), ["0", "1"], 0),  # as a spreadsheet saves it
    ],
)
def test_a_damaged_file_keeps_its_intact_rows(
    content: bytes, kept: list[str], damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    Path("metrics.csv").write_bytes(content)
    logger = CSVMetrics(".")
    logger.forget_from(2)
    logger.log_metrics({"epoch": 9, "loss": 1.0}, 99)  # the file can be continued
    assert [row["step"] for row in rows()] == [*kept, "99"]
    assert len(caplog.messages) == (damaged > 0) and (f"is damaged: {damaged} line" in caplog.text) == (damaged > 0)


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
