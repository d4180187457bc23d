"""The portable twin of the augmentation, against what each effect must do."""

from dataclasses import fields, replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from train.augment import Draw, augment, draw
from train.config import AugmentConfig, Effect, Window

SIZE = 64
OFF = AugmentConfig.off()


def only(**effects: Effect) -> AugmentConfig:
    return replace(OFF, **effects)


def picture() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 215, (8, 8, 3), dtype=np.uint8)
    image = np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[20:28, 10:24] = 255
    return image, mask


def eyes(count: int) -> npt.NDArray[np.float32]:
    return np.tile(np.array([[20.0, 24.0], [44.0, 24.0]], np.float32), (count, 1, 1))


def rows(numbers: Draw, count: int) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    image, mask = picture()
    return [augment(image.copy(), mask.copy(), numbers, row) for row in range(count)]


def test_equal_seeds_draw_equal_numbers() -> None:
    first, again, other = (draw(AugmentConfig(), SIZE, (0, 1, s), eyes(8)) for s in (2, 2, 3))
    for field in fields(Draw):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name))
    assert not np.array_equal(first.matrix, other.matrix)
    assert np.array_equal(first.rows(slice(2, 5)).matrix, first.matrix[2:5])


def test_off_changes_nothing() -> None:
    image, mask = picture()
    for new_image, new_mask in rows(draw(OFF, SIZE, (0,), eyes(4)), 4):
        assert np.array_equal(new_image, image)
        assert np.array_equal(new_mask, mask)


def test_flip_mirrors_image_and_mask_exactly() -> None:
    image, mask = picture()
    ((new_image, new_mask),) = rows(draw(only(flip=Effect(1, 1)), SIZE, (0,), eyes(1)), 1)
    assert np.array_equal(new_image, image[:, ::-1])
    assert np.array_equal(new_mask, mask[:, ::-1])


def test_flip_happens_as_often_as_asked() -> None:
    numbers = draw(only(flip=Effect(0.25, 1)), SIZE, (0,), eyes(4000))
    assert numbers.moved.mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("name", "strength"),
    [("larger", 0.4), ("smaller", 0.4), ("aspect", 0.5), ("rotation", 30.0), ("translation", 0.15)],
)
def test_geometry_moves_image_and_mask_together_without_black_seams(
    name: str, strength: float
) -> None:
    image = np.full((SIZE, SIZE, 3), 90, np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[24:40, 24:40] = 255
    image[24:40, 24:40] = 200
    numbers = draw(only(**{name: Effect(1, strength)}), SIZE, (1,), eyes(16))
    for row in range(16):
        new_image, new_mask = augment(image.copy(), mask.copy(), numbers, row)
        assert new_image.min() >= 89, "a seam that the picture does not have"
        on, bright = new_mask >= 128, new_image[..., 0] >= 145
        assert (on ^ bright).sum() <= 8, "only pixels cut in half by an edge may differ"
        assert on.any()


def test_scale_and_rotation_have_the_size_that_was_drawn() -> None:
    numbers = draw(only(larger=Effect(1, 0.5), smaller=Effect(1, 0.4)), SIZE, (0,), eyes(500))
    factors = 1 / np.sqrt(np.abs(np.linalg.det(numbers.matrix[:, :2, :2])))
    assert 0.6 - 1e-3 <= factors.min() < 0.62
    assert 1.45 < factors.max() <= 1.5 + 1e-3
    numbers = draw(only(aspect=Effect(1, 0.5)), SIZE, (0,), eyes(500))
    across, down = (1 / numbers.matrix[:, axis, axis] for axis in (0, 1))
    np.testing.assert_allclose(across * down, 1, rtol=1e-5)
    assert 1 / 1.5 - 1e-3 <= (across / down).min() < 0.7
    assert 1.45 < (across / down).max() <= 1.5 + 1e-3
    turned = draw(only(rotation=Effect(1, 20)), SIZE, (0,), eyes(500))
    degrees = np.rad2deg(np.arctan2(turned.matrix[:, 1, 0], turned.matrix[:, 0, 0]))
    assert 19 < np.abs(degrees).max() <= 20.001
    centre = np.array([SIZE / 2, SIZE / 2, 1])
    np.testing.assert_allclose((turned.matrix @ centre)[:, :2], SIZE / 2, atol=1e-3)


def test_light_stays_within_its_factors() -> None:
    numbers = draw(only(light=Effect(1, 0.3)), SIZE, (0,), eyes(300))
    for factor in (numbers.brightness, numbers.contrast):
        assert 0.7 <= factor.min() < 0.75
        assert 1.25 < factor.max() <= 1.3


def test_grey_takes_all_colour_and_keeps_the_brightness() -> None:
    image, _ = picture()
    ((grey, _),) = rows(draw(only(grey=Effect(1, 1)), SIZE, (0,), eyes(1)), 1)
    assert np.ptp(grey.astype(int), axis=2).max() <= 1
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - luma).max() <= 1.5


def test_colour_changes_hue_but_hardly_the_brightness() -> None:
    image, mask = picture()
    numbers = draw(only(colour=Effect(1, 0.5)), SIZE, (0,), eyes(8))
    for row in range(8):
        new, same_mask = augment(image.copy(), mask.copy(), numbers, row)
        assert np.abs(new.astype(int) - image).max() > 5
        inside = ((new > 0) & (new < 255)).all(axis=2)
        weights = np.array([0.299, 0.587, 0.114])
        assert np.abs((new @ weights - image @ weights)[inside]).max() < 4
        assert np.array_equal(same_mask, mask)


