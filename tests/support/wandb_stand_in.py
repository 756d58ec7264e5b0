"""A stand-in for the W&B server: it answers the installed client, keeps what arrives, and fails on demand."""

import gzip
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from litengine.loggers.csv import read_rows

KEY = "0123456789abcdef0123456789abcdef01234567"
FEATURES = (
    "LARGE_FILENAMES",
    "CLIENT_IDS",
    "STRUCTURED_CONSOLE_LOGS",
    "EXPAND_DEFINED_METRIC_GLOBS",
    "FILESTREAM_GZIP",
)
PROJECT = {"id": "P", "name": "p", "entity": {"id": "E", "name": "team"}}


def values_in(metrics: Path) -> list[tuple[int, str, float]]:
    """(step, name, value) of every number in a metrics.csv, sorted: what `Run.values` must be."""
    rows = read_rows(metrics)[1]
    return sorted((int(row["step"]), k, float(v)) for row in rows for k, v in row.items() if v and k != "step")


class Run:
    """What one run consists of on the server."""

    def __init__(self, name: str) -> None:
        self.name, self.states, self.exit_code = name, ["running"], -1
        self.lines: dict[str, dict[int, str]] = {}  # of each streamed file, by offset
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.given: dict[str, Any] = {}  # display name, notes, job type, ...
        self.files: set[str] = set()

    @property
    def history(self) -> list[dict[str, Any]]:
        lines = self.lines.get("wandb-history.jsonl", {})
        return [json.loads(lines[place]) for place in sorted(lines)]

    @property
    def values(self) -> list[tuple[int, str, float]]:
        """(trainer/global_step, name, value to 7 digits) of every number in the history, sorted."""
        return sorted(
            (row["trainer/global_step"], name, float(f"{value:.7g}"))
            for row in self.history
            for name, value in row.items()
            if not name.startswith("_") and name != "trainer/global_step" and isinstance(value, int | float)
        )

    @property
    def console(self) -> str:
        return "\n".join(self.lines.get("output.log", {}).values())

    def next_line(self, file: str) -> int:
        return max(self.lines.get(file, {}), default=-1) + 1


