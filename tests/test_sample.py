"""Drawn faces: official layout, exact masks, the same bytes every time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import simplejpeg
from common import IMAGES, MASKS, Patch, files

from preprocess.celebamask import split_of_orig_idx
from preprocess.drawn import eye
from preprocess.drawn.look import Look
from preprocess.errors import InputError
from preprocess.sample import SampleConfig, _orig_idx, draw_face, write_sample

SMALL = SampleConfig(count=12, size=256, mask_size=128)


def contents(folder: Path) -> dict[str, bytes]:
    return files(folder, ".json", ".txt", ".jpg", ".png")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    assert write_sample(out, SMALL, workers=1) == 12
    return out


def test_layout_sizes_and_modes(sample: Path) -> None:
    expected = {"sample.json", "CelebA-HQ-to-CelebA-mapping.txt"}
    for i in range(SMALL.count):
        expected.add(f"{IMAGES}/{i}.jpg")
        jpeg = (sample / IMAGES / f"{i}.jpg").read_bytes()
        assert simplejpeg.decode_jpeg_header(jpeg) == (256, 256, "YCbCr", "420")
        face = draw_face(i, SMALL)
        assert np.abs(simplejpeg.decode_jpeg(jpeg).astype(int) - face.image).mean() < 12
        for part, mask in face.parts.items():
            name = f"{MASKS}/0/{i:05d}_{part}.png"
            expected.add(name)
            png = cv2.imread(str(sample / name), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(png, np.repeat(mask[..., None], 3, 2) * 255)
    assert contents(sample).keys() == expected


def test_mapping_follows_the_official_rule(sample: Path) -> None:
    head, *lines = (sample / "CelebA-HQ-to-CelebA-mapping.txt").read_text().splitlines()
    assert head.split() == ["idx", "orig_idx", "orig_file"]
    expected = [[str(i), str(_orig_idx(i)), f"{_orig_idx(i) + 1:06d}.jpg"] for i in range(12)]
    assert [line.split() for line in lines] == expected
    originals = [_orig_idx(i) for i in range(1000)]
    assert len(set(originals)) == 1000
    splits = [split_of_orig_idx(original) for original in originals]
    assert [splits.count(name) for name in ("train", "val", "test")] == [800, 100, 100]


def test_an_interrupted_run_continues(sample: Path, tmp_path: Path) -> None:
    """The files do not depend on the number of workers; a sample that is complete is left alone."""
    write_sample(tmp_path, SMALL, workers=2)
    for i in (3, 7):
        (tmp_path / IMAGES / f"{i}.jpg").unlink()
    assert write_sample(tmp_path, SMALL, workers=1) == 2
    assert contents(tmp_path) == contents(sample)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert write_sample(tmp_path, SMALL, workers=1) == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_other_settings_draw_anew(sample: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    other = SampleConfig(count=14, seed=5, size=128, mask_size=64)
    write_sample(tmp_path, other, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_sample(tmp_path, SMALL, workers=1)
    # nobody can tell which files a removal that was interrupted has left
    assert write_sample(tmp_path, other, workers=1) == 14
    assert write_sample(tmp_path, SMALL, workers=1) == 12
    assert contents(tmp_path) == contents(sample)


def test_foreign_pictures_are_not_touched(tmp_path: Path) -> None:
    picture = tmp_path / IMAGES / "0.jpg"
    picture.parent.mkdir()
    picture.write_bytes(b"genuine")
    with pytest.raises(InputError, match="no sample"):
        write_sample(tmp_path, SMALL, workers=1)
    assert contents(tmp_path) == {f"{IMAGES}/0.jpg": b"genuine"}


def test_faces_depend_on_index_and_seed_alone() -> None:
    first = draw_face(0, SMALL).image
    assert (draw_face(0, SampleConfig(count=5, size=256, mask_size=64)).image == first).all()
    assert (draw_face(1, SMALL).image != first).mean() > 0.5
    other = SampleConfig(seed=1, size=256, mask_size=128)
    assert (draw_face(0, other).image != first).mean() > 0.5


def test_masks_are_where_eyes_are_painted(monkeypatch: Patch) -> None:
    """Make the irises green: the pixels that change lie in the masks, and fill much of them."""
    config = SampleConfig(size=256, mask_size=256)
    faces = [draw_face(i, config) for i in range(40)]
    real = eye._iris_colour
    green = np.array((0, 255, 0))
    monkeypatch.setattr(eye, "_iris_colour", lambda *args: 0 * real(*args) + green)
    inside = changed = marked = 0
    for i, face in enumerate(faces):
        change = np.ptp(draw_face(i, config).image.astype(int) - face.image, axis=2) > 30
        eyes = [face.parts[name] for name in ("l_eye", "r_eye") if name in face.parts]
        mask = np.any([*eyes, np.zeros_like(change)], axis=0)
        inside += (change & mask).sum()
        changed += change.sum()
        marked += mask.sum()
    assert inside > 0.95 * changed
    assert inside > 0.25 * marked


def test_what_cannot_be_seen_has_no_mask() -> None:
    seen = Counter()
    for i in range(400):
        look = Look(np.random.default_rng((0, i)), 256)
        names = {n for n, o in zip(("r_eye", "l_eye"), look.openness, strict=True) if o}
        if look.glasses == "sun":
            names = set()
        elif look.covered:
            names = {"l_eye" if look.covered < 0 else "r_eye"}
        kind = (look.glasses, bool(look.covered), len(names))
        seen[kind] += 1
        if seen[kind] <= 2:
            parts = draw_face(i, SMALL).parts
            assert parts.keys() == names | ({"eye_g"} if look.glasses else set()), (i, kind)
            if len(names) == 2:  # the subject's left eye is on the viewer's right
                left, right = (np.argwhere(parts[n]).mean(0) for n in ("l_eye", "r_eye"))
                assert 20 < left[1] - right[1] < 45
    (usual, often), *_ = seen.most_common()
    assert usual[1:] == (False, 2), "both eyes, nothing in front of them"
    assert often > 280
    assert len(seen) >= 6


@pytest.mark.parametrize(
    "setting", [{"count": 0}, {"seed": -1}, {"size": 32}, {"mask_size": 2048}, {"mask_size": 4}]
)
def test_settings_out_of_range(setting: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(setting))}: is .*Expected"):
        SampleConfig(**setting)
    with pytest.raises(InputError, match="index: is -1"):
        draw_face(-1, SMALL)
