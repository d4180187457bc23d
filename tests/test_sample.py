"""The procedural sample: official layout, exact masks, same bytes every time."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from preprocess.errors import InputError
from preprocess.sample import SampleConfig, _orig_idx, draw_face, write_sample

SMALL = SampleConfig(count=12, size=256, mask_size=128)


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    report = write_sample(out, SMALL, workers=1)
    assert (report.count, report.written) == (12, 12)
    return out


def test_layout_sizes_and_modes(sample: Path) -> None:
    for i in range(SMALL.count):
        jpeg = (sample / "CelebA-HQ-img" / f"{i}.jpg").read_bytes()
        height, width, colour, subsampling = simplejpeg.decode_jpeg_header(jpeg)
        assert (height, width, subsampling) == (256, 256, "420")
        assert colour == "YCbCr"
        parts = draw_face(i, SMALL).parts
        for part in ("l_eye", "r_eye", "eye_g", "skin"):
            path = sample / "CelebAMask-HQ-mask-anno" / "0" / f"{i:05d}_{part}.png"
            assert path.exists() == (part in parts)
            if part in parts:
                mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
                assert mask is not None
                assert mask.shape == (128, 128, 3)
                np.testing.assert_array_equal(mask, np.repeat(parts[part][..., None], 3, 2) * 255)
    assert not list(sample.rglob("*.tmp"))


def test_mapping_follows_the_official_rule(sample: Path) -> None:
    lines = (sample / "CelebA-HQ-to-CelebA-mapping.txt").read_text().splitlines()
    assert lines[0].split() == ["idx", "orig_idx", "orig_file"]
    rows = [line.split() for line in lines[1:]]
    assert [int(row[0]) for row in rows] == list(range(12))
    assert all(int(row[2].removesuffix(".jpg")) == int(row[1]) + 1 for row in rows)
    assert write_sample(sample, SMALL).splits == {"train": 10, "val": 1, "test": 1}


def test_every_tenth_face_validates_and_tests() -> None:
    originals = np.array([_orig_idx(i) for i in range(1000)])
    assert len(set(originals.tolist())) == 1000
    assert (originals < 162_770).sum() == 800
    assert ((originals >= 162_770) & (originals < 182_637)).sum() == 100


def test_bytes_do_not_depend_on_workers(sample: Path, tmp_path: Path) -> None:
    write_sample(tmp_path, SMALL, workers=2)
    assert contents(tmp_path) == contents(sample)


def test_complete_sample_is_left_alone(sample: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in sample.rglob("*")}
    report = write_sample(sample, SMALL, workers=1)
    assert report.written == 0
    assert {p: p.stat().st_mtime_ns for p in sample.rglob("*")} == before


def test_interrupted_run_continues(sample: Path, tmp_path: Path) -> None:
    write_sample(tmp_path, SMALL, workers=1)
    for i in (3, 7):
        (tmp_path / "CelebA-HQ-img" / f"{i}.jpg").unlink()
    report = write_sample(tmp_path, SMALL, workers=1)
    assert report.written == 2
    assert contents(tmp_path) == contents(sample)


def test_other_settings_replace_the_sample(sample: Path, tmp_path: Path) -> None:
    write_sample(tmp_path, SampleConfig(count=14, seed=5, size=128, mask_size=64), workers=1)
    assert write_sample(tmp_path, SMALL, workers=1).written == 12
    assert contents(tmp_path) == contents(sample)


def test_foreign_pictures_are_not_touched(tmp_path: Path) -> None:
    picture = tmp_path / "CelebA-HQ-img" / "0.jpg"
    picture.parent.mkdir()
    picture.write_bytes(b"genuine")
    with pytest.raises(InputError, match="no sample"):
        write_sample(tmp_path, SMALL, workers=1)
    assert picture.read_bytes() == b"genuine"


def test_faces_differ_by_index_and_seed() -> None:
    first = draw_face(0, SMALL).image
    assert (draw_face(0, SMALL).image == first).all()
    assert (draw_face(1, SMALL).image != first).any()
    assert (draw_face(0, SampleConfig(seed=1, size=256, mask_size=128)).image != first).any()


def test_masks_agree_with_pictures() -> None:
    both = hidden = contrasted = seen = 0
    for i in range(200):
        face = draw_face(i, SMALL)
        assert face.image.shape == (256, 256, 3)
        assert face.image.dtype == np.uint8
        eyes = [face.parts[p] for p in ("r_eye", "l_eye") if p in face.parts]
        assert all(m.shape == (128, 128) and m.dtype == bool and m.any() for m in eyes)
        if len(eyes) == 2:
            both += 1
            right, left = (np.argwhere(m).mean(0) / 128 for m in eyes)
            assert left[1] - right[1] > 0.15  # the subject's left eye is on the viewer's right
            assert 0.3 < (left + right)[0] / 2 < 0.65
        hidden += not eyes
        small = cv2.resize(face.image, (128, 128), interpolation=cv2.INTER_AREA).astype(float)
        for mask in eyes:
            grown = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
            around = grown & face.parts["skin"]
            if around.sum() > 30:
                seen += 1
                spread = small[mask].std(0).mean() - small[around].std(0).mean()
                apart = np.abs(small[mask].mean(0) - small[around].mean(0)).max()
                contrasted += bool(apart > 8 or spread > 4)
            assert not (mask & face.parts["skin"]).any()
    assert both > 160
    assert 1 <= hidden < 25
    assert contrasted > 0.9 * seen


@pytest.mark.parametrize(
    "setting", [{"count": 0}, {"seed": -1}, {"size": 32}, {"mask_size": 2048}, {"mask_size": 4}]
)
def test_settings_out_of_range(setting: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(setting))}: is .*Expected"):
        SampleConfig(**setting)


def test_other_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="index: is -1"):
        draw_face(-1, SMALL)
    with pytest.raises(InputError, match="workers: is 0"):
        write_sample(tmp_path, SMALL, workers=0)
