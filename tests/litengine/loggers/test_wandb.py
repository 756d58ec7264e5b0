"""W&B never stands in the way: offline runs read back from their files, servers that misbehave, dead services."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from wandb_file import WandbFile, find

from litengine.loggers import wandb as tracking
from litengine.loggers import wandb_server
from litengine.loggers.wandb import Wandb

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key, no settings, no run from outside, and none left behind."""
    import wandb

    for name in list(os.environ):
        if name.startswith(("WANDB_", "XDG_", "NETRC")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
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


Reply = tuple[int, bytes]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[bytes], Reply]], str]]:
    """Starts a local HTTP server that answers as told, and points W&B at it with a key; gives its address."""
    servers = []

    def start(answer: Callable[[bytes], Reply]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status, body = answer(self.rfile.read(int(self.headers["content-length"] or 0)))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
        return point_at(monkeypatch, server.server_port)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def point_at(monkeypatch: pytest.MonkeyPatch, port: int) -> str:
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return f"http://127.0.0.1:{port}"


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Runs a program in the working directory that can import the house and these tests."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parents[1] / "support")])
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


def timed_status(logger: Wandb) -> tuple[str, float]:
    start = time.monotonic()
    return logger.status, time.monotonic() - start


def test_importing_does_not_import_wandb() -> None:
    code = "import sys, litengine.loggers.wandb; sys.exit('wandb' in sys.modules or 'requests' in sys.modules)"
    assert python(code).returncode == 0


def test_offline_run_holds_config_and_metrics(capfd: pytest.CaptureFixture[str]) -> None:
    config = {"model": {"lr": 0.01, "widths": [64, 128], "path": None}, "seed_everything": 7}
    logger = Wandb(project="p", name="first", save_dir="run", tags=["cpu"], group="g", id="abcd1234")
    logger.log_config(config)
    fit(logger, Line())
    folder = find(Path("run"))[0].parent
    assert logger.status == f"offline (no API key): upload later with `wandb sync {folder}`"
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
    ("reply", "reason"),
    [
        ((200, b"<html>hello</html>"), "is not a W&B server"),
        ((200, b'{"data": []}'), "is not a W&B server"),
        ((401, b"{}"), "does not accept the API key"),
        ((200, b'{"data": {"viewer": null}}'), "does not accept the API key"),
        ((503, b"{}"), "answers HTTP 503"),
    ],
)
def test_a_server_that_is_none_is_offline(serve: Any, reply: Reply, reason: str) -> None:
    address = serve(lambda body: reply)
    status, seconds = timed_status(Wandb())
    assert status.startswith(f"offline ({address} {reason}): upload later with `wandb sync wandb/offline-run-")
    assert seconds < 5


def test_a_server_that_refuses_or_hangs_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = point_at(monkeypatch, listening.getsockname()[1])
        refused = wandb_server.probe(address, KEY)
        listening.listen()  # connects, and never hears a word
        status, seconds = timed_status(Wandb())
    assert refused == f"{address} is not reachable"
    assert status.startswith(f"offline ({address} does not answer within 3 s)") and 2.5 < seconds < 7


def test_netrc_and_a_good_server_go_online_and_fall_back(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server accepts the key but cannot open a run: the worst moment to fail."""
    asked: list[bytes] = []

    def answer(body: bytes) -> Reply:
        asked.append(body)
        return (200, b'{"data": {"viewer": {"id": "me"}}}') if b"UpsertBucket" not in body else (400, b"{}")

    address = serve(answer)
    monkeypatch.delenv("WANDB_API_KEY")
    netrc = tmp_path / "home/.netrc"
    host = address.removeprefix("http://")
    netrc.write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setattr(tracking, "INIT_SECONDS", 4.0)
    logger = Wandb()
    status, seconds = timed_status(logger)
    assert any(b"UpsertBucket" in body for body in asked), "it tried online"
    assert status.startswith("offline (W&B did not start: ") and seconds < 10
    logger.log_metrics({"a": 1.0}, 0)
    logger.close()
    assert recorded().metric("a") == [1]


@pytest.mark.parametrize(("mode", "word"), [("offline", "offline"), ("disabled", "disabled"), ("dryrun", "offline")])
def test_wandb_mode_is_respected(serve: Any, monkeypatch: pytest.MonkeyPatch, mode: str, word: str) -> None:
    asked: list[bytes] = []
    serve(lambda body: (asked.append(body), (401, b""))[1])  # type: ignore[func-returns-value]
    monkeypatch.setenv("WANDB_MODE", mode)
    assert Wandb().status.startswith(f"{word} (W&B mode is set to ")
    assert not asked


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
    assert "CSV metrics continue" in lines[0] and lines[0].endswith(f"`wandb sync {folder}`")


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


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["sys.exit(143)", "raise RuntimeError"])
def test_exit_code_of_the_process_is_the_runs(ends: str) -> None:
    code = f"import sys\nfrom litengine.loggers.wandb import Wandb\nWandb().log_metrics({{'a': 1.0}}, 0)\n{ends}"
    python(code)
    assert recorded().exit_code == {"sys.exit(143)": 143, "raise RuntimeError": 1}[ends]


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


def test_neither_key_nor_code_is_written(serve: Any) -> None:
    serve(lambda body: (401, b"{}"))
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
