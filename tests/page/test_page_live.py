"""The live page beyond photos: camera, offline, WebGPU, blinks."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, DROP, FLAGS, PATIENCE, Visit, built, drawn, jpeg
from common import iou
from PIL import Image

from infer import Predictor, page_data, server


@built
@pytest.mark.slow
def test_a_hundred_frames_of_the_camera_leave_nothing_behind(chromium: Any, url: str) -> None:
    visit = Visit(chromium, url, viewport={"width": 1320, "height": 900})
    page = visit.page
    measure = "async () => (await performance.measureUserAgentSpecificMemory()).bytes"

    def frames() -> int:
        return int(page.get_attribute("body", "data-frames") or 0)

    page.click("#camera")
    page.wait_for_selector("body[data-state=camera]")
    while frames() < 20:
        page.wait_for_timeout(100)
    before = page.evaluate(measure)
    start = frames()
    while frames() < start + 100:
        page.wait_for_timeout(100)
    assert page.evaluate(measure) < 1.05 * before + 2e6
    assert "frames/s" in visit.text("#fps")
    assert visit.text("#status") == "Camera on: 2 eyes in 1 face"
    assert visit.text("#face-list").startswith("Face 1: right 0.")
    record, mask = json.loads(visit.save("json")), visit.mask()
    assert mask.shape == (record["height"], record["width"]) == (480, 640)
    assert mask.any()
    page.click("#camera")
    page.wait_for_selector("body[data-state=photo]")
    still = frames()
    page.wait_for_timeout(500)
    assert frames() == still
    visit.close()


@built
@pytest.mark.parametrize(
    ("script", "button", "words"),
    [
        ("delete Object.getPrototypeOf(navigator).mediaDevices", "#camera", "gives no camera"),
        ("navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', "
         "'NotAllowedError'))", "#camera", "not allowed"),
        ("navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', "
         "'NotFoundError'))", "#camera", "No camera was found"),
        ("delete globalThis.WebAssembly", "#drawn", "no WebAssembly"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(
    chromium: Any, url: str, script: str, button: str, words: str
) -> None:
    visit = Visit(chromium, url)
    visit.page.add_init_script(script)
    visit.page.reload()
    visit.page.click(button)
    visit.page.wait_for_selector("#notice:not([hidden])")
    assert words in visit.text("#notice")
    assert visit.page.is_visible("#invitation")
    visit.close()


@built
def test_nothing_large_is_loaded_before_it_is_asked_for(chromium: Any, url: str) -> None:
    visit = Visit(chromium, url)
    visit.page.wait_for_selector("#drawn >> text=MB once")
    visit.page.wait_for_timeout(500)
    assert not [r for r in visit.requests if r.endswith((".wasm", ".onnx", ".jpg"))]
    visit.close()


class _Plain(SimpleHTTPRequestHandler):
    """A static host: no headers of its own."""

    def log_message(self, *_: object) -> None:
        pass


@built
def test_a_static_host_serves_it_and_then_it_works_offline(chromium: Any, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "where").symlink_to(server.DIST)
    host = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Plain, directory=str(tmp_path)))
    threading.Thread(target=host.serve_forever, daemon=True).start()
    visit = Visit(chromium, f"http://127.0.0.1:{host.server_port}/some/where/")
    page = visit.page
    page.click("#drawn")
    page.wait_for_selector("body[data-state=photo]")
    page.reload()  # the service worker brings isolation
    assert page.evaluate("() => crossOriginIsolated")
    host.shutdown()
    host.server_close()
    page.reload()
    page.click("#drawn")
    page.wait_for_selector("body[data-state=photo]")
    assert visit.text("#status") == "2 eyes in 1 face."
    visit.close()


# A driver that returns zeros in silence.
SILENT = """if (globalThis.GPUBuffer) {
  const range = GPUBuffer.prototype.getMappedRange;
  GPUBuffer.prototype.getMappedRange = function (...where) {
    const found = range.apply(this, where);
    return this.usage & GPUBufferUsage.MAP_READ ? new ArrayBuffer(found.byteLength) : found;
  };
}
"""


@built
@pytest.mark.slow
@pytest.mark.parametrize(
    ("driver", "engine"),
    [("", "WebGPU. "), (SILENT, "WebGPU answered otherwise than WebAssembly")],
    ids=["sound", "silent"],
)
def test_webgpu_is_used_if_it_answers_as_webassembly_does(
    chromium: Any, url: str, bundled: Predictor, driver: str, engine: str
) -> None:
    """On SwiftShader, a processor's WebGPU, which the page would leave alone: it is slower."""
    flags = [flag for flag in FLAGS if flag != "--disable-gpu"]
    flags += [
        "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan",
        "--use-vulkan=swiftshader", "--ignore-gpu-blocklist",
    ]  # fmt: skip
    browser = chromium.browser_type.launch(executable_path=CHROMIUM, args=flags)
    context = browser.new_context(service_workers="block")
    context.set_default_timeout(2 * PATIENCE)

    def taken_for_a_real_one(route: Any) -> None:
        answer = route.fetch()
        script = driver + answer.text().replace("isFallbackAdapter", "isNone")
        route.fulfill(response=answer, body=script)

    context.route("**/*.js", taken_for_a_real_one)
    page = context.new_page()
    page.goto(url)
    if not page.evaluate("async () => !!(await navigator.gpu?.requestAdapter())"):
        browser.close()
        pytest.skip("this Chromium has no WebGPU, not even a processor's")
    data = jpeg(drawn(17, 320))
    page.evaluate(DROP, ["face.jpg", "image/jpeg", base64.b64encode(data).decode()])
    page.wait_for_selector("body[data-state=photo]")
    assert engine in page.text_content("#engine")
    with page.expect_download() as download:
        page.click("[data-save=mask]")
    with Image.open(download.value.path()) as picture:
        assert iou(np.asarray(picture.convert("L")) > 0, bundled.predict(data).mask) >= 0.98
    browser.close()


