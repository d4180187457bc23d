"""The live page in Chromium: the same masks as Python's, and nothing that leaves the machine."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from common import encoded, iou
from PIL import Image

from infer import Predictor, page_data, server
from infer.predictor import NO_FACE
from preprocess.sample import SampleConfig, draw_face

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
PAGE = server.DIST.parent
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


@pytest.fixture(scope="module")
def visit(chromium: Any, url: str) -> Iterator[Visit]:
    """One page for all photos: the networks are loaded once."""
    visit = Visit(chromium, url, viewport={"width": 1320, "height": 900})
    yield visit
    visit.close()


@pytest.fixture(scope="module")
def bundled() -> Predictor:
    return Predictor.bundled()


@built
@pytest.mark.parametrize("number", [1, 3, 15, 17])
def test_a_drawn_face_gives_pythons_mask_and_figures(
    visit: Visit, bundled: Predictor, number: int
) -> None:
    data = jpeg(drawn(number, 640))
    visit.drop("a face.jpg", data)
    wanted = bundled.predict(data)
    assert wanted.mask.any()
    assert iou(visit.mask(), wanted.mask) >= 0.98
    record, expected = json.loads(visit.save("json")), wanted.to_dict("a face.jpg")
    assert {**record, "faces": []} == {**expected, "faces": []}
    for face, other in zip(record["faces"], expected["faces"], strict=True):
        assert face.keys() == other.keys()
        assert np.allclose(face["landmarks"], other["landmarks"], atol=1)
        for eye, twin in zip(face["eyes"], other["eyes"], strict=True):
            assert eye.keys() == twin.keys()
            assert eye["side"] == twin["side"]
            assert eye["openness"] == pytest.approx(twin["openness"], abs=0.02)
            assert np.allclose(eye["centre"], twin["centre"], atol=0.3)


@built
def test_faces_of_several_sizes_and_one_that_is_turned(visit: Visit, bundled: Predictor) -> None:
    picture, x = np.full((820, 1500, 3), 200, np.uint8), 20
    for number, size, roll in ((17, 240, 0), (19, 420, 0), (23, 760, 55)):
        matrix = cv2.getRotationMatrix2D((size / 2, size / 2), roll, 0.9 if roll else 1)
        face = cv2.warpAffine(drawn(number, size), matrix, (size, size), borderValue=(200,) * 3)
        picture[30 : 30 + size, x : x + size] = face
        x += size + 20
    data = jpeg(picture)
    visit.drop("party.jpg", data)
    assert iou(visit.mask(), bundled.predict(data).mask) >= 0.98
    assert visit.text("#status") == "6 eyes in 3 faces."
    assert visit.page.locator("#face-list li:visible").count() == 3


@built
def test_a_photo_turned_by_exif_is_upright(visit: Visit, bundled: Predictor) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(np.rot90(drawn(17)).copy(), exif=exif.tobytes())
    wanted = bundled.predict(data)
    assert len(wanted.eyes) == 2
    visit.drop("turned.jpg", data)
    assert iou(visit.mask(), wanted.mask) >= 0.98


@built
def test_a_cropped_face_is_seen_as_a_whole_and_transparency_is_white(
    visit: Visit, bundled: Predictor
) -> None:
    crop = np.dstack([drawn(17, 400)[130:330, 100:300], np.full((200, 200), 255, np.uint8)])
    crop[:20, :, 3] = 0
    data = encoded(Image.fromarray(crop))
    visit.drop("crop.png", data, "image/png")
    wanted = bundled.predict(data)
    assert len(wanted.eyes) == 2
    assert iou(visit.mask(), wanted.mask) >= 0.98


@built
def test_without_a_face_the_mask_is_empty_and_a_line_says_so(visit: Visit) -> None:
    visit.drop("wall.jpg", jpeg(np.full((300, 400, 3), 90, np.uint8)))
    assert visit.text("#notice").lower() == f"{NO_FACE}."
    assert not visit.mask().any()
    assert json.loads(visit.save("json"))["warning"] == NO_FACE


@built
def test_a_broken_file_is_named_and_the_next_one_works(visit: Visit) -> None:
    visit.drop("broken.jpg", jpeg(drawn(17))[:300])
    assert "cannot be read as a picture" in visit.text("#notice")
    visit.drop("face.jpg", jpeg(drawn(17)))
    assert visit.text("#status") == "2 eyes in 1 face."
    assert not visit.page.is_visible("#notice")


@built
def test_the_cut_out_holds_the_eyes_alone(visit: Visit, bundled: Predictor) -> None:
    data = encoded(Image.fromarray(drawn(17)))
    visit.drop("face.png", data, "image/png")
    with Image.open(io.BytesIO(visit.save("cutout"))) as picture:
        alpha = np.asarray(picture)[..., 3].astype(int)
    assert np.abs(alpha - bundled.predict(data).cutout()[..., 3]).max() <= 25  # of 255
    assert 0 < (alpha > 0).mean() < 0.05


@built
def test_every_effect_changes_the_picture(visit: Visit) -> None:
    visit.drop("face.jpg", jpeg(drawn(17)))
    seen = {visit.save("picture")}
    visit.page.uncheck("[name=outline]", force=True)
    seen.add(visit.save("picture"))
    for name in ("iris", "glow", "sparkle"):
        visit.page.check(f"[name={name}]", force=True)
        seen.add(visit.save("picture"))
        visit.page.uncheck(f"[name={name}]", force=True)
    for rest in ("blur", "grey", "gone", "none"):
        visit.page.check(f"[name=rest][value={rest}]", force=True)
        seen.add(visit.save("picture"))
    assert len(seen) == 8  # the last is the second again
    visit.page.check("[name=outline]", force=True)


@built
def test_the_policy_is_in_force_and_the_page_is_isolated(visit: Visit) -> None:
    html = (server.DIST / "index.html").read_text()
    assert f'content="{server.POLICY}"' in html  # for static hosts
    answer = visit.context.request.get(visit.page.url)
    assert server.POLICY in answer.headers["content-security-policy"]
    tried = """async () => {
      const refused = new Promise((done) => document.addEventListener(
        "securitypolicyviolation", (event) => done(event.effectiveDirective), { once: true }));
      const script = document.createElement("script");
      script.textContent = "document.body.dataset.broken = 1";
      document.body.append(script);
      const evaluated = new Promise((done) => setTimeout(() => {
        try { done(eval("1")); } catch (error) { done(error.name); }
      }));
      return [await refused, document.body.dataset.broken ?? "", await evaluated,
        crossOriginIsolated];
    }"""
    assert visit.page.evaluate(tried) == ["script-src-elem", "", "EvalError", True]
    visit.page.wait_for_timeout(200)
    visit.problems[:] = [p for p in visit.problems if "Content Security Policy" not in p]


@built
def test_the_page_by_keyboard_alone(chromium: Any, url: str, tmp_path: Path) -> None:
    file = tmp_path / "face.jpg"
    file.write_bytes(jpeg(drawn(17)))
    visit = Visit(chromium, url)
    page, choosers = visit.page, []
    page.on("filechooser", lambda chooser: choosers.append(chooser))

    def tab_to(selector: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus").count():
                return
        pytest.fail(f"Tab never comes to {selector}")

    tab_to("#file")
    for _ in range(50):  # the first may come before the browser hands its choosers to playwright
        page.keyboard.press("Enter")
        page.wait_for_timeout(1000)
        if choosers:
            break
    choosers[0].set_files(file)
    page.wait_for_selector("body[data-state=photo]")
    tab_to("[name=iris]")
    page.keyboard.press("Space")
    assert page.is_checked("[name=iris]")
    tab_to("[name=rest]")
    page.keyboard.press("ArrowRight")
    assert page.is_checked("[name=rest][value=blur]")
    tab_to("[data-save=json]")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "face_eyes.json"
    visit.close()


@built
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_and_no_serious_finding_of_axe(
    chromium: Any, url: str, scheme: str
) -> None:
    axe = PAGE / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not installed (`make page`)")
    small = {"width": 320, "height": 640}
    visit = Visit(chromium, url, viewport=small, color_scheme=scheme, has_touch=True)
    page = visit.page

    def check() -> None:
        page.evaluate(axe.read_text() + "; true")
        found = page.evaluate("() => axe.run()")
        assert found["passes"]
        assert [
            f["id"] for f in found["violations"] if f["impact"] in ("serious", "critical")
        ] == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= small["width"]

    check()
    page.tap("#drawn")
    page.wait_for_selector("body[data-state=photo]")
    check()
    box = page.locator("#picture").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= small["width"]
    button = page.locator("#camera").bounding_box()
    assert button["y"] + button["height"] <= small["height"]  # in reach without scrolling
    visit.close()


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
    bundler = PAGE / "node_modules" / ".bin" / "esbuild"
    if not (bundler.exists() and shutil.which("node")):
        pytest.skip("no Node.js, or esbuild is not installed (`make page`)")
    bundle = [bundler, "--bundle", "--format=esm", f"--outfile={tmp_path / 'blinks.mjs'}"]
    subprocess.run([*bundle, "--log-level=error"], input=BLINKS, text=True, check=True,
                   cwd=PAGE / "src")  # fmt: skip
    done = subprocess.run(["node", tmp_path / "blinks.mjs"], capture_output=True, text=True)
    (three, shut), (narrow, never), (long, _), (none, _) = json.loads(done.stdout)
    assert (three, narrow, long, none) == (3, 0, 0, 0)
    assert shut == pytest.approx(3 * 0.2 * 30, abs=4)  # a sliver counts as shut
    assert never == 0


@built
def test_the_table_is_pythons() -> None:
    (table,) = server.DIST.glob("*/constants.json")
    assert json.loads(table.read_text()) == json.loads(json.dumps(page_data.constants()))
