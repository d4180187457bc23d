"""The live page and photos: the same masks as Python's, and nothing that leaves the machine."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser import Visit, built, drawn, jpeg
from common import encoded, iou
from PIL import Image

from infer import Predictor, server
from infer.predictor import NO_FACE


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
def test_tiny_eyes_are_enlarged_softly(visit: Visit, bundled: Predictor) -> None:
    """Enlarged sharply, the mask of this face agrees to 0.86."""
    picture = np.full((180, 240, 3), 180, np.uint8)
    picture[40:140, 70:170] = cv2.resize(drawn(1), (100, 100), interpolation=cv2.INTER_AREA)
    data = encoded(Image.fromarray(picture))
    visit.drop("far.png", data, "image/png")
    assert iou(visit.mask(), bundled.predict(data).mask) >= 0.95


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
    axe = server.DIST.parent / "node_modules" / "axe-core" / "axe.min.js"
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
