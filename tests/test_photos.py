"""Which photographs are meant, and what the files of their results are called."""

from pathlib import Path

import pytest

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
    for nothing in ("none.jpg", "*.gif"):
        with pytest.raises(InputError, match="does not exist"):
            names(nothing)
    with pytest.raises(InputError, match="holds no photograph"):
        names("empty")


def test_results_have_predictable_names_of_their_own() -> None:
    photos = [Path("x/a.jpg"), Path("x/a.png"), Path("y/a.jpg"), Path("z/a.jpg"), Path("x/b.jpg")]
    names = [job.results[0] for job in plan(photos, Path("out"))]
    assert names[:2] == [Path("out/a_eyes.png"), Path("out/a_png_eyes.png")]
    assert names[4] == Path("out/b_eyes.png")
    assert len(set(names)) == len(names)
    assert plan(photos[:1], None)[0].results == (Path("eye_segmentation_result.png"),)
    assert plan(photos[:1], Path("out"))[0].results == (Path("out/a_eyes.png"),)
    several = plan(photos[:2], Path("out"), [View.MASK, View.CUTOUT], json=True)
    stem = "out/a_png_eyes"
    assert several[1].results == tuple(
        Path(f"{stem}{ending}") for ending in ("_mask.png", "_cutout.png", ".json")
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
    with pytest.raises(InputError, match="one file for 2"):
        plan(again, photo)
