"""The server: the address it listens at, and the requests it refuses."""

import json
import os
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from litengine.demo.page import EXAMPLES

if TYPE_CHECKING:
    import gradio
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PORTS = range(7860, 7960)
MAX_UPLOAD = 10 * 2**20  # bytes
MAX_UPLOADS = 10 * MAX_UPLOAD  # of all files together
MAX_REQUEST = 2**16  # bytes, of other requests
# Gradio's own scripts use eval; the page shows no text of others as a script.
POLICY = (
    "default-src 'self' 'unsafe-inline' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "base-uri 'self'; form-action 'self'"
)


def find_port(host: str, port: int | None) -> int:
    """The port that was asked for, or else the first free one of 7860 to 7959.

    Raises:
        ValueError: if nothing can listen there, with the reason.
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


def launch(page: "gradio.Blocks", css: str, host: str, port: int, folder: Path) -> str:
    """Serves the page, in a thread of its own, until it is closed; returns its address. Uploads lie in `folder`."""
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
        app_kwargs={"middleware": [Middleware(Gate, names_of(host), folder)]},
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=css,
    )
    return address


def names_of(host: str) -> set[str]:
    """Names under which browsers reach the page; "*" stands for all IP addresses.

    Other names are refused: a web site could let its own name lead to this machine (DNS rebinding), and its scripts
    could then use the page.
    """
    local = {host.lower(), "localhost", "127.0.0.1", "::1"}
    if ip_address(socket.getaddrinfo(host, None)[0][4][0]).is_unspecified:
        return local | {socket.gethostname().lower(), socket.getfqdn().lower(), "*"}
    return local


class Gate:
    """ASGI middleware that refuses requests that this page does not make, though Gradio would serve them.

    Those are: requests under another name or from another web site, large ones, and addresses for the server to
    download from. It forbids the browser to load anything from elsewhere, and deletes the oldest uploads when all
    together become too large.
    """

    def __init__(self, app: "ASGIApp", names: set[str], folder: Path) -> None:
        self.app = app
        self.names = names
        self.folder = folder
        self.coming = 0  # bytes of uploads that are being received

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "websocket":  # Gradio does without
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def send_with_policy(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
            await send(message)

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        is_upload = scope["path"].endswith("/upload")
        length = headers.get(b"content-length", "0")
        size = int(length) if length.isdecimal() else MAX_UPLOADS
        refusal = 0
        if not self._is_from_here(headers):
            refusal = 403
        elif b"transfer-encoding" in headers:  # of unknown length
            refusal = 411
        elif size > MAX_REQUEST + (MAX_UPLOAD if is_upload else 0):
            refusal = 413
        elif is_upload and not self._make_room(size):
            refusal = 503
        elif scope["method"] == "POST" and not is_upload:
            body = await _body(receive)
            receive = _again(body, receive)
            refusal = 403 if _names_a_remote_file(body) else 0
        if refusal or "://" in scope["path"]:
            await send_with_policy({"type": "http.response.start", "status": refusal or 403})
            await send_with_policy({"type": "http.response.body"})
            return
        self.coming += size if is_upload else 0
        try:
            await self.app(scope, receive, send_with_policy)
        finally:
            self.coming -= size if is_upload else 0

    def _is_from_here(self, headers: dict[bytes, str]) -> bool:
        """Whether the request names this server, and was made by its own page or by no web site at all."""
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        with suppress(ValueError):
            name = urlsplit(f"//{host}").hostname or ""
            known = name in self.names or ("*" in self.names and ip_address(name) is not None)
            return known and (origin is None or urlsplit(origin).netloc == host)
        return False

    def _make_room(self, size: int) -> bool:
        """Deletes the oldest uploads until another of `size` bytes fits."""
        files = [file for file in self.folder.rglob("*") if file.is_file() and file.parent.name != EXAMPLES]
        files.sort(key=lambda file: file.stat().st_mtime)
        used = sum(file.stat().st_size for file in files) + self.coming
        while files and used + size > MAX_UPLOADS:
            used -= files[0].stat().st_size
            files.pop(0).unlink()
        return used + size <= MAX_UPLOADS


async def _body(receive: "Receive") -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _again(body: bytes, receive: "Receive") -> "Receive":
    """A `receive` that returns the body once more."""
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def receive_again() -> "Message":
        return messages.pop() if messages else await receive()

    return receive_again


def _names_a_remote_file(body: bytes) -> bool:
    try:
        left = [json.loads(body)]
    except (ValueError, RecursionError):
        return False  # Gradio cannot read it either
    while left:  # no recursion: what JSON holds may be too deep for it
        value = left.pop()
        if isinstance(value, dict):
            if isinstance(path := value.get("path"), str) and "://" in path:
                return True
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False
