"""Exit codes of a stopped fit; tests/e2e/test_resume.py resumes it."""

import os
import signal

import pytest
from helpers import trainer
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from litengine import cli
from litengine.training import StopOnSignal


class Signal(Callback):
    def __init__(self, number: int) -> None:
        self.number = number

    def on_train_batch_start(self, *_: object) -> None:
        os.kill(os.getpid(), self.number)

    on_test_batch_start = on_train_batch_start


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_test_has_the_exit_code_of_its_signal(
    monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    monkeypatch.setattr(cli.project, "_paths", ("", ""))  # `main` sets it
    monkeypatch.setattr(cli, "resolve_name", lambda _: lambda args: trainer(Signal(number)).test(BoringModel()))
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main("a.Model", "a.Data", ["test"])
    finally:  # Lightning ignores Ctrl-C from then on
        for each, handler in handlers.items():
            signal.signal(each, handler)
    assert stopped.value.code == code
