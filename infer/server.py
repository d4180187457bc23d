"""The live page's server: this machine alone, the page's own files, nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from preprocess.errors import InputError

DIST = Path(__file__).parent / "page" / "dist"
HOST, PORT, _TRIES = "127.0.0.1", 8765, 50
_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json", ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm", ".onnx": "application/octet-stream",
}  # fmt: skip
# The page repeats this in a <meta>, for static hosts. WebAssembly has to be compiled: that is all
# that is evaluated.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; worker-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    # Isolation: without it the browser gives WebAssembly no threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class PageServer(ThreadingHTTPServer):
    """Serves a folder's files, as they were named when it started, on the loopback address.

    Parameters
    ----------
    folder
        What `make page` wrote.
    port
        If it is taken, one of the next fifty is used.

    Raises
    ------
    InputError
        If the page is not there, or all those ports are taken.
    """

    daemon_threads = True
    # Elsewhere it only spares a wait after the last run; on Windows it would share a taken port.
    allow_reuse_address = os.name != "nt"

    def __init__(self, folder: Path, port: int = PORT) -> None:
        if not (folder / "index.html").is_file():
            raise InputError(folder, "holds no page", "Build it with `make page` (needs Node.js)")
        files = {f"/{p.relative_to(folder).as_posix()}": p for p in folder.rglob("*")
                 if p.is_file() and p.suffix in _TYPES}  # fmt: skip
        handler = partial(_Handler, files | {"/": folder / "index.html"})
        for number in range(port, min(port + _TRIES, 65536)):
            try:
                super().__init__((HOST, number), handler)
                return
            except OSError:  # taken
                continue
        raise InputError("--port", f"{port} and the next are taken", "Give another")

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, files: dict[str, Path], *args: object) -> None:
        self._files = files
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:  # noqa: N802  # http.server's name
        self._answer(with_body=True)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        # Another name for this address would let a foreign page read what this one serves.
        port = self.server.server_address[1]  # type: ignore[index]
        if self.headers.get("Host") not in {f"{HOST}:{port}", f"localhost:{port}"}:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        path = self._files.get(urlsplit(self.path).path)
        try:
            data = path.read_bytes() if path else None
        except OSError:  # removed since
            data = None
        if path is None or data is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES[path.suffix])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body:
            with suppress(ConnectionError):  # the browser went away
                self.wfile.write(data)

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Stay silent: the terminal shows the address."""