BLINKS = """
import { Openness } from "./blinks.ts";
const count = (from, to, level) => {
  const openness = new Openness();
  for (let n = 0; n < 300; n++) {
    const time = n / 30, closed = time % 3 > from && time % 3 < to;
    const size = closed ? level : 0.08 + 0.01 * Math.sin(n);
    const lids = { open: 0.4, size };
    openness.add({ time, right: lids, left: lids });
  }
  return [openness.count, openness.moments.filter(({ left }) => left.open === 0).length];
};
// Three blinks of 0.2 s; eyes that narrow; eyes closed for a second; open all the time.
console.log(JSON.stringify([
  count(1, 1.2, 0.005), count(1, 1.2, 0.05), count(1, 2, 0), count(9, 9, 0)]));
"""


@built
def test_blinks_are_counted(tmp_path: Path) -> None:
    page = server.DIST.parent
    bundler = page / "node_modules" / ".bin" / "esbuild"
    if not (bundler.exists() and shutil.which("node")):
        pytest.skip("no Node.js, or esbuild is not installed (`make page`)")
    bundle = [bundler, "--bundle", "--format=esm", f"--outfile={tmp_path / 'blinks.mjs'}"]
    subprocess.run([*bundle, "--log-level=error"], input=BLINKS, text=True, check=True,
                   cwd=page / "src")  # fmt: skip
    done = subprocess.run(["node", tmp_path / "blinks.mjs"], capture_output=True, text=True)
    (three, shut), (narrow, never), (long, _), (none, _) = json.loads(done.stdout)
    assert (three, narrow, long, none) == (3, 0, 0, 0)
    assert shut == pytest.approx(3 * 0.2 * 30, abs=4)  # a sliver counts as shut
    assert never == 0


@built
def test_the_table_is_pythons() -> None:
    (table,) = server.DIST.glob("*/constants.json")
    assert json.loads(table.read_text()) == json.loads(json.dumps(page_data.constants()))
