"""Photographs of any kind in one run: the pictures that come out, and the command."""

import csv
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import common
import numpy as np
import pytest
from common import Patch, flat, iou, python, read_mask
from PIL import Image

from infer import Predictor
from infer.cli import main
from infer.eyes import Eye, Face
from infer.output import Prediction, View
from infer.photos import plan
from infer.run import run
from preprocess.image import decode_fitted

call = partial(common.call, main)


def test_views_show_photo_mask_and_overlay_side_by_side() -> None:
    photo = np.random.default_rng(0).integers(0, 200, (40, 60, 3), dtype=np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 15:35] = True
    probability = np.where(mask, np.float32(0.9), np.float32(0.2))
    prediction = Prediction(photo, (), probability, 0.5)
    panel = prediction.draw("panel")
    assert panel.shape == (40, 180, 3)
    assert np.array_equal(panel[:, :60], photo)
    assert np.array_equal(panel[:, 60:120, 1] > 0, mask)
    overlay = panel[:, 120:]
    assert (overlay[12:18, 18:32] != photo[12:18, 18:32]).any(axis=2).all()
    assert np.array_equal(overlay[30:, 45:], photo[30:, 45:])
    assert np.array_equal(prediction.overlay()[:, 60:], overlay)
    small = replace(prediction, photo=None)  # as decoded for a mask alone
    assert np.array_equal(small.draw("mask") > 0, mask)
    assert set(np.unique(small.draw("soft"))) == {51, 230}
    cutout = prediction.cutout()
    assert np.array_equal(cutout[mask][:, :3], photo[mask])
    assert np.array_equal(cutout[..., 3] == 255, mask)
    assert not cutout[~mask].any()


def test_small_faces_are_shown_enlarged_below_the_panel() -> None:
    photo = np.full((400, 600, 3), 120, np.uint8)
    probability = np.zeros((400, 600), np.float32)
    probability[100:106, 200:220] = probability[100:106, 240:260] = 0.9
    right = Eye("right", (200, 100, 20, 6), (210, 103), 120, (), 0.3, 0.9)
    left = Eye("left", (240, 100, 20, 6), (250, 103), 120, (), 0.3, 0.9)
    face = Face((190, 60, 80, 100), (), 0.9, (right, left))
    panel = Prediction(photo, (face,), probability, 0.5).draw("panel")
    assert panel.shape == (400 + 300, 1800, 3)
    close = panel[400:, :600]
    green = np.flatnonzero((close[..., 1].astype(int) - close[..., 0] > 30).any(axis=0))
    assert np.ptp(green) > 300, "the eyes are far apart there"
    part = np.s_[90:130, 180:280]
    assert Prediction(photo[part], (face,), probability[part], 0.5).draw("panel").shape[0] == 40


