"""Faces in any photograph: finding, measuring, records, and the choice what to look at."""

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from common import Patch, call, fails, iou

from infer import Predictor
from infer.cli import main
from infer.eyes import measure_eyes
from infer.faces import FaceFinder
from infer.frame import FaceFrame, PhotoFrame
from infer.predictor import NO_FACE
from preprocess.errors import InputError
from preprocess.image import Geometry, decode_rgb
from preprocess.sample import SampleConfig, draw_face

UPRIGHT = FaceFrame(np.array([[1.0, 0, 0], [0, 1.0, 0]]), 300, 200)
Array = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def portrait(genuine: Path) -> Array:
    path = sorted((genuine / "london-faces" / "images").iterdir())[3]
    return np.asarray(decode_rgb(path.read_bytes()), np.uint8)


@pytest.fixture(scope="module")
def bundled() -> Predictor:
    return Predictor.bundled()


def blobs(*ellipses: tuple[float, float, float, float, float]) -> npt.NDArray[np.float32]:
    """Probability with filled ellipses: x, y, half width, half height, degrees."""
    plane = np.zeros((200, 300), np.float32)
    for x, y, a, b, angle in ellipses:
        cv2.ellipse(plane, ((x - 0.5, y - 0.5), (2 * a, 2 * b), angle), 0.9, -1)
    return plane


def test_eyes_are_measured() -> None:
    plane = blobs((80, 100, 30, 12, 0), (210, 100, 28, 6, 0))
    frame = FaceFrame(np.array([[1.0, 0, -1000], [0, 1.0, -500]]), 300, 200)
    right, left = measure_eyes(plane, 0.5, (1000, 500), frame)
    assert (right.side, left.side) == ("right", "left")
    assert right.centre == pytest.approx((1080, 600), abs=0.6)
    assert right.area == pytest.approx(np.pi * 30 * 12, rel=0.07)
    assert right.box == pytest.approx((1050, 588, 60, 24), abs=2)
    assert right.openness == pytest.approx(12 / 30, rel=0.08)
    assert left.openness == pytest.approx(6 / 28, rel=0.12)
    assert right.probability == pytest.approx(0.9)
    outline = np.array(right.contour, np.float32)
    assert cv2.contourArea(outline) == pytest.approx(right.area, rel=0.1)


def test_neither_specks_nor_roll_change_an_eye_and_no_blob_is_none() -> None:
    plane = blobs((80, 100, 30, 12, 0), (80, 40, 2, 2, 0))
    (eye,) = measure_eyes(plane, 0.5, (0, 0), UPRIGHT)
    assert eye.box[1] > 80
    angle = np.deg2rad(40)
    turned = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0]])
    blob = blobs((150, 100, 40, 16, 40))
    (eye,) = measure_eyes(blob, 0.5, (0, 0), FaceFrame(turned, 300, 200))
    assert eye.openness == pytest.approx(0.4, rel=0.08)
    assert measure_eyes(plane * 0, 0.5, (0, 0), UPRIGHT) == ()


def test_what_is_left_of_a_closing_eye_is_not_taken_for_a_small_open_one() -> None:
    plane = blobs((80, 100, 8, 2, 0), (80, 40, 0.5, 0.5, 0), (210, 100, 9, 7, 0))
    before = plane.copy()
    assert before[:60, :150].any(), "a speck above it"
    (eye,) = measure_eyes(plane, 0.5, (0, 0), UPRIGHT)
    assert eye.side == "left"
    assert eye.openness == pytest.approx(14 / 36, abs=0.04), "36 of 300 pixels is a usual eye"
    assert not plane[:, :150].any(), "the right one is closed: nothing of it stays marked"
    assert np.array_equal(plane[:, 150:], before[:, 150:])
    unknown = PhotoFrame(Geometry.fit(200, 300, 300))
    right, _ = measure_eyes(before.copy(), 0.5, (0, 0), unknown)
    assert right.openness == pytest.approx(0.3, abs=0.1), "nothing is known of its face"
    small = FaceFrame(5 * UPRIGHT.matrix, 300, 200)  # its eyes are 7 pixels wide
    assert len(measure_eyes(blobs((20, 20, 3, 1, 0)), 0.5, (0, 0), small)) == 1


@pytest.mark.parametrize(("size", "roll"), [(60, 0), (140, 60), (300, -60), (700, 20)])
def test_a_face_is_found_and_segmented_wherever_it_is(
    bundled: Predictor, portrait: Array, size: int, roll: float
) -> None:
    side = portrait.shape[0]
    scale = size / (0.6 * side)
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), roll, scale)
    matrix[:, 2] += np.array([900, 600]) - side / 2
    small = cv2.GaussianBlur(portrait, (0, 0), max(0.01, 0.5 * np.sqrt(max(0, 1 / scale**2 - 1))))
    canvas = cv2.warpAffine(small, matrix, (1500, 1200), borderValue=(90, 110, 130))
    prediction = bundled.predict(np.asarray(canvas, np.uint8))
    (face,) = prediction.faces
    assert len(face.eyes) == 2
    alone = bundled.predict(portrait)
    wanted = cv2.warpAffine(alone.probability, matrix, (1500, 1200)) >= alone.threshold
    assert iou(wanted, prediction.mask) > (0.8 if size > 100 else 0.6)
    x, y, width, height = face.box
    for eye in face.eyes:
        assert x < eye.centre[0] < x + width
        assert y < eye.centre[1] < y + height
        assert 0.15 < eye.openness < 0.8
    right, left = face.eyes
    assert (right.side, left.side) == ("right", "left")


