"""Any kind of photograph gets a mask of its own size and orientation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from common import iou, read_mask
from PIL import Image

from infer import Predictor
from infer.output import View
from infer.photos import plan
from infer.run import Result, run


def encoded_variants() -> dict[str, tuple[str, dict[str, object], str]]:
    """Name -> (mode, save options, ending)."""
    return {
        "grey": ("L", {}, "png"),
        "cmyk": ("CMYK", {"quality": 95}, "jpg"),
        "alpha": ("RGBA", {}, "png"),
        "palette": ("P", {}, "png"),
        "bilevel": ("1", {}, "png"),
        "webp": ("RGB", {"quality": 90}, "webp"),
        "sixteen": ("I;16", {}, "png"),
        "bmp": ("RGB", {}, "bmp"),
        "tiff": ("RGB", {}, "tif"),
    }


@pytest.mark.parametrize("name", encoded_variants())
def test_every_kind_of_file_gets_a_mask_of_its_size(
    predictor: Predictor, photo: Path, tmp_path: Path, name: str
) -> None:
    mode, options, ending = encoded_variants()[name]
    with Image.open(photo) as opened:
        picture = opened.convert("RGB").resize((300, 210))
    path = tmp_path / f"photo.{ending}"
    if mode == "I;16":
        wide = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        Image.fromarray(wide).save(path)
    else:
        picture.convert(mode).save(path, **options)  # type: ignore[arg-type]
    job = plan([path], tmp_path / "mask.png", [View.MASK])
    (outcome,) = run(predictor, job)
    assert isinstance(outcome, Result)
    assert read_mask(tmp_path / "mask.png").shape == (210, 300)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask_is_upright_whatever_the_camera_wrote(
    predictor: Predictor, photo: Path, tmp_path: Path, orientation: int
) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    with Image.open(photo) as opened:
        upright = opened.convert("RGB").crop((0, 16, 256, 240))
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    masks = []
    for name, picture, value in (("phone", stored, orientation), ("plain", upright, 1)):
        exif = Image.Exif()
        exif[0x0112] = value
        path = tmp_path / f"{name}.jpg"
        picture.save(path, quality=98, subsampling=0, exif=exif)
        list(run(predictor, plan([path], tmp_path / "mask.png", [View.MASK]), "whole"))
        masks.append(read_mask(tmp_path / "mask.png"))
    assert masks[0].shape == (224, 256)
    assert iou(*masks) > 0.9
    assert 50 < masks[0].sum() < 10_000


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2)])
def test_tiny_and_narrow_pictures_go_through(
    predictor: Predictor, tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "small.png"
    Image.new("RGB", size, "grey").save(path)
    for view in View:
        for faces in ("auto", "whole"):
            (outcome,) = run(predictor, plan([path], tmp_path / "result.png", [view]), faces)
            assert isinstance(outcome, Result)
    plan([path], tmp_path / "result.png")
    list(run(predictor, plan([path], tmp_path / "result.png", [View.MASK])))
    assert read_mask(tmp_path / "result.png").shape == size[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("view", ["--mask-only", "--overlay"])
def test_several_pictures_of_fifty_megapixels_stay_under_two_gigabytes(
    face_model: Path, tmp_path: Path, view: str
) -> None:
    folder, results = tmp_path / "photos", tmp_path / "results"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((6144, 8192))
    for name in ("a", "b", "c"):
        large.save(folder / f"{name}.jpg", quality=90)
    code = (
        "import resource, sys; from infer.cli import main;"
        "main(sys.argv[1:], standalone_mode=False);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    args = ["--image", str(folder), "--model", str(face_model), "--output", str(results), view]
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 2_000_000, "kilobytes"
    with Image.open(results / "a_eyes.png") as result:
        assert result.size == ((6144, 8192) if view == "--mask-only" else (2 * 1536, 2048))