def test_blur_noise_and_jpeg_do_what_they_say() -> None:
    image, _ = picture()
    edges = np.abs(np.diff(image.astype(int), axis=1)).mean()
    for blurred, _ in rows(draw(only(blur=Effect(1, 4)), SIZE, (0,), eyes(4)), 4):
        assert np.abs(np.diff(blurred.astype(int), axis=1)).mean() < edges
    numbers = draw(only(noise=Effect(1, 20)), SIZE, (0,), eyes(6))
    for row, (noisy, _) in enumerate(rows(numbers, 6)):
        spread = (noisy.astype(int) - image).std()
        assert spread == pytest.approx(float(numbers.noise[row]), rel=0.15, abs=0.4)
    numbers = draw(only(jpeg=Effect(1, 95)), SIZE, (0,), eyes(6))
    assert numbers.quality.min() >= 5
    for recompressed, _ in rows(numbers, 6):
        assert 0 < np.abs(recompressed.astype(int) - image).mean() < 25


def test_cover_hides_eyes_from_image_and_mask() -> None:
    image, mask = picture()
    numbers = draw(only(hide=Effect(1, 0.6)), SIZE, (0,), eyes(200))
    touched = 0
    for row in range(200):
        new, new_mask = augment(image, mask, numbers, row)
        (top, left), (high, wide) = (v[row].astype(int) for v in (numbers.anchor, numbers.extent))
        box = slice(top, top + high), slice(left, left + wide)
        assert (new[box] == np.rint(numbers.cover[row])).all()
        assert not new_mask[box].any()
        outside = np.ones(mask.shape, bool)
        outside[box] = False
        assert np.array_equal(new[outside], image[outside])
        assert np.array_equal(new_mask[outside], mask[outside])
        touched += new_mask.sum() < mask.sum()
    assert touched > 60
    shares = draw(only(hide=Effect(0.25, 0.6)), SIZE, (0,), eyes(4000)).hidden.mean()
    assert shares == pytest.approx(0.25, abs=0.03)


def test_covers_leave_slivers_whole_eyes_and_nothing() -> None:
    size, count = 256, 2000
    mask = np.zeros((size, size), np.uint8)
    mask[92:101, 80:104] = mask[92:101, 152:176] = 255
    places = np.tile(np.array([[92.0, 96.5], [164.0, 96.5]], np.float32), (count, 1, 1))
    numbers = draw(only(hide=Effect(1, 0.3)), size, (0,), places)
    left = np.empty((count, 2))
    for row in range(count):
        (top, side), (high, wide) = (v[row].astype(int) for v in (numbers.anchor, numbers.extent))
        assert 0 <= top <= top + high <= size
        assert 0 <= side <= side + wide <= size
        shown = mask.copy()
        shown[top : top + high, side : side + wide] = 0
        left[row] = shown[:, :128].mean(), shown[:, 128:].mean()
    left /= mask[:, :128].mean()
    least, most = left.min(axis=1), left.max(axis=1)
    assert np.mean((least > 0.05) & (least < 0.5)) > 0.2  # slivers
    assert np.mean((least == 0) & (most == 1)) > 0.05  # one eye
    assert np.mean(most == 0) > 0.03  # both
    assert np.mean(least == 1) > 0.05  # none
    assert np.abs(left[:, 0].mean() - left[:, 1].mean()) < 0.05


def test_crops_lie_around_the_eyes_and_keep_image_and_mask_together() -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[22:27, 16:25] = mask[22:27, 40:49] = 255
    image = np.where(mask > 0, 200, 90).astype(np.uint8)[..., None].repeat(3, axis=2)
    window = Window(32, 48, 0.25)
    numbers = draw(only(rotation=Effect(1, 20)), SIZE, (1,), eyes(400), window)
    seen = 0
    for row in range(400):
        part, eye = augment(image, mask, numbers, row, window)
        assert part.shape == (32, 48, 3)
        assert eye.shape == (32, 48)
        assert ((eye >= 128) ^ (part[..., 0] >= 145)).sum() <= 8
        seen += (eye >= 128).sum() > 10
    assert 0.75 * 400 < seen < 0.98 * 400
    background = Window(32, 48, 1.0)
    centres = draw(only(), SIZE, (1,), eyes(400), background).matrix @ np.array([24, 16, 1])
    assert centres[:, 0].std() > SIZE / 5
    assert centres[:, 1].std() > SIZE / 5


def test_warps_read_only_what_they_show() -> None:
    """Warping a part of a picture gives what warping all of it gives, also beyond its border."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = rng.integers(0, 256, (SIZE, SIZE), np.uint8)
    strong = replace(
        only(flip=Effect(0.5, 1), larger=Effect(1, 2), smaller=Effect(1, 0.8)),
        rotation=Effect(1, 180), aspect=Effect(1, 1), translation=Effect(1, 0.9),
    )  # fmt: skip
    for window in (None, Window(24, 40, 0.5)):
        numbers = draw(strong, SIZE, (3,), eyes(100), window)
        height, width = (window.height, window.width) if window else (SIZE, SIZE)
        for row in range(100):
            affine = numbers.matrix[row][:2].astype(np.float64)
            affine[:, 2] += affine[:, :2] @ (0.5, 0.5) - 0.5
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            whole = [
                cv2.warpAffine(plane, affine, (width, height), flags=flags,
                               borderMode=cv2.BORDER_REPLICATE).astype(int)
                for plane in (image, mask)
            ]  # fmt: skip
            for plane, expected in zip(augment(image, mask, numbers, row, window), whole,
                                       strict=True):  # fmt: skip
                assert np.abs(plane - expected).max() <= 2
