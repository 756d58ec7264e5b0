"""The server: where it listens, and what it lets through."""

import json
import os
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PORTS = range(7860, 7960)
MAX_UPLOAD = 10 * 2**20  # bytes
MAX_REQUEST = 2**16  # bytes, of what is not an upload
POLICY = "default-src 'self' 'unsafe-inline' data: blob:; base-uri 'self'; form-action 'self'"


def find_port(host: str, port: int | None) -> int:
    """The port that was asked for, or else the first free one of 7860 to 7959.

    Raises:
        ValueError: where nothing can listen there, with the reason.
    """
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"port is {port}: 1 to 65535 are allowed")
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ValueError(f"host is {host}, which is no address of this machine: {error.strerror}") from error
    for candidate in PORTS if port is None else [port]:
        try:
            socket.create_server((host, candidate), family=family).close()
        except OSError as error:
            refused = error
        else:
            return candidate
    ports = f"port {port}" if port is not None else f"ports {PORTS[0]} to {PORTS[-1]}"
    reason = os.strerror(refused.errno or 0)
    raise ValueError(f"cannot listen at {host}, {ports}: {reason}. Give another --host or --port") from refused


def is_seen_by_others(host: str) -> bool:
    """Whether other machines may reach what listens at `host`."""
    addresses = {str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(host, None)}
    return not all(ip_address(address).is_loopback for address in addresses)


def launch(page: "gradio.Blocks", css: str, host: str, port: int) -> str:
    """Serves the page, in a thread of its own, until it is closed; returns its address."""
    import gradio as gr
    from starlette.middleware import Middleware

    _, address, _ = page.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=port,
        share=False,
        inline=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        max_file_size=MAX_UPLOAD,
        app_kwargs={"middleware": [Middleware(Gate)]},
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=css,
    )
    return address


class Gate:
    """ASGI middleware that refuses what Gradio would take, but this page has no use for: large requests, and addresses
    for the server to download from. It also forbids the browser to load anything from elsewhere."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal, receive = await _judge(scope, receive)

        async def send_with_policy(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
            await send(message)

        if refusal:
            await send_with_policy({"type": "http.response.start", "status": refusal})
            await send_with_policy({"type": "http.response.body"})
        else:
            await self.app(scope, receive, send_with_policy)


async def _judge(scope: "Scope", receive: "Receive") -> "tuple[int, Receive]":
    """The status with which a request is refused, or 0; and where its body is read from, if it is not."""
    headers = dict(scope["headers"])
    an_upload = scope["path"].endswith("/upload")
    if "://" in scope["path"]:
        return 403, receive
    if b"transfer-encoding" in headers:  # its length is not known
        return 411, receive
    if int(headers.get(b"content-length", 0)) > MAX_REQUEST + (MAX_UPLOAD if an_upload else 0):
        return 413, receive
    if an_upload or scope["method"] != "POST":
        return 0, receive
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    again: list[Message] = [{"type": "http.request", "body": body}]

    async def receive_again() -> "Message":
        return again.pop() if again else await receive()

    return (403 if _names_a_remote_file(body) else 0), receive_again


def _names_a_remote_file(body: bytes) -> bool:
    def search(content: Any) -> bool:
        if isinstance(content, dict):
            return "://" in str(content.get("path")) or any(map(search, content.values()))
        return isinstance(content, list) and any(map(search, content))

    try:
        return search(json.loads(body))
    except (ValueError, RecursionError):
        return False  # which Gradio cannot read either
