"""Which photographs are meant, and what the files of their results are called."""

from pathlib import Path

import pytest
from common import flat

from infer.output import View
from infer.photos import find_photos, plan
from preprocess.errors import InputError


def test_photos_are_found_in_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", "c.webp"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()

    def names(*inputs: str) -> list[str]:
        return [photo.name for photo in find_photos([str(tmp_path / given) for given in inputs])]

    assert names("") == ["a.PNG", "b.jpg", "c.webp"]
    assert names("*.jpg") == ["b.jpg"]
    assert names("c.webp", "") == ["c.webp", "a.PNG", "b.jpg"]
    for nothing, problem in {
        "none.jpg": "does not exist", "*.gif": "does not exist", "empty": "holds no photograph"
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=problem):
            names(nothing)


def test_folders_of_folders_keep_their_place(tmp_path: Path) -> None:
    for name in ("a.jpg", "in/a.jpg", "in/deep/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert len(find_photos([str(tmp_path)])) == 1
    photos = find_photos([str(tmp_path)], recursive=True)
    names = [job.results[0] for job in plan(photos, Path("out"))]
    assert names == [Path("out/a_eyes.png"), Path("out/in/a_eyes.png"),
                     Path("out/in/deep/b_eyes.png")]  # fmt: skip


def test_results_have_predictable_names_of_their_own() -> None:
    photos = [Path("x/a.jpg"), Path("x/A.png"), Path("y/a.jpg"), Path("x/b.jpg")]
    names = [job.results[0].name for job in plan(flat(*photos), Path("out"))]
    assert names == ["a_jpg_eyes.png", "A_png_eyes.png", "a_jpg_2_eyes.png", "b_eyes.png"]
    assert plan(flat(photos[0]), None)[0].results == [Path("eye_segmentation_result.png")]
    assert plan(flat(photos[0]), Path("out"))[0].results == [Path("out/a_eyes.png")]
    several = plan(flat(*photos[2:]), Path("out"), [View.MASK, View.CUTOUT], json=True)
    assert several[1].results == [
        Path(f"out/b_eyes{ending}") for ending in ("_mask.png", "_cutout.png", ".json")
    ]
    with pytest.raises(InputError, match="one file for 4 photographs"):
        plan(flat(*photos), Path("all.png"))


def test_nothing_is_replaced_without_being_told(tmp_path: Path) -> None:
    photos = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    (tmp_path / "b_eyes.png").touch()
    with pytest.raises(InputError, match=r"b_eyes\.png: exists already\. Add --overwrite"):
        plan(flat(*photos), tmp_path, overwrite=False)
    assert len(plan(flat(*photos), tmp_path, overwrite=True)) == 2
    left = plan(flat(*photos), tmp_path, overwrite=False, skip_existing=True)
    assert [job.photo for job in left] == photos[:1]


def test_a_result_never_replaces_a_photograph(tmp_path: Path) -> None:
    photo = tmp_path / "self.png"
    photo.touch()
    with pytest.raises(InputError, match="would be overwritten"):
        plan(flat(photo), tmp_path / "x" / ".." / "self.png")
    again = [tmp_path / "a.jpg", tmp_path / "a_eyes.png"]
    with pytest.raises(InputError, match="would be overwritten"):
        plan(flat(*again), tmp_path)
    with pytest.raises(InputError, match="one file for 2"):
        plan(flat(*again), photo)
