"""A server for the live page, a browser, and one visit that photos share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import simplejpeg
from browser import CHROMIUM, FLAGS, Visit, drawn

from infer import Predictor, server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with server.PageServer(server.DIST) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.url
        running.shutdown()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a browser whose camera shows a drawn face that moves from side to side."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium (Debian: apt-get install chromium; or set CHROMIUM)")
    film, face = tmp_path_factory.mktemp("film") / "face.mjpeg", drawn(17)
    frames = []
    for shift in 40 * np.sin(np.linspace(0, 2 * np.pi, 30, endpoint=False)):
        frame = np.full((480, 640, 3), 180, np.uint8)
        frame[:, 80 + int(shift) : 560 + int(shift)] = face
        frames.append(simplejpeg.encode_jpeg(frame, 85))
    film.write_bytes(b"".join(frames))
    flags = [*FLAGS, f"--use-file-for-fake-video-capture={film}"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(chromium: Any, url: str) -> Iterator[Visit]:
    """One page for all photos: the networks are loaded once."""
    visit = Visit(chromium, url, viewport={"width": 1320, "height": 900})
    yield visit
    visit.close()


@pytest.fixture(scope="module")
def bundled() -> Predictor:
    return Predictor.bundled()