class StandIn:
    """The server, in a thread. `fault(kind, status, times)` makes requests fail.

    The agent of a sweep gets the settings in `sweep_runs` one after the other, and is asked to stop the runs in
    `stopped`.

    A kind is `all`, the first part of a path (graphql, files for the file stream, upload) or a GraphQL operation. The
    status 0 answers with no JSON, -1 with null fields, -2 after 20 s.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.faults: list[list[Any]] = []
        self.sweep: dict[str, Any] = {}
        self.sweep_runs: list[dict[str, Any]] = []
        self.stopped: set[str] = set()
        self.operations: list[str] = []
        self.posted = threading.Event()  # set whenever history lines arrive

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
                if handler.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                status, answer = self.answer(handler.path.strip("/").split("/"), body)
                handler.send_response(status)
                handler.send_header("Content-Length", str(len(answer)))
                handler.end_headers()
                handler.wfile.write(answer)

            do_PUT = do_GET = do_POST

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the client has left
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.environment = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fault(self, kind: str, status: int, times: int = 10**9) -> None:
        self.faults.append([kind, status, times])

    def answer(self, path: list[str], body: bytes) -> tuple[int, bytes]:
        request = json.loads(body) if path[0] == "graphql" or path[-1] == "file_stream" else {}
        named = re.search(r"(?:query|mutation)\s+(\w+)", request.get("query", ""))
        operation = named[1] if named else ""
        self.operations.append(operation or path[0])
        for fault in self.faults:
            if fault[0] in ("all", path[0], operation) and fault[2] > 0:
                fault[2] -= 1
                if fault[1] == -2:
                    time.sleep(20)
                answers = {0: (200, b"<html>"), -1: (200, b'{"data": {"viewer": null}}'), -2: (200, b"")}
                return answers.get(fault[1]) or (fault[1], b'{"errors": [{"message": "refused on demand"}]}')
        if path[0] == "graphql":
            method = getattr(self, f"on_{operation}", lambda **_: {"project": None})
            return 200, json.dumps({"data": method(**request.get("variables", {}))}).encode()
        if path[-1] == "file_stream":
            self.stream(self.runs[path[3]], request)
        elif path[0] == "upload":
            self.runs[path[1]].files.add("/".join(path[2:]))
        return 200, b"{}"

    def stream(self, run: Run, request: dict[str, Any]) -> None:
        for file, chunk in (request.get("files") or {}).items():
            if file == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
            else:
                run.lines.setdefault(file, {}).update(enumerate(chunk.get("content", []), chunk["offset"]))
        if request.get("preempting"):
            run.states.append("preempting")
        if request.get("complete"):
            run.exit_code = request["exitcode"]
            run.states.append("failed" if run.exit_code else "finished")
        if "wandb-history.jsonl" in (request.get("files") or {}):
            self.posted.set()

    # GraphQL operations; one without a method gets no data

    def on_Viewer(self, **_: Any) -> Any:
        return {"viewer": {"id": "U", "entity": "team", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    on_GetViewer = on_Viewer

    def on_ServerFeaturesQuery(self, **_: Any) -> Any:
        return {"serverInfo": {"features": [{"name": name, "isEnabled": True} for name in FEATURES]}}

    def bucket(self, run: Run) -> dict[str, Any]:
        lines = run.next_line("wandb-history.jsonl")
        return {
            "id": run.name,
            "name": run.name,
            "displayName": run.name,
            "historyLineCount": lines,
            "project": {**PROJECT, "name": run.given["project"]},
        }

    def on_UpsertBucket(self, **given: Any) -> Any:
        name = given.get("name") or given["id"]  # the client uses what `bucket` calls the id
        run = self.runs.setdefault(name, Run(name))
        run.given |= {key: value for key, value in given.items() if value is not None}
        run.config = json.loads(given["config"]) if given.get("config") else run.config
        return {"upsertBucket": {"bucket": self.bucket(run), "inserted": False}}

    def on_RunResumeStatus(self, name: str, **_: Any) -> Any:
        run = self.runs.get(name)
        if run is None:
            return {"model": {**PROJECT, "bucket": None}}
        tail = json.dumps([json.dumps(row) for row in run.history[-1:]])
        counts = {"logLineCount": run.next_line("output.log"), "eventsLineCount": run.next_line("wandb-events.jsonl")}
        empty: dict[str, Any] = {"eventsTail": "[]", "wandbConfig": '{"t": 1}', "tags": [], "notes": None}
        state = {"summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config), "historyTail": tail}
        return {"model": {**PROJECT, "bucket": {**self.bucket(run), **counts, **empty, **state}}}

    def on_RewindRun(self, **given: Any) -> Any:
        run = self.runs[given["runName"]]
        kept = [row for row in run.history if row["_step"] <= given["metricValue"]]
        run.lines["wandb-history.jsonl"] = {place: json.dumps(row) for place, row in enumerate(kept)}
        return {"rewindRun": {"rewoundRun": {**self.bucket(run), "config": json.dumps(run.config)}}}

    def on_CreateRunFiles(self, run: str, files: list[str], **_: Any) -> Any:
        urls = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{quote(name)}"} for name in files]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": urls}}

    def on_CreateArtifact(self, input: dict[str, Any], **_: Any) -> Any:
        self.artifacts.append(input)
        sequence = {"id": "S", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": "A", "state": "COMMITTED", "artifactSequence": sequence}}}

    def on_UpsertSweep(self, **given: Any) -> Any:
        self.sweep = {"id": "SW", "name": "sweep123", "state": "RUNNING", "config": given["config"], "project": PROJECT}
        return {"upsertSweep": {"sweep": self.sweep, "configValidationWarnings": []}}

    def on_SweepWithRuns(self, **_: Any) -> Any:
        names = ("method", "description", "createdAt", "heartbeatAt", "updatedAt", "earlyStopJobRunning", "bestLoss")
        nothing = dict.fromkeys((*names, "controller", "scheduler"))
        return {"project": {"sweep": {**nothing, **self.sweep, "runs": {"edges": []}}}}

    def on_CreateAgent(self, **_: Any) -> Any:
        return {"createAgent": {"agent": {"id": "AG"}}}

    def on_Heartbeat(self, **given: Any) -> Any:
        active = json.loads(given["runState"])
        orders = [{"type": "stop", "run_id": name} for name in active if name in self.stopped]
        if not active and self.sweep_runs:
            args = {key: {"value": value} for key, value in self.sweep_runs.pop(0).items()}
            orders = [{"type": "run", "run_id": f"run{len(self.sweep_runs)}", "program": "main.py", "args": args}]
        elif not active:
            orders = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": "AG"}, "commands": json.dumps(orders)}}
