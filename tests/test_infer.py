"""Many photographs in one run, the pictures that come out, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from common import iou, read_mask
from PIL import Image

from infer import Predictor
from infer.cli import main
from infer.output import View, draw, save
from infer.photos import find_photos, plan
from infer.run import Failure, Result, run
from preprocess.errors import InputError
from preprocess.image import decode_fitted


def test_views_show_photo_mask_and_overlay_side_by_side() -> None:
    photo = np.random.default_rng(0).integers(0, 200, (40, 60, 3), dtype=np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 15:35] = True
    probability = np.where(mask, np.float32(0.9), np.float32(0.2))
    panel = draw(View.PANEL, photo, probability, 0.5)
    assert panel.shape == (40, 180, 3)
    assert np.array_equal(panel[:, :60], photo)
    assert np.array_equal(panel[:, 60:120, 1] > 0, mask)
    overlay = panel[:, 120:]
    assert (overlay[12:18, 18:32] != photo[12:18, 18:32]).any(axis=2).all()
    assert np.array_equal(overlay[30:, 45:], photo[30:, 45:])
    assert draw(View.OVERLAY, photo, probability, 0.5).shape == (40, 120, 3)
    assert np.array_equal(draw(View.MASK, None, probability, 0.5) > 0, mask)
    assert set(np.unique(draw(View.SOFT, None, probability, 0.5))) == {51, 230}
    cutout = draw(View.CUTOUT, photo, probability, 0.5)
    assert np.array_equal(cutout[..., :3], photo)
    assert np.array_equal(cutout[..., 3] == 255, mask)


@pytest.mark.parametrize("shape", [(1, 1), (40, 61), (2, 900)])
def test_masks_are_written_as_they_are_grey_and_of_eight_bits(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for picture in (levels, draw(View.MASK, None, levels / np.float32(255), 0.5)):
        save(picture, tmp_path / "mask.png")
        with Image.open(tmp_path / "mask.png") as written:
            assert written.mode == "L"
            assert np.array_equal(np.asarray(written), picture)


def test_photos_are_found_in_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", "c.webp"):
        (tmp_path / name).touch()
    names = ["a.PNG", "b.jpg", "c.webp"]
    assert [p.name for p in find_photos([str(tmp_path)])] == names
    assert [p.name for p in find_photos([str(tmp_path / "*.jpg")])] == ["b.jpg"]
    both = [str(tmp_path / "c.webp"), str(tmp_path)]
    assert [p.name for p in find_photos(both)] == ["c.webp", "a.PNG", "b.jpg"]
    for nothing in ("none.jpg", "*.gif"):
        with pytest.raises(InputError, match="does not exist"):
            find_photos([str(tmp_path / nothing)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no photograph"):
        find_photos([str(tmp_path / "empty")])


def test_results_have_predictable_names_of_their_own() -> None:
    photos = [Path("x/a.jpg"), Path("x/a.png"), Path("y/a.jpg"), Path("z/a.jpg"), Path("x/b.jpg")]
    names = [job.results[0] for job in plan(photos, Path("out"))]
    assert names[0] == Path("out/a_eyes.png")
    assert names[1] == Path("out/a_png_eyes.png")
    assert names[4] == Path("out/b_eyes.png")
    assert len(set(names)) == len(names)
    assert plan(photos[:1], None)[0].results == (Path("eye_segmentation_result.png"),)
    assert plan(photos[:1], Path("out"))[0].results == (Path("out/a_eyes.png"),)
    several = plan(photos[:2], Path("out"), [View.MASK, View.CUTOUT], json=True)
    assert several[1].results == (
        Path("out/a_png_eyes_mask.png"),
        Path("out/a_png_eyes_cutout.png"),
        Path("out/a_png_eyes.json"),
    )
    with pytest.raises(InputError, match="one file for 5 photographs"):
        plan(photos, Path("all.png"))


def test_nothing_is_replaced_without_being_told(tmp_path: Path) -> None:
    photos = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    (tmp_path / "b_eyes.png").touch()
    with pytest.raises(InputError, match=r"b_eyes\.png: exists already\. Add --overwrite"):
        plan(photos, tmp_path, overwrite=False)
    assert len(plan(photos, tmp_path, overwrite=True)) == 2


def test_a_result_never_replaces_a_photograph(tmp_path: Path) -> None:
    photo = tmp_path / "self.png"
    photo.touch()
    with pytest.raises(InputError, match="would be overwritten"):
        plan([photo], tmp_path / "x" / ".." / "self.png")
    again = [tmp_path / "a.jpg", tmp_path / "a_eyes.png"]
    with pytest.raises(InputError, match="would be overwritten"):
        plan(again, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="one file for 2"):
        plan(again, tmp_path / "file")


def test_a_result_that_cannot_be_written_is_reported(
    predictor: Predictor, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "a_eyes.png").mkdir()  # in the way
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(photo.read_bytes())
    jobs = plan([tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path, [View.MASK])
    failed, done = run(predictor, jobs, "whole")
    assert isinstance(failed, Failure)
    assert "a_eyes.png: cannot be written" in failed.problem
    assert isinstance(done, Result)
    assert done.eyes


def test_one_bad_file_does_not_stop_the_others(
    predictor: Predictor, faces: Path, tmp_path: Path
) -> None:
    photos = [faces / "CelebA-HQ-img" / f"{number}.jpg" for number in range(20)]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0].read_bytes()[:900])
    jobs = plan([*photos[:11], broken, *photos[11:]], tmp_path / "out", [View.MASK])
    outcomes = list(run(predictor, jobs, "whole"))
    assert [outcome.job for outcome in outcomes] == jobs
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert [failure.job.photo for failure in failures] == [broken]
    assert "broken.jpg" in failures[0].problem
    done = [outcome.job for outcome in outcomes if isinstance(outcome, Result)]
    assert sorted(job.photo for job in done) == sorted(photos)
    for job in done:  # batches must not mix photographs up
        square, geometry = decode_fitted(job.photo.read_bytes(), predictor.spec.size)
        (plane,) = predictor.probabilities([square])
        alone = geometry.restore(plane) >= predictor.threshold
        assert iou(read_mask(job.results[0]), alone) > 0.99


def invoke(*args: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_command_writes_the_panel_where_users_look(
    face_model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = invoke("--image", photo, "--model", face_model)
    assert code == 0
    assert "eye_segmentation_result.png" in out
    with Image.open("eye_segmentation_result.png") as panel:
        assert panel.size == (3 * 256, 256)
    assert invoke("--image", photo, "--model", face_model, "--overlay")[0] == 2, "it exists"
    again = ("--image", photo, "--model", face_model, "--overlay", "--overwrite")
    assert invoke(*again)[0] == 0
    with Image.open("eye_segmentation_result.png") as panel:
        assert panel.size == (2 * 256, 256)
    assert (
        invoke("--image", photo, "--model", face_model, "--mask-only", "--output", "m.png")[0] == 0
    )
    assert read_mask(Path("m.png")).shape == (256, 256)


def test_command_does_a_folder_and_reports_what_failed(
    face_model: Path, photo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(photo.read_bytes())
    (folder / "two.jpg").write_bytes(photo.read_bytes())
    (folder / "text.png").write_text("no picture")
    code, out, err = invoke("--image", folder, "--model", face_model, "--output", tmp_path / "out")
    assert code == 2
    assert "2 of 3 photos done" in out
    assert "text.png: cannot be decoded" in err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"one_eyes.png", "two_eyes.png"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--image", "none.jpg"], "none.jpg: does not exist"),
        ([], "--image: is not given"),
        (["--image", ""], "--image: is empty"),
        (["--image", "PHOTO", "--model", "none.pth"], "none.pth: does not exist"),
        (["--image", "PHOTO", "--overlay", "--mask-only"], "Choose one"),
        (["--image", "PHOTO", "--model", "MODEL", "--faces", "0"], "--faces: is '0'"),
        (["--image", "PHOTO", "--model", "MODEL", "--faces", "all"], "--faces: is 'all'"),
        (["--image", "PHOTO", "--model", "MODEL", "--output", "x.xyz"], "ends in '.xyz'"),
        (["--image", "PHOTO", "--model", "MODEL", "--mask-only", "--output", "m.jpg"], "'.jpg'"),
        (["--image", "PHOTO", "--model", "MODEL", "--device", "cuda:9"], "--device"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    face_model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    args: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    known = {"PHOTO": photo, "MODEL": face_model}
    code, _, err = invoke(*(known.get(arg, arg) for arg in args))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
