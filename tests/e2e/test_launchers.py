"""The program as several processes: started by Lightning, and by torchrun on one machine and on two."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import free_port, together
from program import CONFIGS, PREDICTIONS, last, only_run, rows, trained, wait_for

from litcnn.__main__ import main
from litengine.training.run_directory import read_state

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
FIT = [
    str(CONFIGS.parent / "main.py"), "fit", "--config", str(CONFIGS / "with/ddp.yaml"), "--name", "many",
    "--data.source", "litengine.data.Digits", "--data.batch_size", "32", "--model.network.init_args.widths", "[4, 4]",
    "--trainer.accelerator", "cpu", "--trainer.limit_train_batches", "6", "--trainer.limit_val_batches", "2",
    "--trainer.log_every_n_steps", "2", "--trainer.max_epochs", "1", "--trainer.enable_model_summary", "false",
]  # fmt: skip
TWO = [sys.executable, *FIT, "--trainer.devices", "2"]
pytestmark = pytest.mark.slow


def start(command: list[str], **environment: str) -> "subprocess.Popen[str]":
    env = {**os.environ, **environment}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(program: "subprocess.Popen[str]", code: int = 0) -> str:
    """What it printed."""
    printed, _ = program.communicate(timeout=250)
    assert program.returncode == code, printed
    return printed


def is_alive(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def test_they_make_one_run_of_the_tracker_and_one_report() -> None:
    printed = finish(start([*TWO, "--test_after_fit", "true"], WANDB_MODE="offline"))
    run = only_run()
    assert len(list(run.glob("wandb/offline-run-*"))) == 1
    assert printed.count("epoch   1/1") == printed.count("2 x CPU") // 2 == 1  # printed by the fit and by the test
    assert printed.count("test images: 360") == printed.count("report: ") == 1
    assert [int(row["image"]) for row in rows(run, PREDICTIONS)] == list(range(360))
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 3 + 1
    assert Path("best.ckpt").resolve() == (run / "checkpoints/best.ckpt").resolve()
    assert "deprecated" not in printed


@pytest.mark.parametrize("victim", ["first", "second"])
def test_if_one_dies_the_other_ends(victim: str) -> None:
    program = start([*TWO, "--trainer.max_epochs", "100000", "--trainer.logger", "false"])
    wait_for(trained, program)
    (child,) = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
    os.kill(program.pid if victim == "first" else int(child), signal.SIGKILL)
    wait_for(lambda: program.poll() is not None and not is_alive(int(child)))
    program.communicate()
    assert program.returncode != 0
    assert read_state(only_run()) in ("running", "failed")  # both can be resumed


def exit_code_of(arguments: list[str]) -> Any:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def test_checkpoint_that_cannot_be_written_ends_all(capfd: pytest.CaptureFixture[str]) -> None:
    run = Path("runs/many/full")
    run.mkdir(parents=True)
    (run / "checkpoints").touch()  # in place of a full disk
    fit = [*FIT[1:], "--trainer.devices", "2", "--trainer.default_root_dir", str(run)]
    assert together(2, exit_code_of, fit) == [2, 2]
    printed = capfd.readouterr().err
    assert printed.count("error: cannot write") == printed.count("error: another process of this run has ended") == 1
    assert "Traceback" not in printed
    assert read_state(run) == "failed"


def test_two_machines_make_one_run_which_one_machine_resumes() -> None:
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "trial"]
    meeting += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    fit = [*FIT, "--trainer.num_nodes", "2", "--trainer.devices", "1"]
    addresses = ("127.0.0.1", "127.0.0.2")
    commands = [[*TORCHRUN, *meeting, "--local-addr", address, *fit] for address in addresses]
    machines = [start(command, WANDB_MODE="offline") for command in commands]
    printed = sorted((finish(machine) for machine in machines), key=len)
    assert "epoch   1/1" in printed[1] and "epoch   1/1" not in printed[0]
    run = only_run()
    assert len(list(run.glob("wandb/offline-run-*"))) == 1
    assert last(run)["global_step"] == 6

    one = ["--trainer.num_nodes", "1", "--trainer.devices", "2"]
    together(2, main, ["fit", "--resume", "last", "--trainer.max_epochs", "2", *one])
    assert only_run() == run and last(run)["global_step"] == 12


def test_a_machine_that_does_not_come_is_not_waited_for_longer_than_asked() -> None:
    alone = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    program = start([*TORCHRUN, *alone, "--rdzv-conf", "join_timeout=2", *FIT])
    assert "RendezvousTimeoutError" in finish(program, code=1)
    assert not Path("runs").exists()
