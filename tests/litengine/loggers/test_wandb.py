"""W&B never stands in the way: offline runs read back from their files, servers that misbehave, dead services."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from program import wait_for
from wandb.cli.cli import cli
from wandb_file import WandbFile, find
from wandb_stand_in import KEY, Run, StandIn, values_in

from litengine.loggers import CSVMetrics
from litengine.loggers import wandb as tracking
from litengine.loggers.wandb import Wandb

QUICK = {  # W&B's own settings: short intervals, and nothing collected that no test reads
    "X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
    "X_GRAPHQL_RETRY_WAIT_MIN_SECONDS": "0.2",
    "X_FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "0.2",
    "X_SAVE_REQUIREMENTS": "false",
    "X_DISABLE_META": "true",
    "X_DISABLE_MACHINE_INFO": "true",
}


@pytest.fixture(autouse=True)
def tracked(alone: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no settings, no run from outside, and none left behind."""
    for name in list(os.environ):
        if name.startswith(("XDG_", "NETRC")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("WANDB_MODE")
    for name, value in QUICK.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # of another test in this process
    yield
    if tracking._recording is not None:
        tracking._recording.close()
    wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A server that W&B is pointed at, with a key."""
    stand_in = StandIn()
    for name, value in stand_in.environment.items():
        monkeypatch.setenv(name, value)
    yield stand_in
    if tracking._recording is not None:
        tracking._recording.close()
    stand_in.close()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the logger has said so far, one item a line."""
    return lambda: [record.getMessage() for record in caplog.records if record.name == "litengine.loggers.wandb"]


class Model(BoringModel):
    """Lightning's small example; optionally something happens at one step."""

    def __init__(self, at: int = -1, happens: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.at, self.happens = at, happens

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == self.at:
            self.happens()
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train/loss", loss)
        return loss


def fit(logger: Wandb, model: Model) -> int:
    """Trains 6 steps and returns the number of rows in another logger's file."""
    csv = CSVLogger(".")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    limits = {"max_epochs": 1, "limit_train_batches": 6, "limit_val_batches": 0, "log_every_n_steps": 1}
    Trainer(accelerator="cpu", logger=[logger, csv], **quiet, **limits).fit(model)
    return len(Path(csv.log_dir, "metrics.csv").read_text().splitlines()) - 1


def recorded(folder: str = ".") -> WandbFile:
    """The newest run in the folder, once W&B's service has written it down: it is still busy when a run has ended."""
    wandb.teardown()
    return WandbFile(find(Path(folder))[-1])


def kill_service() -> None:
    """Kills this process's wandb-core; the client learns of it from the closed socket."""
    for entry in Path("/proc").glob("[0-9]*"):
        parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1] if (entry / "stat").exists() else ""
        if parent == str(os.getpid()) and b"wandb-core" in (entry / "cmdline").read_bytes():
            os.kill(int(entry.name), signal.SIGKILL)
            time.sleep(0.2)
            return
    raise AssertionError("wandb-core is not running")


# without a server


def test_offline_run_holds_config_and_metrics(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_X_DISABLE_MACHINE_INFO")
    watched: list[Any] = []
    monkeypatch.setattr(wandb.Run, "watch", lambda *_, log, **__: watched.append(log))
    config = {"model": {"lr": 0.01, "widths": [64, 128], "path": None}, "seed_everything": 7}
    logger = Wandb("p", "first", "run", ["cpu"], "g", "abcd1234", watch="all")
    logger.log_hyperparams(config)
    fit(logger, Model())
    folder = find(Path("run"))[0].parent
    assert logger.status == f"offline (no API key): upload later with `wandb sync --include-online {folder}`"
    logger.close()

    run = recorded("run")
    assert (run.id, run.project, run.name, run.tags, run.group) == ("abcd1234", "p", "first", ["cpu"], "g")
    assert {key: run.config[key] for key in config} == config
    assert run.metric("trainer/global_step") == list(range(6)) and run.metric("epoch") == [0] * 6
    assert len(run.metric("train/loss")) == 6
    steps = {record.metric.step_metric for record in run.records if record.metric.glob_name == "*"}
    assert steps == {"trainer/global_step"} and run.exit_code == 0 and watched == ["all"]
    assert any(record.WhichOneof("record_type") == "stats" for record in run.records), "system figures are on"
    assert "wandb" not in "".join(capfd.readouterr()).lower().replace("wandb-", ""), "status is the only line"


@pytest.mark.parametrize(
    ("mode", "said"),
    [("", "offline (no API key)"), ("dryrun", "offline (W&B mode is set"), ("disabled", "disabled (W&B mode is set")],
)
def test_without_a_key_or_by_wandb_mode_it_is_offline_at_once(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, mode: str, said: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode) if mode else monkeypatch.delenv("WANDB_API_KEY")
    assert Wandb().status.startswith(said) and not server.operations


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


def test_a_dead_service_does_not_stop_the_fit(warnings: Callable[[], list[str]]) -> None:
    logger = Wandb()
    model = Model(3, kill_service)
    logger.watch(model, log="all", log_freq=1, log_graph=False)
    assert fit(logger, model) == 6
    logger.experiment.config.update({"late": 1})
    logger.log_image("late", [torch.zeros(1, 4, 4)])
    logger.close()
    (line,) = warnings()
    assert line == f"W&B {logger.status}" and "CSV metrics continue" in line
    assert line.endswith(f"`wandb sync --include-online {find(Path())[0].parent}`")


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, -1])  # in the fit, and after the last row
def test_the_program_whose_service_died_ends_cleanly(at: int) -> None:
    code = f"""
from test_wandb import Model, Wandb, fit, kill_service
def injure():
    kill_service()
    for _ in range(20):  # as a progress bar does; W&B copies the screen too
        print("bar", flush=True)
fit(Wandb(), Model({at}, injure))
{"injure()" if at < 0 else ""}
"""
    paths = [str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "bar" in done.stdout and "W&B stopped" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    assert done.stderr.count("W&B ") == 1 and "socket.send" not in done.stderr, done.stderr


def test_a_full_disk_under_media_costs_the_run_not_the_fit(
    monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb, "Image", full)
    logger = Wandb()
    for _ in range(2):
        logger.log_image("x", [torch.zeros(1, 4, 4)])
    logger.log_metrics({"a": 1.0})
    (line,) = warnings()
    assert "No space left on device" in line and line == f"W&B {logger.status}" and logger.lost


def test_a_wrong_argument_costs_one_call(warnings: Callable[[], list[str]]) -> None:
    logger = Wandb()
    for _ in range(2):
        logger.log_image("x", 3)  # type: ignore[arg-type]
    logger.log_metrics({"a": 1.0})
    logger.close()
    (line,) = warnings()
    assert "log_image" in line and recorded().metric("a") == [1]


def test_a_folder_that_cannot_be_made_is_one_line(warnings: Callable[[], list[str]]) -> None:
    Path("file").touch()
    logger = Wandb(save_dir="file")
    for step in range(2):
        logger.log_metrics({"a": 1.0}, step)
    assert len(warnings()) == 1 and logger.status.startswith("stopped (opening the run: ")


def test_the_same_id_continues_and_two_loggers_do_not_mix() -> None:
    first, second = Wandb(save_dir="a", id="same0001"), Wandb(save_dir="b", id="same0001")
    first.log_metrics({"a": 1.0}, 0)
    second.log_metrics({"a": 2.0}, 1)
    second.close()
    runs = [recorded(folder) for folder in "ab"]
    assert [run.id for run in runs] == ["same0001"] * 2 == [first.version, second.version]
    assert [run.metric("a") for run in runs] == [[1], [2]] and [run.exit_code for run in runs] == [0, 0]
    assert Wandb().version != Wandb().version


def test_only_the_first_process_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = Wandb()
    logger.log_metrics({"a": 1.0}, 0)
    logger.experiment.log({"a": 1.0})
    logger.finalize("failed")
    assert logger.status == "recorded by the first process" and not Path("wandb").exists()


# a server that is not available


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (0, "invalid character"),
        (401, "refused on demand"),
        (-1, "did not recognize an account"),
        (-2, "does not answer"),  # accepts the connection and stays silent
        (None, "does not answer"),  # refuses the connection
    ],
)
def test_a_server_without_a_useful_answer_is_offline(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, status: int | None, reason: str
) -> None:
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    server.close() if status is None else server.fault("all", status)
    start = time.monotonic()
    told = Wandb().status
    assert told.startswith("offline (") and server.url in told and reason in told and time.monotonic() - start < 15
    assert ": upload later with `wandb sync --include-online wandb/offline-run-" in told


