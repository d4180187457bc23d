"""Photographs of every kind to RGB squares, and the geometry that leads back."""

import random
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from common import Patch, encoded
from PIL import Image

from preprocess.errors import DecodeError
from preprocess.image import RGB, decode_fitted, decode_rgb, fit

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

# CIPA DC-008, 4.6.4: which visual sides the stored 0th row and 0th column are.
ORIENTATIONS = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip

JPEG: dict[str, object] = {"quality": 95, "subsampling": 0}


def oriented(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def scene(height: int = 40, width: int = 64) -> RGB:
    """Return a smooth picture without any symmetry."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    red, green, blue = 250 * y, 250 * x, 125 * (1 + np.sin(4 * x + 7 * y * y))
    return np.stack([red, green, blue], -1).astype(np.uint8)


def stored(upright: RGB, row: str, column: str) -> RGB:
    """Arrange an upright picture so that its 0th row and column are these visual sides."""
    turned = upright.swapaxes(0, 1) if row in {"left", "right"} else upright
    turned = turned[::-1] if row in {"bottom", "right"} else turned
    return np.ascontiguousarray(turned[:, ::-1] if column in {"bottom", "right"} else turned)


def decibels(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    error = np.square(one.astype(float) - other).mean()
    return float(10 * np.log10(255**2 / max(1e-9, error)))


def apart(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> int:
    return int(np.abs(one.astype(np.int16) - other).max())


@pytest.mark.parametrize(("height", "width"), [(96, 96), (120, 80), (70, 151), (40, 30), (64, 64)])
def test_restore_undoes_fit(height: int, width: int) -> None:
    picture = scene(height, width)
    square, place = fit(picture, 64)
    back = place.restore(square[..., 0].astype(np.float32))
    assert (back.shape, back.dtype) == ((height, width), np.float32)
    assert np.abs(back - picture[..., 0]).max() < 6  # of 255; half a pixel off would be more


def test_a_picture_that_fits_is_not_touched_and_a_short_side_is_filled_with_the_border() -> None:
    whole = scene(64, 64)
    np.testing.assert_array_equal(fit(whole, 64)[0], whole)
    np.testing.assert_array_equal(decode_fitted(encoded(Image.fromarray(whole)), 64)[0], whole)
    square, place = fit(scene(40, 64), 64)
    assert (place.top, place.height, place.left) == (12, 40, 0)
    np.testing.assert_array_equal(square, np.pad(scene(40, 64), ((12, 12), (0, 0), (0, 0)), "edge"))


def test_shrinking_counts_every_source_pixel_once() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    means = picture.reshape(24, 4, 24, 4, 3).mean((1, 3))
    assert np.abs(fit(picture, 24)[0] - means).max() <= 0.51


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [("RGB", "PNG", {}), ("RGB", "JPEG", JPEG), ("CMYK", "JPEG", JPEG),
     ("RGB", "WEBP", {"lossless": True})],
)  # fmt: skip
@pytest.mark.parametrize("number", list(ORIENTATIONS))
def test_every_orientation_is_applied(
    number: int, mode: str, kind: str, options: dict[str, object]
) -> None:
    upright = scene()
    picture = Image.fromarray(stored(upright, *ORIENTATIONS[number])).convert(mode)
    data = encoded(picture, kind, exif=oriented(number), **options)
    assert apart(decode_rgb(data), upright) <= 16  # a wrong turn is off by 100 and more
    square, place = decode_fitted(data, 32)
    assert (place.source_height, place.source_width) == (40, 64)
    assert (place.height, place.width) == (20, 32)
    assert decibels(square, fit(upright, 32)[0]) > 36


def test_pictures_beyond_pillows_limit(monkeypatch: Patch) -> None:
    upright = scene()
    picture = Image.fromarray(stored(upright, *ORIENTATIONS[6]))
    jpeg = encoded(picture, "JPEG", exif=oriented(6), **JPEG)
    png = encoded(Image.fromarray(upright))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # Pillow warns: not shown
    np.testing.assert_array_equal(decode_rgb(png), upright)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert apart(decode_rgb(jpeg), upright) <= 16
    with pytest.raises(DecodeError, match=r"huge\.png: .*exceeds limit"):
        decode_rgb(png, "huge.png")


def halves(mode: str, left: object, right: object, kind: str, **options: object) -> bytes:
    """Encode a 16 x 16 picture of two colours side by side."""
    picture = Image.new(mode, (16, 16), left)  # type: ignore[arg-type]
    picture.paste(right, (8, 0, 16, 16))  # type: ignore[arg-type]
    return encoded(picture, kind, **options)


def palette(kind: str, **options: object) -> bytes:
    picture = Image.new("P", (16, 16), 0)
    picture.putpalette([*RED, *BLUE])
    picture.paste(1, (8, 0, 16, 16))
    return encoded(picture, kind, **options)


def grey16() -> bytes:
    levels = np.full((16, 16), 0x8000, np.uint16)
    levels[:, 8:] = 0xFFFF
    return encoded(Image.fromarray(levels), "PNG")


CASES = {
    "grey JPEG": (halves("L", 0, 200, "JPEG", quality=100), BLACK, (200, 200, 200)),
    "grey PNG": (halves("L", 10, 200, "PNG"), (10, 10, 10), (200, 200, 200)),
    "grey with alpha": (halves("LA", (0, 255), (0, 0), "PNG"), BLACK, WHITE),
    "RGB JPEG": (halves("RGB", RED, BLUE, "JPEG", quality=100, subsampling=0), RED, BLUE),
    "CMYK JPEG": (halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0), "JPEG"), RED, BLUE),
    "RGBA PNG": (halves("RGBA", (*RED, 255), (*BLUE, 0), "PNG"), RED, WHITE),
    "half transparent": (halves("RGBA", (*RED, 255), (0, 0, 0, 128), "PNG"), RED, (127, 127, 127)),
    "palette PNG": (palette("PNG"), RED, BLUE),
    "palette, one index transparent": (palette("PNG", transparency=1), RED, WHITE),
    "palette, alpha bytes": (palette("PNG", transparency=b"\xff\x00"), RED, WHITE),
    "RGB, one colour transparent": (halves("RGB", RED, BLUE, "PNG", transparency=BLUE), RED, WHITE),
    "16-bit grey PNG": (grey16(), (128, 128, 128), WHITE),
    "1-bit PNG": (halves("1", 0, 1, "PNG"), BLACK, WHITE),
    "WebP": (halves("RGB", RED, BLUE, "WEBP", lossless=True), RED, BLUE),
    "WebP with alpha": (halves("RGBA", (*RED, 255), (*BLUE, 0), "WEBP", lossless=True), RED, WHITE),
    "GIF": (palette("GIF"), RED, BLUE),
    "BMP": (halves("RGB", RED, BLUE, "BMP"), RED, BLUE),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_every_mode_becomes_the_colours_that_a_viewer_shows(case: str) -> None:
    data, left, right = CASES[case]
    rgb = decode_rgb(data, case)
    assert (rgb.shape, rgb.dtype) == ((16, 16, 3), np.uint8)
    expected = np.empty_like(rgb)
    expected[:, :8], expected[:, 8:] = left, right
    assert apart(rgb, expected) <= (2 if "JPEG" in case else 1)
    np.testing.assert_array_equal(decode_fitted(data, 16)[0], rgb)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2000), (2000, 1), (3, 1000), (17, 900)])
def test_extreme_sizes(height: int, width: int, kind: str) -> None:
    picture = Image.new("RGB", (width, height), (180, 90, 40))
    square, place = decode_fitted(encoded(picture, kind), 32)
    assert square.shape == (32, 32, 3)
    assert square.flags.c_contiguous
    assert np.abs(square.astype(int) - (180, 90, 40)).max() <= 4
    assert place.restore(np.ones((32, 32), np.float32)).shape == (height, width)


def test_jpegs_read_as_pillow_reads_them_progressive_ones_too(faces: Path) -> None:
    path = faces / "CelebA-HQ-img" / "1.jpg"
    assert apart(decode_rgb(path.read_bytes()), np.array(Image.open(path))) <= 2
    picture = Image.open(faces / "CelebA-HQ-img" / "0.jpg")
    baseline, progressive = (encoded(picture, "JPEG", progressive=p) for p in (False, True))
    assert baseline != progressive
    np.testing.assert_array_equal(decode_rgb(baseline), decode_rgb(progressive))
    np.testing.assert_array_equal(decode_fitted(baseline, 64)[0], decode_fitted(progressive, 64)[0])


@pytest.mark.parametrize("size", [64, 60])
def test_fitted_decode_is_near_a_full_decode_with_lanczos(size: int, faces: Path) -> None:
    near = []
    for path in sorted((faces / "CelebA-HQ-img").glob("*.jpg"))[:8]:
        full, fitted = Image.open(path), decode_fitted(path.read_bytes(), size)[0]
        rules = (Image.Resampling.LANCZOS, Image.Resampling.BOX)
        near.append([decibels(fitted, np.array(full.resize((size, size), r))) for r in rules])
    assert (np.mean(near, axis=0) > (40, 43)).all()
    assert np.min(near) > 37


def test_patterns_finer_than_a_pixel_do_not_alias() -> None:
    board = np.indices((512, 512)).sum(0).astype(np.uint8) % 2 * 255
    for kind in ("PNG", "JPEG"):
        square = decode_fitted(encoded(Image.fromarray(board), kind), 64)[0]
        assert np.abs(square.astype(int) - 127).max() <= 1


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"no picture at all", b"\x89PNG\r\n\x1a\n", b"GIF89a"]
)
def test_what_is_no_picture_is_named(data: bytes) -> None:
    with pytest.raises(DecodeError, match=rf"^7\.jpg: cannot be decoded .*{len(data)} bytes"):
        decode_rgb(data, "7.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_truncated_file_is_an_error_not_a_grey_picture(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(DecodeError, match=r"^cut\.img"):
        decode_fitted(data[: int(len(data) * share)], 16, "cut.img")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "DDS", "TIFF"])
def test_damage_raises_a_decode_error_alone(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    options = {"exif": oriented(6)} if kind in {"JPEG", "PNG", "WEBP"} else {}
    data = encoded(Image.fromarray(cv2.resize(scene(), (32, 24))), kind, **options)
    chance, refused = random.Random(kind), 0
    for _ in range(120):
        broken = bytearray(data)
        for _ in range(chance.choice([1, 2, 6])):
            at = chance.randrange(chance.choice([min(300, len(data)), len(data)]))
            broken[at] ^= chance.randrange(1, 256)
        try:
            decode_fitted(bytes(broken), 16)
        except DecodeError:
            refused += 1
    assert refused > 5
    capfd.readouterr()  # libtiff talks
