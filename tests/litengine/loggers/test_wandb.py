"""W&B never stands in the way: offline runs read back from their files, servers that misbehave, dead services."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from wandb_file import WandbFile, find
from wandb_stand_in import KEY, Run, StandIn

from litengine.loggers import CSVMetrics
from litengine.loggers import wandb as tracking
from litengine.loggers.csv import read_rows
from litengine.loggers.wandb import Wandb


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no settings, no run from outside, and none left behind."""
    import wandb

    for name in list(os.environ):
        if name.startswith(("WANDB_", "XDG_", "NETRC")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "6")
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    yield
    if tracking._recording is not None:
        tracking._recording.close()
    wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


class Line(LightningModule):
    """y = w x, one batch a step; optionally something happens at one step."""

    def __init__(self, at: int = -1, happens: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.layer, self.at, self.happens = torch.nn.Linear(2, 1), at, happens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        if index == self.at:
            self.happens()
        loss = self(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.ones(12, 2), batch_size=2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(logger: Wandb, model: LightningModule, callbacks: list[Callback] | None = None) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=[logger, CSVLogger(".", name="csv", version=0)], log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(model)
    return trainer


def recorded(folder: str = ".") -> WandbFile:
    """The newest run in the folder, once W&B's service has written it down: it is still busy when a run has ended."""
    import wandb

    wandb.teardown()
    return WandbFile(find(Path(folder))[-1])


def csv_rows() -> int:
    return len(Path("csv/version_0/metrics.csv").read_text().splitlines()) - 1


def service() -> int:
    """Process id of this process's wandb-core."""
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == os.getpid() and b"wandb-core" in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except (OSError, IndexError):
            pass
    raise AssertionError("wandb-core is not running")


def kill_service() -> None:
    os.kill(service(), signal.SIGKILL)
    time.sleep(0.2)  # the client learns of it from the closed socket


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A server that W&B is pointed at, with a key."""
    stand_in = StandIn()
    point_at(monkeypatch, stand_in.server.server_port)
    yield stand_in
    if tracking._recording is not None:
        tracking._recording.close()
    stand_in.close()


def point_at(monkeypatch: pytest.MonkeyPatch, port: int) -> str:
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return f"http://127.0.0.1:{port}"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in the working directory that can import these tests."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1] / "support"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def timed_status(logger: Wandb) -> tuple[str, float]:
    start = time.monotonic()
    return logger.status, time.monotonic() - start


def test_importing_does_not_import_wandb() -> None:
    code = "import sys, litengine.loggers.wandb; sys.exit('wandb' in sys.modules or 'requests' in sys.modules)"
    assert python(code).returncode == 0


def test_offline_run_holds_config_and_metrics(capfd: pytest.CaptureFixture[str]) -> None:
    config = {"model": {"lr": 0.01, "widths": [64, 128], "path": None}, "seed_everything": 7}
    logger = Wandb(project="p", name="first", save_dir="run", tags=["cpu"], group="g", id="abcd1234")
    logger.log_hyperparams(config)
    fit(logger, Line())
    folder = find(Path("run"))[0].parent
    assert logger.status == f"offline (no API key): upload later with `wandb sync --include-online {folder}`"
    logger.close()

    run = recorded("run")
    assert (run.id, run.project, run.name, run.tags, run.group) == ("abcd1234", "p", "first", ["cpu"], "g")
    assert {key: run.config[key] for key in config} == config
    assert run.metric("trainer/global_step") == list(range(6))
    assert run.metric("epoch") == [0] * 6
    losses = run.metric("train/loss")
    assert len(losses) == 6 and losses == sorted(losses, reverse=True) and losses[0] > 0
    assert {record.metric.step_metric for record in run.records if record.metric.glob_name == "*"} == {
        "trainer/global_step"
    }
    assert run.exit_code == 0
    assert any(record.WhichOneof("record_type") == "stats" for record in run.records), "system figures are on"
    assert "wandb" not in "".join(capfd.readouterr()).lower().replace("wandb-", ""), "status is the only line"


def test_no_key_is_offline_at_once() -> None:
    status, seconds = timed_status(Wandb())
    assert status.startswith("offline (no API key)") and seconds < 5


@pytest.mark.parametrize(
    ("status", "reason"),
    [(0, "invalid character"), (401, "refused on demand"), (-1, "did not recognize an account"), (503, "not answer")],
)
def test_a_server_without_a_useful_answer_is_offline(server: StandIn, status: int, reason: str) -> None:
    server.fault("all", status)
    told, seconds = timed_status(Wandb())
    assert told.startswith("offline (") and server.url in told and reason in told and seconds < 9
    assert ": upload later with `wandb sync --include-online wandb/offline-run-" in told


@pytest.mark.parametrize("listening", [False, True])
def test_a_server_that_refuses_or_hangs_is_offline(monkeypatch: pytest.MonkeyPatch, listening: bool) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = point_at(monkeypatch, sock.getsockname()[1])
        if listening:
            sock.listen()  # connects and never answers
        status, seconds = timed_status(Wandb())
    assert status.startswith(f"offline ({address} does not answer)") and seconds < 9


@pytest.mark.parametrize("status", [502, 429])
def test_one_failure_at_the_start_is_retried(server: StandIn, status: int) -> None:
    server.fault("all", status, times=1)
    assert Wandb().status == f"online: {server.url}/team/litengine/runs/{next(iter(server.runs))}"


def test_netrc_and_a_server_that_cannot_open_a_run(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.fault("UpsertBucket", 400)
    monkeypatch.delenv("WANDB_API_KEY")
    netrc = tmp_path / "home/.netrc"
    netrc.write_text(f"machine {server.url.removeprefix('http://')}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setattr(tracking, "INIT_SECONDS", 4.0)
    logger = Wandb()
    status, seconds = timed_status(logger)
    assert "UpsertBucket" in server.operations, "it tried online"
    assert status.startswith("offline (W&B did not start: ") and seconds < 10
    logger.log_metrics({"a": 1.0}, 0)
    logger.close()
    assert recorded().metric("a") == [1]


@pytest.mark.parametrize(("mode", "word"), [("offline", "offline"), ("disabled", "disabled"), ("dryrun", "offline")])
def test_wandb_mode_is_respected(server: StandIn, monkeypatch: pytest.MonkeyPatch, mode: str, word: str) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert Wandb().status.startswith(f"{word} (W&B mode is set to ")
    assert not server.operations


@pytest.mark.parametrize("watched", [False, True])
def test_a_dead_service_does_not_stop_the_fit(watched: bool, caplog: pytest.LogCaptureFixture) -> None:
    logger = Wandb()
    model = Line(3, kill_service)
    if watched:
        logger.watch(model, log="all", log_freq=1, log_graph=False)
    trainer = fit(logger, model)
    assert trainer.global_step == 6 and csv_rows() == 6
    logger.experiment.config.update({"late": 1})
    logger.log_image("late", [torch.zeros(1, 4, 4)])
    logger.close()
    lines = [record.getMessage() for record in caplog.records if record.name == "litengine.loggers.wandb"]
    folder = find(Path())[0].parent
    assert len(lines) == 1 and lines[0] == f"W&B {logger.status}"
    assert "CSV metrics continue" in lines[0] and lines[0].endswith(f"`wandb sync --include-online {folder}`")


@pytest.mark.parametrize(
    "at", [3, pytest.param(-1, marks=pytest.mark.slow)]
)  # in the fit, and after the last thing that was logged
def test_the_program_whose_service_died_ends_cleanly(at: int) -> None:
    code = (
        f"at = {at}"
        + """
from test_wandb import Line, Wandb, fit, kill_service
def injure():
    kill_service()
    for _ in range(20):  # as a progress bar does; W&B copies the screen too
        print("bar", flush=True)
logger = Wandb()
fit(logger, Line(at, injure))
for _ in range(20):
    print("done", flush=True)
if at < 0:
    injure()
"""
    )
    start = time.monotonic()
    done = python(code)
    assert "W&B stopped" in done.stderr
    assert done.returncode == 0 and "done" in done.stdout and time.monotonic() - start < 30
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    assert done.stderr.count("W&B ") == 1 and "socket.send" not in done.stderr, done.stderr


@pytest.mark.parametrize(("ends", "code"), [("pass", 0), ("raise RuntimeError", 1)])
def test_a_run_that_ends_with_the_process_has_its_outcome(ends: str, code: int) -> None:
    python(f"from litengine.loggers.wandb import Wandb\nWandb().log_metrics({{'a': 1.0}}, 0)\n{ends}")
    assert recorded().exit_code == code


def test_a_failed_fit_is_marked_failed() -> None:
    def fail() -> None:
        raise RuntimeError("injured")

    logger = Wandb()
    with pytest.raises(RuntimeError, match="injured"):
        fit(logger, Line(3, fail))
    run = recorded()
    assert run.exit_code == 1 and len(run.metric("train/loss")) == 3


def test_a_full_disk_under_media_costs_the_run_not_the_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb, "Image", full)
    logger = Wandb()
    logger.log_image("x", [torch.zeros(1, 4, 4)])
    logger.log_image("x", [torch.zeros(1, 4, 4)])
    logger.log_metrics({"a": 1.0})
    lines = [record.getMessage() for record in caplog.records if record.name == "litengine.loggers.wandb"]
    assert len(lines) == 1 and "No space left on device" in lines[0]
    assert logger.lost and "No space left" in logger.status


def test_a_wrong_argument_costs_one_call(caplog: pytest.LogCaptureFixture) -> None:
    logger = Wandb()
    logger.log_image("x", 3)  # type: ignore[arg-type]
    logger.log_image("x", 3)  # type: ignore[arg-type]
    logger.log_metrics({"a": 1.0})
    logger.close()
    lines = [record.getMessage() for record in caplog.records if record.name == "litengine.loggers.wandb"]
    assert len(lines) == 1 and "log_image" in lines[0]
    assert recorded().metric("a") == [1]


def test_a_folder_that_cannot_be_made_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    Path("file").touch()
    logger = Wandb(save_dir="file")
    fit(logger, Line())
    assert csv_rows() == 6 and len([r for r in caplog.records if r.name == "litengine.loggers.wandb"]) == 1
    assert logger.status.startswith("stopped (opening the run: ")


def test_the_same_id_continues_and_two_loggers_do_not_mix() -> None:
    first = Wandb(save_dir="a", id="same0001")
    first.log_metrics({"a": 1.0}, 0)
    second = Wandb(save_dir="b", id="same0001")
    second.log_metrics({"a": 2.0}, 1)
    second.close()
    runs = [recorded(folder) for folder in "ab"]
    assert [run.id for run in runs] == ["same0001"] * 2 == [first.version, second.version]
    assert [run.metric("a") for run in runs] == [[1], [2]]
    assert [run.exit_code for run in runs] == [0, 0]
    assert Wandb().version != Wandb().version


def test_neither_key_nor_code_is_written(server: StandIn) -> None:
    server.fault("all", 401)
    subprocess.run(["git", "init", "-q", "."], check=True)
    Path("secret_code.py").write_text("code = 'my own'")
    logger = Wandb(save_dir="run")
    fit(logger, Line())
    logger.close()
    files = [path for path in Path("run").rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
        assert path.suffix not in (".py", ".patch", ".diff"), path


def test_only_the_first_process_records(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = Wandb()
    logger.log_metrics({"a": 1.0}, 0)
    logger.experiment.log({"a": 1.0})
    logger.finalize("failed")
    assert logger.status == "recorded by the first process" and not Path("wandb").exists()


def test_yaml_builds_it() -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--logger", type=Wandb)
    text = json.dumps({"class_path": "litengine.loggers.wandb.Wandb", "init_args": {"tags": ["a"], "mode": "offline"}})
    logger = parser.instantiate(parser.parse_args([f"--logger={text}"])).logger
    assert logger.status.startswith("offline (as asked)")
    with pytest.raises(SystemExit):
        parser.parse_args([f"--logger={text.replace('tags', 'tagz')}"])


# against a server


class Loggers(list[Any]):
    """W&B and metrics.csv of one run in `folder`, fed as a fit feeds them: 5 steps an epoch."""

    def __init__(self, folder: str = "run", **settings: Any) -> None:
        super().__init__([Wandb(save_dir=folder, id="abcd1234", **settings), CSVMetrics(folder)])
        self.wandb, self.folder = self[0], folder
        self.wandb.summarize("val/acc", "max")

    def train(self, start: int, stop: int) -> None:
        for step in range(start, stop):
            for logger in self:
                logger.log_metrics({"epoch": step // 5, "train/loss": 1 / (step + 1)}, step)
                if step % 5 == 4:
                    logger.log_metrics({"epoch": step // 5, "val/acc": acc(step)}, step)

    def test(self, step: int) -> None:
        for logger in self:
            logger.evaluate_at(step)
            logger.log_metrics({"epoch": 0, "test/acc": 0.5}, 0)
            logger.evaluate_at(None)

    def resume(self, step: int, stop: int) -> None:
        for logger in self:
            logger.forget_from(step)
        self.train(step, stop)


def acc(step: int) -> float:
    return step * 7 % 11 / 11


def best_acc(stop: int) -> Any:
    return pytest.approx({"max": max(acc(step) for step in range(4, stop, 5))}, rel=1e-6)


def csv_values(folder: str = "run") -> list[tuple[int, str, float]]:
    rows = read_rows(Path(folder, "metrics.csv"))[1]
    return sorted((int(row["step"]), k, float(v)) for row in rows for k, v in row.items() if v and k != "step")


def equal(run: Run) -> bool:
    return run.values == csv_values() and all(any(not name.startswith("_") for name in row) for row in run.history)


def sync(server: StandIn, command: str) -> None:
    server.faults.clear()
    arguments = [sys.executable, "-m", *command.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr


def command_in(status: str) -> str:
    return status.split("`")[1]


def test_a_whole_run_equals_metrics_csv(server: StandIn) -> None:
    loggers = Loggers(notes="why", job_type="train", name="digits/today", log_model=True)
    loggers.wandb.log_hyperparams({"data": {"root": "/mnt/disk/images", "list": [f"{Path.cwd()}/runs/1", "text"]}})
    loggers.train(0, 23)
    Path("best.ckpt").write_bytes(b"weights")
    loggers.wandb.log_checkpoint(Path("best.ckpt"), best=True)
    assert not server.artifacts, "only at the end of the fit"
    loggers.wandb.log_checkpoint(Path("best.ckpt"), best=True, fit_ended=True)
    loggers.test(15)
    assert loggers.wandb.status == f"online: {server.url}/team/digits/runs/abcd1234"
    loggers.wandb.close()
    run = server.runs["abcd1234"]
    assert equal(run) and len(run.values) == 51 and run.states[-1] == "finished"
    assert (run.summary["val/acc"], run.summary["trainer/global_step"]) == (best_acc(23), 22)
    assert run.config["data"]["value"] == {"root": "images", "list": ["runs/1", "text"]}
    assert [run.given[name] for name in ("project", "displayName", "notes", "jobType")] == [
        "digits", "digits/today", "why", "train",
    ]  # fmt: skip
    (artifact,) = server.artifacts
    aliases = sorted(item["alias"] for item in artifact["aliases"])
    assert aliases == ["best", "latest"] and json.loads(artifact["metadata"]) == {"val/acc": best_acc(23)}


@pytest.mark.parametrize(("verb", "changed"), [("test", {"test/acc"}), ("val", set())])
def test_an_evaluation_in_another_process_changes_only_its_own_values(
    server: StandIn, verb: str, changed: set[str]
) -> None:
    loggers = Loggers()
    loggers.train(0, 23)
    loggers.wandb.close()
    before = dict(server.runs["abcd1234"].summary)
    logger = Wandb(id="abcd1234")
    logger.evaluate_at(15)
    logger.log_metrics({"epoch": 0, f"{verb}/acc": 0.25}, 0)
    logger.close()
    run = server.runs["abcd1234"]
    last = {name: value for name, value in run.history[-1].items() if not name.startswith("_")}
    assert last == {f"{verb}/acc": 0.25, "trainer/global_step": 15}
    different = {name for name in run.summary if run.summary[name] != before.get(name) and name[0] != "_"}
    assert different == changed and before.keys() <= run.summary.keys()


@pytest.mark.parametrize(
    ("first", "second"), [("online", "online"), ("offline", "offline"), ("online", "offline"), ("offline", "online")]
)
@pytest.mark.parametrize("step", [13, 10, 18], ids=["later rows", "before a validation", "nothing later"])
def test_a_resumed_run_equals_metrics_csv(server: StandIn, first: Any, second: Any, step: int) -> None:
    loggers = Loggers(mode=first)
    loggers.train(0, 18)
    loggers.wandb.close(exit_code=1)
    loggers = Loggers(mode=second)
    loggers.resume(step, 25)
    loggers.wandb.close()
    if second == "offline":
        sync(server, "wandb sync " + " ".join(str(path.parent) for path in find(Path("run"))))
    run = server.runs["abcd1234"]
    assert equal(run) and len(run.values) == 55 and run.states[-1] == "finished"
    assert run.summary["val/acc"] == best_acc(25)


def test_metrics_of_the_last_row_that_come_after_the_resume_and_a_test_before_it(server: StandIn) -> None:
    loggers = Loggers()
    loggers.train(0, 10)
    loggers.test(10)
    loggers.wandb.close()
    loggers = Loggers()
    for logger in loggers:
        logger.forget_from(10)
        logger.log_metrics({"epoch": 1, "train/loss_epoch": 3.0}, 9)
    loggers.train(10, 15)
    loggers.wandb.close()
    run = server.runs["abcd1234"]
    assert equal(run) and {(9, "train/loss_epoch", 3.0), (10, "test/acc", 0.5)} <= {*run.values}
    assert run.summary["test/acc"] == 0.5


def test_a_server_that_cannot_rewind_gets_no_row_twice(server: StandIn) -> None:
    loggers = Loggers()
    loggers.train(0, 18)
    loggers.wandb.close(exit_code=1)
    server.fault("RewindRun", 403)
    loggers = Loggers()
    loggers.resume(13, 25)
    assert loggers.wandb.status.startswith("online")
    loggers.wandb.close()
    assert equal(server.runs["abcd1234"])


KILLED = """
import os, sys, time
from test_wandb import Loggers
loggers = Loggers()
loggers.train(0, 18)
time.sleep(float(sys.argv[1]))
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("seconds", [0, pytest.param(17, marks=pytest.mark.slow)])  # W&B posts every 15 s
def test_a_run_that_sigkill_ended_is_completed(server: StandIn, seconds: int) -> None:
    assert python(KILLED, str(seconds)).returncode == -signal.SIGKILL
    assert bool(server.runs["abcd1234"].history) == (seconds > 0)
    loggers = Loggers()
    loggers.resume(13, 25)
    loggers.wandb.close()
    assert equal(server.runs["abcd1234"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "upload"])
def test_a_refusal_in_mid_run_is_said_at_once_and_its_command_uploads_the_rest(
    server: StandIn, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    loggers = Loggers()
    loggers.train(0, 12)
    assert server.posted.wait(20)
    server.fault(kind, 403)
    loggers.wandb.log_image("picture", [torch.zeros(1, 4, 4)], step=12)
    for step in range(12, 60):
        loggers.train(step, step + 1)
        if "the server refuses data: 403" in caplog.text:
            break
        time.sleep(0.5)
    assert loggers.wandb.status.startswith("offline (the server refuses data: 403): upload later with `wandb sync ")
    loggers.train(step + 1, 65)
    loggers.wandb.close()
    assert not equal(server.runs["abcd1234"])
    sync(server, command_in(loggers.wandb.status))
    run = server.runs["abcd1234"]
    assert equal(run) and run.states[-1] == "finished" and any(name.startswith("media/") for name in run.files)


@pytest.mark.slow
@pytest.mark.parametrize("returns", [True, False])
def test_a_server_that_is_away_for_a_while(
    server: StandIn, returns: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 20.0 if returns else 2.0)
    loggers = Loggers()
    loggers.train(0, 12)
    assert server.posted.wait(20)
    server.fault("all", 503, times=2 if returns else 10**9)
    loggers.train(12, 25)
    loggers.wandb.close()
    assert returns == equal(server.runs["abcd1234"]) == ("not everything was uploaded within 2 s" not in caplog.text)
    if not returns:
        sync(server, command_in(loggers.wandb.status))
        assert equal(server.runs["abcd1234"])


@pytest.mark.parametrize(
    ("error", "sweep", "states", "code"),
    [
        (ValueError("loss is nan"), "", ["failed"], 1),
        (SystemExit(143), "", ["preempting", "failed"], 143),
        (SystemExit(143), "sweep123", ["finished"], 0),  # the agent's early stopping
        (SystemExit(138), "sweep123", ["preempting", "failed"], 138),
        (SystemExit(130), "", ["failed"], 255),
        (KeyboardInterrupt(), "", ["failed"], 255),
    ],
)
def test_how_a_fit_ended_and_why_reaches_the_server(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, error: BaseException, sweep: str, states: list[str], code: int
) -> None:
    if sweep:
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
        monkeypatch.setenv("WANDB_RUN_ID", "abcd1234")  # as the agent does: in a sweep W&B ignores an argument

    def fail() -> None:
        raise error

    with pytest.raises(BaseException, match=r"nan|\d|^$"):
        fit(Wandb(id="abcd1234"), Line(3, fail))
    run = server.runs["abcd1234"]
    assert (run.states[1:], run.exit_code) == (states, code)
    assert f"{type(error).__name__}: {error}".strip(": ") in run.console.replace('\\"', '"')


def test_environment_wins_over_defaults_and_arguments_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROJECT": "of-env", "NAME": "name-of-env", "DIR": "dir-of-env", "NOTES": "notes"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for arguments, folder, project, name in (
        ({"save_dir": "run"}, "dir-of-env", "of-env", "name-of-env"),
        ({"save_dir": "run", "dir": "mine", "project": "p", "name": "n"}, "mine", "p", "n"),
    ):
        logger = Wandb(**arguments)
        logger.log_metrics({"a": 1.0}, 0)
        logger.close()
        run = recorded(folder)
        assert (run.project, run.name) == (project, name)
    assert Wandb(name="digits/today").name == "of-env"
    monkeypatch.delenv("WANDB_PROJECT")
    assert Wandb(name="digits/today").name == "digits"


def test_watch_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    watched: list[Any] = []
    monkeypatch.setattr(wandb.Run, "watch", lambda self, model, log, **_: watched.append(log))
    fit(Wandb(watch="all"), Line())
    assert watched == ["all"]