@pytest.mark.parametrize(
    ("orientation", "undo"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)]
)
def test_mask_is_upright_whatever_the_camera_wrote(
    predictor: Predictor, photo: Path, tmp_path: Path, orientation: int, undo: Image.Transpose
) -> None:
    upright = Image.open(photo).convert("RGB").crop((0, 16, 256, 240))
    masks, path = [], tmp_path / "photo.jpg"
    for picture, value in ((upright.transpose(undo), orientation), (upright, 1)):
        exif = Image.Exif()
        exif[0x0112] = value
        picture.save(path, quality=98, subsampling=0, exif=exif)
        list(run(predictor, plan(flat(path), tmp_path / "mask.png", [View.MASK]), "whole"))
        masks.append(read_mask(tmp_path / "mask.png"))
    assert masks[0].shape == (224, 256)
    assert iou(*masks) > 0.9
    assert 50 < masks[0].sum() < 10_000


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2)])
def test_tiny_pictures_go_through(
    predictor: Predictor, tmp_path: Path, size: tuple[int, int]
) -> None:
    Image.new("RGB", size, "grey").save(tmp_path / "small.png")
    (job,) = plan(flat(tmp_path / "small.png"), tmp_path / "result.png", list(View))
    for faces in ("auto", "whole"):
        (outcome,) = run(predictor, [job], faces)
        assert not outcome.problem
        assert read_mask(job.pictures[View.MASK]).shape == size[::-1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory")
def test_fifty_megapixels_stay_under_two_gigabytes(face_model: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.fromarray(noise).resize((6144, 8192)).save(tmp_path / name, quality=90)
    # Not getrusage: its largest size is the parent's, if that was larger when it forked.
    code = (
        "import sys; from infer.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    words = ("--image", tmp_path, "--model", face_model, "--output", tmp_path / "results")
    done = python("-c", code, *words, "--write", "mask", "--write", "overlay")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 2_000_000, "kilobytes"
    for view, size in (("mask", (6144, 8192)), ("overlay", (2 * 1152, 1536))):
        with Image.open(tmp_path / "results" / f"c_eyes_{view}.png") as result:
            assert result.size == size


def test_one_bad_file_does_not_stop_the_others(
    predictor: Predictor, faces: Path, tmp_path: Path
) -> None:
    photos = [faces / "CelebA-HQ-img" / f"{number}.jpg" for number in range(20)]
    broken, in_the_way = tmp_path / "broken.jpg", tmp_path / "out" / "19_eyes.png"
    broken.write_bytes(photos[0].read_bytes()[:900])
    in_the_way.mkdir(parents=True)
    jobs = plan(flat(*photos[:11], broken, *photos[11:]), tmp_path / "out", [View.MASK])
    outcomes = list(run(predictor, jobs, "whole"))
    assert [outcome.job for outcome in outcomes] == jobs
    unread, unwritten = [outcome for outcome in outcomes if outcome.problem]
    assert f"{broken}: cannot be decoded" in unread.problem
    assert f"{in_the_way}: cannot be written" in unwritten.problem
    seen = 0
    for job in jobs[:11] + jobs[12:-1]:
        square, geometry = decode_fitted(job.photo.read_bytes(), predictor.network.size)
        (plane,) = predictor.network(square[None])
        alone = geometry.restore(plane) >= predictor.network.threshold
        assert iou(read_mask(job.results[0]), alone) > 0.99
        seen += bool(alone.any())
    assert seen > 10


def test_command_writes_the_panel_where_users_look(
    face_model: Path, photo: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--image", photo, "--model", face_model)
    done = call(*words)
    assert done.exit_code == 0, done.stderr
    assert "eye_segmentation_result.png" in done.stdout
    with Image.open("eye_segmentation_result.png") as panel:
        assert panel.size == (3 * 256, 256)
    assert call(*words, "--overlay").exit_code == 0, "the program's own file is replaced"
    with Image.open("eye_segmentation_result.png") as panel:
        assert panel.size == (2 * 256, 256)
    assert call(*words, "--mask-only", "--output", "m.png").exit_code == 0
    common.fails(call(*words, "--output", "m.png"), "m.png: exists already")
    assert read_mask(Path("m.png")).shape == (256, 256)


def test_a_folder_is_done_and_failures_are_told(
    face_model: Path, photo: Path, tmp_path: Path
) -> None:
    for name, content in (("one.jpg", photo.read_bytes()), ("two.jpg", photo.read_bytes()),
                          ("text.png", b"no picture")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    words = ["--image", tmp_path, "--model", face_model, "--output", tmp_path / "out"]
    words += ["--faces", "whole", "--csv", tmp_path / "t.csv"]
    done = call(*words)
    assert done.exit_code == 2
    assert "out: 2 photos, 4 eye(s) in 2 face(s), 1 failed" in done.stdout
    assert "text.png: cannot be decoded" in done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"one_eyes.png", "two_eyes.png"}
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [(Path(row["photo"]).name, row["face"], row["side"]) for row in rows] == [
        (name, "1", side) for name in ("one.jpg", "two.jpg") for side in ("right", "left")
    ]
    assert all(float(row["width"]) > float(row["height"]) > 2 for row in rows)
    (tmp_path / "text.png").unlink()
    (tmp_path / "out" / "two_eyes.png").unlink()
    again = call(*words, "--skip-existing")
    assert "two_eyes.png" in again.stdout
    assert "1 photos had their results already" in again.stdout


def test_eyes_of_standard_input_one_by_one(face_model: Path, photo: Path, tmp_path: Path) -> None:
    words = ["--image", "-", "--model", face_model, "--faces", "whole", "--write", "eyes"]
    words += ["--output", tmp_path / "a.png"]
    done = python("-m", "infer", *words, input=photo.read_bytes(), text=False)
    assert done.returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a_1_left.png", "a_1_right.png"]
    for path in tmp_path.iterdir():
        with Image.open(path) as eye:
            assert eye.mode == "RGBA"
            assert np.asarray(eye)[..., 3].max() == 255


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "none.jpg"], "none.jpg: does not exist"),
        ([], "--image: is not given"),
        (["--image", ""], "--image: is empty"),
        (["PHOTO", "--model", "none.pth"], "none.pth: does not exist"),
        (["PHOTO", "--overlay", "--mask-only"], "Choose one"),
        (["PHOTO", "--model", "MODEL", "--faces", "0"], "--faces: is '0'"),
        (["PHOTO", "--model", "MODEL", "--faces", "all"], "--faces: is 'all'"),
        (["PHOTO", "--model", "MODEL", "--output", "x.xyz"], "ends in '.xyz'"),
        (["PHOTO", "--model", "MODEL", "--mask-only", "--output", "m.jpg"], "'.jpg'"),
        (["PHOTO", "--model", "MODEL", "--device", "cuda:9"], "--device"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    face_model: Path, photo: Path, tmp_path: Path, monkeypatch: Patch,
    words: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    known = {"PHOTO": photo, "MODEL": face_model}
    common.fails(call(*(known.get(word, word) for word in words)), message)
    assert list(tmp_path.iterdir()) == []
