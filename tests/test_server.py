"""The live page's server: its own files, to this machine alone; no browser is needed."""

from __future__ import annotations

import http.client
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from common import fails

from infer import server
from infer.cli import main
from preprocess.errors import InputError


def test_a_page_that_is_not_built_is_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("infer.server.DIST", tmp_path)
    fails(CliRunner().invoke(main, ["page", "--no-browser"]), "holds no page", "make page")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "dist"
    place.mkdir()
    (place / "index.html").write_text("<p>hello")
    (place / "notes.secret").write_text("not the page's")
    (tmp_path / "outside.html").write_text("outside")
    return place


def ask(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_only_the_pages_own_files_are_served_and_to_this_machine_alone(folder: Path) -> None:
    with server.PageServer(folder, 9200) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        host, port = running.server_address[:2]
        assert host == "127.0.0.1"
        assert ask(port, "/") == (200, b"<p>hello")
        assert ask(port, "/?again") == (200, b"<p>hello")
        assert ask(port, "/", method="HEAD") == (200, b"")
        for path in ("/../outside.html", "/%2e%2e/outside.html", "/notes.secret", "//etc/passwd"):
            assert ask(port, path)[0] == 404
        assert ask(port, "/", host="evil.example")[0] == 421
        assert ask(port, "/", method="POST")[0] == 501
        running.shutdown()


def test_a_second_start_takes_the_next_port(folder: Path) -> None:
    with server.PageServer(folder, 9300) as one, server.PageServer(folder, 9300) as two:
        assert two.server_address[1] > one.server_address[1]
    with pytest.raises(InputError, match="holds no page"):
        server.PageServer(folder / "nothing")
