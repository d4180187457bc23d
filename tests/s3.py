"""Object storage for tests: moto's S3 server on loopback, behind a proxy that can misbehave."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import pytest

from preprocess import storage
from preprocess.storage import Remote

KEY, SECRET = "AKIANOBODY", "wJalrXUtnFEMI-not-to-be-seen"


class Proxy(BaseHTTPRequestHandler):
    """Hand requests on; the tries of each request for `where` meet the `faults` in turn."""

    protocol_version = "HTTP/1.1"
    behind: tuple[str, int]
    faults: tuple[str, ...] = ()
    where = "eyes-000000."
    seen: Counter[str]  # requests, as method, path and range

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {self.path} {self.headers.get('Range', '')}"
        number, self.seen[request] = self.seen[request], self.seen[request] + 1
        here = self.faults and self.where in self.path
        fault = self.faults[number % len(self.faults)] if here else ""
        status, headers, data = self.answer(body)
        if fault.isdigit():
            status, data = int(fault), f"<Error><AWSAccessKeyId>{KEY}</AWSAccessKeyId>".encode()
        if fault == "slow":
            time.sleep(0.5)
        if fault == "short":
            data = data[: len(data) // 2]
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        try:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": length}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        except (BrokenPipeError, ConnectionResetError):  # the client waited no longer
            pass
        self.close_connection |= fault in {"cut", "slow"}

    def answer(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        there = HTTPConnection(*self.behind)
        there.request(self.command, self.path, body, dict(self.headers))
        with there.getresponse() as answer:
            data, own = answer.read(), {"Connection", "Date", "Server"}
            headers = {k: v for k, v in answer.getheaders() if k not in own}
            return answer.status, headers, data

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any


@contextmanager
def serving() -> Iterator[type[Proxy]]:
    """Serve an empty bucket, `faces`; skip if what that takes is not installed."""
    pytest.importorskip("obstore", reason="needs pip install '.[cloud]'")
    moto = pytest.importorskip("moto.server", reason="needs '.[dev-cloud]'", exc_type=ImportError)
    behind = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    behind.start()
    Proxy.behind, Proxy.seen = behind.get_host_and_port(), Counter()
    front = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=front.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{front.server_address[1]}")
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setattr(storage, "_PAUSE", 0.01)
        urlopen(Request("http://{}:{}/faces".format(*Proxy.behind), method="PUT")).close()
        yield Proxy
    storage._store.cache_clear()
    front.shutdown()
    front.server_close()
    behind.stop()


def objects(out: Remote) -> dict[str, bytes]:
    import obstore

    bucket, prefix = out.removeprefix("s3://").split("/", 1)
    store = storage._store(f"s3://{bucket}")
    paths = [facts["path"] for part in obstore.list(store, prefix) for facts in part]
    return {p.removeprefix(f"{prefix}/"): bytes(obstore.get(store, p).bytes()) for p in paths}
