"""Training from a stream that goes on after a kill; test_processes.py trains from one with several processes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from outcome import outcome
from program import DIGITS, NO_TRACKER, last, only_run, wait_for

from litcnn.__main__ import main
from litengine.data.sources import stream_writer

FIT = [
    "fit", *DIGITS, *NO_TRACKER, "--data.source", "litengine.data.Stream",
    "--data.batch_size", "32", "--model.network.init_args.widths", "[8, 8]", "--trainer.max_epochs", "2",
    "--trainer.log_every_n_steps", "2", "--trainer.callbacks+", "processes.WaitAt", "--trainer.callbacks.step", "60",
    "--checkpoints.every_n_minutes", "0",
]  # fmt: skip


@pytest.mark.slow
def test_a_fit_that_was_killed_goes_on_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of the second epoch; an epoch has 41 steps."""
    with monkeypatch.context() as patch:
        patch.setattr(stream_writer, "SHARD_BYTES", 30 * 3 * 32 * 32)  # 44 shards
        main(["prepare", *DIGITS, "--to", "digits"])
    fit = [*FIT, "--data.source.root", "digits"]
    Path("waiting").touch()
    main(fit)
    expected = outcome(only_run())
    shutil.rmtree("runs")
    Path("waiting").unlink()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = subprocess.Popen([sys.executable, "-m", "litcnn", *fit], env=env, text=True)
    wait_for(Path("waiting").exists, program)
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert last(only_run())["global_step"] == 60
    main(["fit", "--resume", "last"])
    found = outcome(only_run())
    assert [name for name in expected if found[name] != expected[name]] == []