@pytest.mark.parametrize("roll", [-55, 55])
def test_the_landmarks_of_a_turned_face_are_those_of_the_upright_one(
    bundled: Predictor, roll: float
) -> None:
    errors = []
    for number in (0, 3, 9, 15, 17, 21):
        canvas = np.full((700, 900, 3), 120, np.uint8)
        canvas[200:500, 300:600] = draw_face(number, SampleConfig(size=300, mask_size=64)).image
        matrix = cv2.getRotationMatrix2D((450, 350), roll, 1.0)
        turned = cv2.warpAffine(canvas, matrix, (900, 700), borderMode=cv2.BORDER_REPLICATE)
        (upright,), (found,) = bundled.finder.find(canvas), bundled.finder.find(turned)
        wanted = upright.landmarks @ matrix[:, :2].T + matrix[:, 2]
        apart = np.hypot(*(wanted[1] - wanted[0]))
        errors.append(np.hypot(*(found.landmarks - wanted).T).mean() / apart)
    assert np.median(errors) < 0.09, "0.2 and more without a second look"


def test_n_takes_the_largest_faces(bundled: Predictor, portrait: Array) -> None:
    small = cv2.resize(portrait, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    canvas = np.full((800, 1400, 3), 128, np.uint8)
    canvas[:768, :768] = portrait
    canvas[200:584, 900:1284] = small
    both = bundled.predict(canvas)
    assert [len(face.eyes) for face in both.faces] == [2, 2]
    assert both.faces[0].box[2] > both.faces[1].box[2]
    assert len(both.eyes) == 4
    one = bundled.predict(canvas, 1)
    assert [face.box for face in one.faces] == [both.faces[0].box]
    assert len(one.eyes) == 2
    assert not one.mask[:, 900:].any()


def test_a_portrait_takes_one_small_look_and_a_group_more(
    bundled: Predictor, portrait: Array, monkeypatch: Patch
) -> None:
    looks: list[float] = []
    look = FaceFinder._look
    monkeypatch.setattr(
        FaceFinder, "_look", lambda self, rgb, scale: looks.append(scale) or look(self, rgb, scale)
    )
    assert len(bundled.finder.find(portrait)) == 1
    assert looks == [pytest.approx(192 / 768)]
    looks.clear()
    small = cv2.resize(portrait, (90, 90), interpolation=cv2.INTER_AREA)
    canvas = np.full((1000, 1600, 3), 128, np.uint8)
    canvas[100:868, 50:818] = portrait
    canvas[300:390, 1200:1290] = small
    assert len(bundled.finder.find(canvas)) == 2
    assert len(looks) > 1, "a small face was missed by the first"


def test_no_face_or_one_too_small_is_reported(bundled: Predictor, portrait: Array) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    nothing = bundled.predict(noise)
    assert (nothing.warning, nothing.faces) == (NO_FACE, ())
    assert nothing.mask.shape == (300, 400)
    canvas = np.full((240, 320, 3), 128, np.uint8)
    canvas[100:140, 100:140] = cv2.resize(portrait, (40, 40), interpolation=cv2.INTER_AREA)
    tiny = bundled.predict(canvas)
    (face,) = tiny.faces
    assert "too small: its eyes are" in face.problem
    assert face.eyes == ()
    assert nothing.mask.sum() == tiny.mask.sum() == 0


def test_record_is_plain_and_complete(bundled: Predictor, portrait: Array) -> None:
    prediction = bundled.predict(portrait)
    record = json.loads(json.dumps(prediction.to_dict("x.jpg")))
    assert record["schema"] == "eye-segmentation/1"
    assert (record["height"], record["width"]) == portrait.shape[:2]
    (face,) = record["faces"]
    assert len(face["landmarks"]) == 5
    assert {eye["side"] for eye in face["eyes"]} == {"left", "right"}
    documented = (Path(__file__).parents[1] / "docs" / "json.md").read_text()
    for name in [*record, *face, *face["eyes"][0]]:
        assert f"`{name}`" in documented or f".{name}`" in documented, name


def test_command_writes_pictures_and_json_of_several_photos(genuine: Path, tmp_path: Path) -> None:
    words = [genuine / "photos" / name for name in ("2008_002506.jpg", "dogs.jpg")]
    words += ["--output", tmp_path, "--json", "--write", "mask", "--write", "cutout"]
    done = call(main, *words)
    assert done.exit_code == 0, done.stderr
    assert "dogs.jpg: no face was found" in done.stderr
    people = json.loads((tmp_path / "2008_002506_eyes.json").read_bytes())
    assert len(people["faces"]) == 3
    assert sum(len(face["eyes"]) for face in people["faces"]) >= 5
    assert json.loads((tmp_path / "dogs_eyes.json").read_bytes())["faces"] == []
    assert len(list(tmp_path.iterdir())) == 6
    assert (tmp_path / "dogs_eyes_cutout.png").is_file()
    fails(call(main, *words), "exists already (and 5 other results)")


def test_finder_that_is_missing_is_named(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr("infer.faces.PATH", tmp_path / "centerface.onnx")
    with pytest.raises(InputError, match="centerface.onnx: does not exist"):
        FaceFinder().find(np.zeros((64, 64, 3), np.uint8))
