"""A run that was interrupted anywhere and resumed ends with the same bits as one that was not."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from every_checkpoint import ARTICLE, EXACT, REFUSED, resume_from_each
from outcome import outcome
from program import DIGITS, NO_TRACKER, last, only_run, refusal, wait_for

from litcnn.__main__ import main
from litengine.data.sources import stream_writer
from litengine.training.run_directory import disown, own, read_state

PROGRAM = [sys.executable, "-m", "litcnn", "fit"]
OPTIONS = [*ARTICLE, "--trainer.callbacks+", "processes.WaitAt", "--trainer.callbacks.step", "8"]  # of 5 an epoch
STREAM = [
    *DIGITS, *NO_TRACKER, "--data.source", "litengine.data.Stream", "--data.source.root", "digits",
    "--data.batch_size", "32", "--model.network.init_args.widths", "[8, 8]", "--trainer.max_epochs", "2",
    "--trainer.log_every_n_steps", "2", "--trainer.callbacks+", "processes.WaitAt", "--trainer.callbacks.step", "60",
    "--checkpoints.every_n_minutes", "0",
]  # fmt: skip
QUICK = ("ReduceLROnPlateau",)
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.parametrize("recipe", [pytest.param(r, marks=[pytest.mark.slow] * (r not in QUICK)) for r in EXACT])
def test_every_checkpoint_of_a_run_leads_to_the_same_end(recipe: str, tmp_path: Path) -> None:
    shorter = ["--trainer.max_epochs", "2"] if recipe in QUICK else []
    count, different = resume_from_each([*EXACT[recipe], *shorter], tmp_path / "copies", main)
    assert count >= 7 and not different


@pytest.mark.parametrize("recipe", REFUSED)
def test_a_fit_that_could_not_resume_exactly_is_refused_before_training(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "error: " in refusal(capsys, "fit", *REFUSED[recipe])
    assert not list(Path("runs").glob("*/*/config.yaml"))  # nothing that `--resume last` would take


def start(options: list[str]) -> "subprocess.Popen[str]":
    """A fit in a process of its own."""
    command, env = [*PROGRAM, *options], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("uninterrupted"))
        Path("waiting").touch()
        main(["fit", *OPTIONS])
        return outcome(only_run())


@pytest.mark.slow
@pytest.mark.parametrize(("injury", "code"), [("SIGKILL", -9), ("SIGTERM", 143), ("SIGINT", 130)])
def test_a_program_that_is_stopped_can_be_resumed_to_the_same_bits(
    injury: str, code: int, uninterrupted: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with start(OPTIONS) as program:
        wait_for(Path("waiting").exists, program)
        if injury == "SIGKILL":  # a live run cannot be resumed
            assert f"is in use by process {program.pid}" in refusal(capsys, "fit", "--resume", "last")
            assert own(only_run()) is False
        program.send_signal(getattr(signal, injury))
        printed, _ = program.communicate(timeout=200)
    assert program.returncode == code, printed
    run = only_run()
    if injury == "SIGKILL":
        assert own(run) is True
        disown(run)
    else:
        assert "fit --resume last" in printed and "Traceback" not in printed
        assert read_state(run) == "stopped" and last(run)["global_step"] == 9
    main(["fit", "--resume", "last"])
    assert outcome(run) == uninterrupted and read_state(run) == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["first", "second"])
def test_either_of_two_processes_may_be_asked_to_stop(asked: str) -> None:
    """Stock Lightning waits for ever if only the second one is."""
    with start([*OPTIONS, "--trainer.accelerator", "cpu", "--trainer.devices", "2"]) as program:
        wait_for(Path("waiting").exists, program)
        (second,) = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        os.kill(program.pid if asked == "first" else int(second), signal.SIGTERM)
        Path("go").touch()
        printed, _ = program.communicate(timeout=200)
    assert program.returncode == 143, printed
    assert last(only_run())["global_step"] == 9
    wait_for(lambda: not Path(f"/proc/{second}/cmdline").exists() or not Path(f"/proc/{second}/cmdline").read_bytes())


@pytest.mark.slow
def test_a_fit_from_a_stream_that_was_killed_goes_on_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of the second epoch; an epoch has 41 steps."""
    with monkeypatch.context() as patch:
        patch.setattr(stream_writer, "SHARD_BYTES", 30 * 3 * 32 * 32)  # 44 shards
        main(["prepare", *DIGITS, "--to", "digits"])
    Path("waiting").touch()
    main(["fit", *STREAM])
    expected = outcome(only_run())
    shutil.rmtree("runs")
    Path("waiting").unlink()
    with start(STREAM) as program:
        wait_for(Path("waiting").exists, program)
        program.kill()
    assert last(only_run())["global_step"] == 60
    main(["fit", "--resume", "last"])
    assert outcome(only_run()) == expected
