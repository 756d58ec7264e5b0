"""Exit codes of a stopped fit; tests/e2e/test_resume.py resumes it."""

import os
import signal

import pytest
from helpers import trainer
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from litengine.training import StopOnSignal


class Signal(Callback):
    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_start(self, *_: object) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "sweep", "code"),
    [
        (signal.SIGTERM, "", 143),
        (signal.SIGUSR1, "", 138),
        (signal.SIGTERM, "sweep123", 0),  # the agent's early stopping
        (signal.SIGUSR1, "sweep123", 138),
    ],
)
def test_the_exit_code_is_that_of_the_signal_but_0_if_a_sweep_stops_the_run_early(
    monkeypatch: pytest.MonkeyPatch, number: int, sweep: str, code: int
) -> None:
    if sweep:
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
    with pytest.raises(SystemExit) as stopped:
        trainer(Signal(number), StopOnSignal()).fit(BoringModel())
    assert stopped.value.code == code
