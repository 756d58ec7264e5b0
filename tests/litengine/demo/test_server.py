"""Where the server listens, and what it refuses."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
from starlette.requests import Request
from starlette.responses import Response

from litengine.demo.server import MAX_REQUEST, MAX_UPLOAD, Gate, find_port, names_of


def test_the_given_port_or_the_next_free_one() -> None:
    first = find_port("127.0.0.1", None)
    assert 7860 <= first < 7960
    with socket.create_server(("127.0.0.1", first)):
        assert first < find_port("127.0.0.1", None) < 7960
        with pytest.raises(ValueError, match=f"port {first}: Address already in use.*--port"):
            find_port("127.0.0.1", first)
    assert find_port("127.0.0.1", None) == find_port("127.0.0.1", first) == first  # it was closed again


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("127.0.0.1", 0, "port is 0: 1 to 65535"),
        ("127.0.0.1", 65536, "port is 65536"),
        ("nowhere.invalid", None, "host is nowhere.invalid"),
        ("192.0.2.1", None, "192.0.2.1, ports 7860 to 7959"),  # RFC 5737: nobody's
    ],
)
def test_what_cannot_be_listened_at_is_said(host: str, port: int | None, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        find_port(host, port)


def ask(
    method: str, path: str, body: bytes = b"", listen: str = "127.0.0.1", **headers: str
) -> tuple[int, dict[bytes, bytes], bytes | None]:
    """Status and headers of the answer, and the body that reached the application; None if nothing did."""
    arrived: list[bytes] = []
    sent: list[dict[str, Any]] = []
    chunks = [body[:10], body[10:]]  # as a body comes from the network

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arrived.append(await Request(scope, receive).body())
        await Response(headers={"x-app": "yes"})(scope, receive, send)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:7860", "content-length": str(len(body))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(Gate(app, names_of(listen), Path())(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), arrived[0] if arrived else None


def test_what_the_page_asks_comes_through_unchanged_and_the_answer_has_the_policy() -> None:
    url = "http://127.0.0.1:7860/gradio_api/file=/uploads/1.png"
    body = json.dumps({"data": [{"path": "/uploads/1.png", "url": url}], "fn_index": 0}).encode()
    status, headers, arrived = ask("POST", "/gradio_api/queue/join", body)
    assert status == 200 and arrived == body
    assert headers[b"x-app"] == b"yes" and b"default-src 'self'" in headers[b"content-security-policy"]


def test_files_are_let_through_up_to_their_size() -> None:
    limit = MAX_UPLOAD + MAX_REQUEST
    assert ask("POST", "/gradio_api/upload", b"x" * 30, content_length=str(limit))[2] == b"x" * 30
    assert ask("POST", "/gradio_api/upload", content_length=str(limit + 1))[::2] == (413, None)


def test_other_requests_are_small() -> None:
    assert ask("POST", "/gradio_api/queue/join", b"[]", content_length=str(MAX_REQUEST))[0] == 200
    assert ask("POST", "/gradio_api/queue/join", b"[]", content_length=str(MAX_REQUEST + 1))[::2] == (413, None)
    assert ask("POST", "/gradio_api/upload", transfer_encoding="chunked")[::2] == (411, None)


@pytest.mark.parametrize("path", ["http://192.0.2.1/a.png", "https://192.0.2.1/a.png", "h\\u0074tp://192.0.2.1/a.png"])
def test_the_server_is_not_made_to_download(path: str) -> None:
    body = f'{{"data": [[{{"path": "{path}", "meta": {{"_type": "gradio.FileData"}}}}]]}}'.encode()
    assert ask("POST", "/gradio_api/queue/join", body)[::2] == (403, None)
    deep = b'{"before": %s, "data": %s}' % (b"[" * 800 + b"]" * 800, body)
    assert ask("POST", "/gradio_api/queue/join", deep)[::2] == (403, None)
    status, headers, arrived = ask("GET", "/gradio_api/file=http://192.0.2.1/a.png")
    assert (status, arrived) == (403, None)
    assert b"content-security-policy" in headers


def test_what_is_no_json_is_left_to_the_application() -> None:
    for body in (b"{", b"[" * 30_000, b"\xff"):
        assert ask("POST", "/gradio_api/queue/join", body)[::2] == (200, body)


@pytest.mark.parametrize(
    ("listen", "headers", "status"),
    [
        ("127.0.0.1", {"host": "localhost:9000", "origin": "http://localhost:9000"}, 200),
        ("127.0.0.1", {"host": "[::1]:7860"}, 200),
        ("127.0.0.1", {"host": "192.168.0.7:7860"}, 403),
        ("127.0.0.1", {"host": "evil.example:7860"}, 403),
        ("127.0.0.1", {"host": "127.0.0.1.evil.example"}, 403),
        ("127.0.0.1", {"host": ""}, 403),
        ("127.0.0.1", {"host": "[evil"}, 403),
        ("127.0.0.1", {"origin": "http://localhost:9000"}, 403),
        ("127.0.0.1", {"origin": "https://evil.example"}, 403),
        ("127.0.0.1", {"origin": "null"}, 403),
        ("0.0.0.0", {"host": "192.168.0.7:7860", "origin": "http://192.168.0.7:7860"}, 200),
        ("0.0.0.0", {"host": socket.gethostname()}, 200),
        ("0.0.0.0", {"host": "evil.example"}, 403),
    ],
)
def test_only_its_own_name_and_its_own_page_are_served(listen: str, headers: dict[str, str], status: int) -> None:
    for method, path in [("GET", "/"), ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/upload")]:
        assert ask(method, path, b"[]", listen, **headers)[0] == status
