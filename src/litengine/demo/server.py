"""The server: the address it listens at, and the requests it refuses."""

import json
import os
import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from litengine.demo.page import CSS, EXAMPLES

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
        raise ValueError(f"host is {host}, which is not an address of this machine: {error.strerror}") from error
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


def launch(page: gr.Blocks, host: str, port: int, folder: Path) -> str:
    """Serves the page, in a thread of its own, until it is closed; returns its address. Uploads lie in `folder`."""
    _, address, _ = page.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=port,
        share=False,
        inline=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        max_file_size=MAX_UPLOAD,
        app_kwargs={"middleware": [Middleware(Gate, names_of(host), folder)]},
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
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


class Gate(BaseHTTPMiddleware):
    """Refuses requests that this page does not make, though Gradio would serve them.

    Those are: requests under another name or from another web site, large ones, and addresses for the server to
    download from. It forbids the browser to load anything from elsewhere, and deletes the oldest uploads when all
    together become too large.
    """

    def __init__(self, app: ASGIApp, names: set[str], folder: Path) -> None:
        super().__init__(app)
        self.names = names
        self.folder = folder
        self.coming = 0  # bytes of uploads that are being received

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":  # Gradio does without; the server closes what nobody answers
            await super().__call__(scope, receive, send)

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        length = request.headers.get("content-length", "0")
        size = int(length) if length.isdecimal() else MAX_UPLOADS
        upload = size if request.scope["path"].endswith("/upload") else 0
        refusal = await self._refusal(request, size, upload)
        self.coming += upload
        try:
            response = Response(status_code=refusal) if refusal else await call_next(request)
        finally:
            self.coming -= upload
        response.headers["content-security-policy"] = POLICY
        return response

    async def _refusal(self, request: Request, size: int, upload: int) -> int:
        """The status with which a request is refused, or 0."""
        if not self._is_from_here(request) or "://" in request.scope["path"]:
            return 403
        if "transfer-encoding" in request.headers:  # of unknown length
            return 411
        if size > MAX_REQUEST + (MAX_UPLOAD if upload else 0):
            return 413
        if upload:
            return 0 if self._make_room(size) else 503
        return 403 if request.method == "POST" and _names_a_remote_file(await request.body()) else 0

    def _is_from_here(self, request: Request) -> bool:
        """Whether the request names this server, and was made by its own page or by no web site at all."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
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


def _names_a_remote_file(body: bytes) -> bool:
    found: list[bool] = []
    with suppress(ValueError, RecursionError):  # Gradio cannot read it either
        json.loads(body, object_hook=lambda item: found.append("://" in str(item.get("path"))))
    return any(found)
