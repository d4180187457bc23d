"""Chromium, and a visit to the live page in it."""

from __future__ import annotations

import base64
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from common import encoded
from PIL import Image

from infer import server
from preprocess.sample import SampleConfig, draw_face

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
    "--enable-blink-features=ForceEagerMeasureMemory",
]  # fmt: skip
DROP = """async ([name, type, text]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type }));
  const what = { bubbles: true, cancelable: true, dataTransfer: data };
  document.body.dataset.state = "waiting";
  document.querySelector("#stage").dispatchEvent(new DragEvent("drop", what));
}"""
PATIENCE = 240_000.0  # milliseconds; a busy machine loads slowly

built = pytest.mark.skipif(not (server.DIST / "index.html").is_file(),
                           reason="the page is not built: `make page` needs Node.js")  # fmt: skip


def drawn(number: int, size: int = 480) -> npt.NDArray[np.uint8]:
    return draw_face(number, SampleConfig(size=size, mask_size=64)).image


def jpeg(picture: npt.NDArray[np.uint8], **options: object) -> bytes:
    return encoded(Image.fromarray(picture), "JPEG", quality=90, **options)


class Visit:
    """A page in a fresh profile, and what went wrong on it."""

    def __init__(self, chromium: Any, url: str, **options: Any) -> None:
        self.context = chromium.new_context(**options)
        self.context.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.on("console", self._hear)
        self.context.on("weberror", lambda error: self.problems.append(str(error.error)))
        self.page = self.context.new_page()
        self.page.goto(url)

    def _hear(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def drop(self, name: str, data: bytes, kind: str = "image/jpeg") -> None:
        self.page.evaluate(DROP, [name, kind, base64.b64encode(data).decode()])
        self.page.wait_for_selector("body[data-state=photo], #notice:not([hidden])")

    def save(self, what: str) -> bytes:
        with self.page.expect_download() as download:
            self.page.click(f"[data-save={what}]")
        return Path(download.value.path()).read_bytes()

    def mask(self) -> npt.NDArray[np.bool_]:
        with Image.open(io.BytesIO(self.save("mask"))) as picture:
            return np.asarray(picture.convert("L")) > 0

    def text(self, selector: str) -> str:
        return str(self.page.text_content(selector))

    def close(self) -> None:
        self.context.close()
        assert self.problems == []
        assert self.requests
        home = self.requests[0]
        foreign = {r for r in self.requests if not r.startswith((home, f"blob:{home}"))}
        assert foreign == set()
