"""The live page in Chromium: the same masks as Python's, and nothing that leaves the machine."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from click.testing import CliRunner
from common import encoded, fails, iou
from PIL import Image

from infer import Predictor, page_data, server
from infer.cli import main
from infer.predictor import NO_FACE
from preprocess.errors import InputError
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
PATIENCE = 90_000.0  # milliseconds; a busy machine loads slowly

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
def test_several_faces_of_several_sizes(visit: Visit, bundled: Predictor) -> None:
    picture, x = np.full((820, 1500, 3), 200, np.uint8), 20
    for number, size in ((17, 240), (19, 420), (21, 760)):
        picture[30 : 30 + size, x : x + size] = drawn(number, size)
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
def test_the_table_is_pythons(url: str) -> None:
    (table,) = server.DIST.glob("*/constants.json")
    assert json.loads(table.read_text()) == json.loads(json.dumps(page_data.constants()))


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