def test_one_failure_at_the_start_is_retried(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "60")  # a busy machine needs more than the usual seconds
    monkeypatch.setattr(tracking, "INIT_SECONDS", 60.0)
    server.fault("all", 502, times=1)
    assert Wandb().status == f"online: {server.url}/team/litengine/runs/{next(iter(server.runs))}"


def test_a_server_that_cannot_open_a_run(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    server.fault("UpsertBucket", 400)
    monkeypatch.setattr(tracking, "INIT_SECONDS", 4.0)
    logger = Wandb()
    assert logger.status.startswith("offline (W&B did not start: ")
    assert "UpsertBucket" in server.operations, "it tried online"
    logger.log_metrics({"a": 1.0}, 0)
    logger.close()
    assert recorded().metric("a") == [1]


def test_neither_key_nor_code_is_written(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_X_DISABLE_META")
    server.fault("all", 401)
    subprocess.run(["git", "init", "-q", "."], check=True)
    Path("secret_code.py").write_text("code = 'my own'")
    logger = Wandb(save_dir="run")
    logger.log_metrics({"a": 1.0}, 0)
    logger.close()
    files = [path for path in Path("run").rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
        assert path.suffix not in (".py", ".patch", ".diff"), path


# what the server has, against metrics.csv


class Loggers(list[Any]):
    """W&B and metrics.csv of one run in `folder`, fed as a fit feeds them: 5 steps an epoch."""

    def __init__(self, folder: str = "run", **settings: Any) -> None:
        super().__init__([Wandb(save_dir=folder, id="abcd1234", **settings), CSVMetrics(folder)])
        self.wandb: Wandb = self[0]
        self.wandb.summarize("val/acc", "max")

    def train(self, start: int, stop: int) -> "Loggers":
        for step in range(start, stop):
            for logger in self:
                logger.log_metrics({"epoch": step // 5, "train/loss": 1 / (step + 1)}, step)
                if step % 5 == 4:
                    logger.log_metrics({"epoch": step // 5, "val/acc": acc(step)}, step)
        return self

    def test(self, step: int) -> None:
        for logger in self:
            logger.evaluate_at(step)
            logger.log_metrics({"epoch": 0, "test/acc": 0.5}, 0)
            logger.evaluate_at(None)

    def resume(self, step: int, stop: int) -> "Loggers":
        for logger in self:
            logger.forget_from(step)
        return self.train(step, stop)


def acc(step: int) -> float:
    return step * 7 % 11 / 11


def best_acc(stop: int) -> Any:
    return pytest.approx({"max": max(acc(step) for step in range(4, stop, 5))}, rel=1e-6)


def equal(run: Run) -> bool:
    """Whether each value of the server is in metrics.csv and the other way round, and no row is without one."""
    return run.values == values_in(Path("run/metrics.csv")) and all(
        any(not name.startswith("_") for name in row) for row in run.history
    )


def sync(server: StandIn, said: str) -> None:
    """Runs the `wandb sync ...` of a message in this process."""
    server.faults.clear()
    wandb.teardown()
    cli.main(said.split("`wandb ")[1].rstrip("`").split(), standalone_mode=False)


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
    given = [run.given[name] for name in ("project", "displayName", "notes", "jobType")]
    assert given == ["digits", "digits/today", "why", "train"]
    (artifact,) = server.artifacts
    aliases = sorted(item["alias"] for item in artifact["aliases"])
    assert aliases == ["best", "latest"] and json.loads(artifact["metadata"])["val/acc"] == best_acc(23)


def test_an_evaluation_in_another_process_changes_only_its_own_values(server: StandIn) -> None:
    Loggers().train(0, 23).wandb.close()
    run = server.runs["abcd1234"]
    before = dict(run.summary)
    for verb, changed in (("test", {"test/acc"}), ("val", set())):
        logger = Wandb(id="abcd1234")
        logger.evaluate_at(15)
        logger.log_metrics({"epoch": 0, f"{verb}/acc": 0.25}, 0)
        logger.close()
        last = {name: value for name, value in run.history[-1].items() if not name.startswith("_")}
        assert last == {f"{verb}/acc": 0.25, "trainer/global_step": 15}
        different = {name for name in run.summary if run.summary[name] != before.get(name) and name[0] != "_"}
        assert different == changed and before.keys() <= run.summary.keys()
        before = dict(run.summary)


@pytest.mark.parametrize(
    ("first", "second", "step"),
    [
        ("online", "online", 13),
        ("online", "online", 18),  # with nothing later
        ("offline", "offline", 13),
        ("online", "offline", 10),
        ("offline", "online", 18),
    ],
)
def test_a_resumed_run_equals_metrics_csv(server: StandIn, first: Any, second: Any, step: int) -> None:
    Loggers(mode=first).train(0, 18).wandb.close(exit_code=1)
    Loggers(mode=second).resume(step, 25).wandb.close()
    if second == "offline":
        sync(server, "`wandb sync " + " ".join(str(path.parent) for path in find(Path("run"))))
    run = server.runs["abcd1234"]
    assert equal(run) and len(run.values) == 55 and run.states[-1] == "finished"
    assert run.summary["val/acc"] == best_acc(25)


def test_metrics_of_the_last_row_that_come_after_the_resume_and_a_test_before_it(server: StandIn) -> None:
    loggers = Loggers().train(0, 10)
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
    Loggers().train(0, 18).wandb.close(exit_code=1)
    server.fault("RewindRun", 403)
    loggers = Loggers().resume(13, 25)
    assert loggers.wandb.status.startswith("online")
    loggers.wandb.close()
    assert equal(server.runs["abcd1234"])


def train_and_wait() -> None:
    Loggers().train(0, 18)
    Path("trained").touch()
    time.sleep(60)


@pytest.mark.parametrize("posted", [False, True])
def test_a_run_that_sigkill_ended_is_completed(server: StandIn, monkeypatch: pytest.MonkeyPatch, posted: bool) -> None:
    if not posted:
        monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "15")  # as in life
    process = multiprocessing.get_context("fork").Process(target=train_and_wait)
    process.start()
    wait_for(Path("trained").exists)
    assert not posted or server.posted.wait(20)
    process.kill()
    process.join()
    assert bool(server.runs["abcd1234"].history) == posted
    Loggers().resume(13, 25).wandb.close()
    assert equal(server.runs["abcd1234"])


@pytest.mark.parametrize("kind", ["files", "upload"])
def test_a_refusal_in_mid_run_is_said_at_once_and_its_command_uploads_the_rest(
    server: StandIn, kind: str, warnings: Callable[[], list[str]]
) -> None:
    loggers = Loggers().train(0, 12)
    assert server.posted.wait(20)
    server.fault(kind, 403)
    loggers.wandb.log_image("picture", [torch.zeros(1, 4, 4)], step=12)
    step = 12
    while not warnings() and step < 200:
        loggers.train(step, step := step + 1)
        time.sleep(0.1)
    assert loggers.wandb.status.startswith("offline (the server refuses data: 403): upload later with `wandb sync ")
    assert warnings() == [f"W&B {loggers.wandb.status}"]
    loggers.train(step, step + 10)
    loggers.wandb.close()
    assert not equal(server.runs["abcd1234"])
    sync(server, loggers.wandb.status)
    run = server.runs["abcd1234"]
    assert equal(run) and run.states[-1] == "finished" and any(name.startswith("media/") for name in run.files)


@pytest.mark.parametrize("returns", [True, False])
def test_a_server_that_is_away_for_a_while(
    server: StandIn, returns: bool, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 20.0 if returns else 2.0)
    loggers = Loggers().train(0, 12)
    assert server.posted.wait(20)
    server.fault("all", 503, times=2 if returns else 10**9)
    loggers.train(12, 25)
    loggers.wandb.close()
    assert returns == equal(server.runs["abcd1234"]) == (not warnings())
    if not returns:
        assert "not everything was uploaded within 2 s" in warnings()[0]
        sync(server, loggers.wandb.status)
        assert equal(server.runs["abcd1234"])


@pytest.mark.parametrize(
    ("error", "sweep", "states", "code"),
    [
        (ValueError("loss is nan"), "", ["failed"], 1),
        (SystemExit(143), "", ["preempting", "failed"], 143),
        (SystemExit(0), "sweep123", ["finished"], 0),  # the agent's early stopping
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
        fit(Wandb(id="abcd1234"), Model(3, fail))
    run = server.runs["abcd1234"]
    assert (run.states[1:], run.exit_code, len(run.history)) == (states, code, 3)
    assert f"{type(error).__name__}: {error}".strip(": ") in run.console.replace('\\"', '"')
