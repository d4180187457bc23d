"""The augmentation: each effect against what it must do to a picture; off, it does nothing."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from train.augment import augment, plain
from train.config import AugmentConfig, Crop, Effect
from train.draw import Draw, draw

SIZE = 64
WHOLE = (SIZE, SIZE)
OFF = AugmentConfig.off()
LUMA = torch.tensor([0.299, 0.587, 0.114])


def only(**effects: Effect) -> AugmentConfig:
    return replace(OFF, **effects)


def picture(count: int = 1) -> tuple[Tensor, Tensor]:
    """Return a coarse pattern, and a mask in it, as a batch of bytes."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 215, (8, 8, 3), dtype=np.uint8)
    image = torch.from_numpy(coarse.repeat(8, axis=0).repeat(8, axis=1))
    mask = torch.zeros(WHOLE, dtype=torch.uint8)
    mask[20:28, 10:24] = 255
    return image.expand(count, -1, -1, -1).clone(), mask.expand(count, -1, -1).clone()


def bright_eyes(count: int) -> tuple[Tensor, Tensor]:
    """Return pictures that are bright exactly where their mask is."""
    mask = torch.zeros(count, *WHOLE, dtype=torch.uint8)
    mask[:, 22:27, 16:25] = mask[:, 22:27, 40:49] = 255
    image = torch.where(mask > 0, 200, 90).to(torch.uint8)
    return image.unsqueeze(3).repeat(1, 1, 1, 3), mask


def eyes(count: int) -> np.ndarray:
    return np.tile(np.array([[20.0, 24.0], [44.0, 24.0]], np.float32), (count, 1, 1))


def numbers(
    config: AugmentConfig, count: int, seed: int = 0, shape: tuple[int, int] = WHOLE
) -> Draw:
    return draw(config, SIZE, (seed, 0, 0), eyes(count), shape)


def shown(config: AugmentConfig, count: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Draw]:
    drawn = numbers(config, count, seed)
    return *augment(*picture(count), drawn, WHOLE), drawn


def test_equal_seeds_draw_equal_numbers_and_ranks_take_their_rows() -> None:
    first, again, other = (
        draw(AugmentConfig(), SIZE, (0, 1, step), eyes(8), (32, 48)) for step in (2, 2, 3)
    )
    for name, array in first.arrays().items():
        assert np.array_equal(array, again.arrays()[name]), name
    assert not np.array_equal(first.matrix, other.matrix)
    images, masks = picture(8)
    whole, part = augment(images, masks, first, (32, 48)), slice(3, 8)
    mine = augment(images[part], masks[part], first.rows(part), (32, 48))
    for plane, rows in zip(whole, mine, strict=True):
        torch.testing.assert_close(rows, plane[part], rtol=0, atol=1e-3)


def test_off_changes_nothing_and_batches_have_the_layout_that_the_network_wants() -> None:
    expected = plain(*picture(4))
    images, masks, _ = shown(OFF)
    torch.testing.assert_close(images, expected[0], rtol=0, atol=1e-3)
    assert torch.equal(masks, expected[1])
    for images, masks in (shown(AugmentConfig(crop=None))[:2], expected):
        assert (images.shape, masks.shape) == ((4, 3, *WHOLE), (4, 1, *WHOLE))
        assert images.dtype == masks.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= images.min() <= images.max() <= 255
        assert set(masks.unique().tolist()) == {0.0, 1.0}


EFFECTS = {
    "flip": Effect(1, 1), "larger": Effect(1, 0.4), "smaller": Effect(1, 0.4),
    "aspect": Effect(1, 0.5), "rotation": Effect(1, 30), "translation": Effect(1, 0.2),
    "hide": Effect(1, 0.6), "light": Effect(1, 0.4), "colour": Effect(1, 0.5),
    "grey": Effect(1, 1), "blur": Effect(1, 3), "noise": Effect(1, 20), "jpeg": Effect(1, 80),
    "lids": Effect(1, 1), "glasses": Effect(1, 0.8), "shade": Effect(1, 0.9),
}  # fmt: skip


@pytest.mark.parametrize("name", OFF.effects())
def test_every_effect_changes_pictures_as_often_as_asked(name: str) -> None:
    before, _ = plain(*picture(64))

    def changed(probability: float) -> float:
        images, _, _ = shown(only(**{name: replace(EFFECTS[name], probability=probability)}), 64)
        moved = (images - before).abs().mean(dim=(1, 2, 3)) > 0.02
        return float(moved.float().mean())

    assert changed(1.0) > 0.8
    assert 0.25 < changed(0.5) / changed(1.0) < 0.85, "a shift is drawn twice, across and down"
    assert changed(0.0) == 0


def test_the_warp_is_that_of_opencv() -> None:
    """A shift by half a pixel, a flipped mask or a wrong centre would show here."""
    strong = replace(
        only(flip=Effect(0.5, 1), larger=Effect(1, 1), smaller=Effect(1, 0.6)),
        rotation=Effect(1, 180), aspect=Effect(1, 1), translation=Effect(1, 0.5),
    )  # fmt: skip
    images, masks = picture(24)
    for crop, shape in ((None, WHOLE), (Crop(), (32, 48))):
        drawn = numbers(replace(strong, crop=crop), 24, 3, shape)
        found, eyes = augment(images, masks, drawn, shape)
        for row in range(24):
            affine = drawn.matrix[row].copy()
            affine[:, 2] += affine[:, :2] @ (0.5, 0.5) - 0.5  # (0, 0) is a pixel's centre there
            both = torch.cat([images[row], masks[row, ..., None]], dim=2).numpy()
            expected = cv2.warpAffine(
                both.astype(np.float32), affine, shape[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
            )  # fmt: skip
            difference = np.abs(found[row].permute(1, 2, 0).numpy() - expected[..., :3])
            assert np.quantile(difference, 0.99) < 4, "OpenCV has 32 steps between two pixels"
            assert difference.mean() < 0.6
            assert ((eyes[row, 0] > 0).numpy() ^ (expected[..., 3] >= 128)).sum() <= 8


def test_scale_and_rotation_have_the_size_that_was_drawn() -> None:
    drawn = numbers(only(larger=Effect(1, 0.5), smaller=Effect(1, 0.4)), 500)
    factors = 1 / np.sqrt(np.abs(np.linalg.det(drawn.matrix[:, :, :2])))
    assert 0.6 - 1e-3 <= factors.min() < 0.62
    assert 1.45 < factors.max() <= 1.5 + 1e-3
    drawn = numbers(only(aspect=Effect(1, 0.5)), 500)
    across, down = (1 / drawn.matrix[:, axis, axis] for axis in (0, 1))
    np.testing.assert_allclose(across * down, 1, rtol=1e-5)
    assert 1 / 1.5 - 1e-3 <= (across / down).min() < 0.7
    assert 1.45 < (across / down).max() <= 1.5 + 1e-3
    turned = numbers(only(rotation=Effect(1, 20)), 500)
    degrees = np.rad2deg(np.arctan2(turned.matrix[:, 1, 0], turned.matrix[:, 0, 0]))
    assert 19 < np.abs(degrees).max() <= 20.001
    np.testing.assert_allclose(np.linalg.det(turned.matrix[:, :, :2]), 1, rtol=1e-5)
    centre = np.array([SIZE / 2, SIZE / 2, 1])
    np.testing.assert_allclose(turned.matrix @ centre, SIZE / 2, atol=1e-3)


def test_light_is_a_line_within_its_factors() -> None:
    images, _, drawn = shown(only(light=Effect(1, 0.3)), 300)
    before, _ = plain(*picture(300))
    slope, added = torch.from_numpy(drawn.colour[:, 0, ::3].T.copy())[..., None, None, None]
    assert 0.7**2 <= slope.min() < 0.6
    assert 1.5 < slope.max() <= 1.3**2
    brightness = (128 * slope + added) / 128  # contrast leaves the middle where it is
    assert 0.7 <= brightness.min() < brightness.max() <= 1.3
    line = (slope * before + added).clamp(0, 255).float()
    torch.testing.assert_close(images, line, rtol=0, atol=0.01)


def test_grey_takes_all_colour_and_colour_changes_hue_but_hardly_the_brightness() -> None:
    images, _, _ = shown(only(grey=Effect(1, 1)), 1)
    assert (images.amax(dim=1) - images.amin(dim=1)).max() <= 1
    luma = torch.einsum("nchw,c->nhw", plain(*picture())[0], LUMA)
    assert (images[:, 0] - luma).abs().max() <= 1.5
    images, masks, _ = shown(only(colour=Effect(1, 0.5)), 8)
    before, same = plain(*picture(8))
    assert (images - before).abs().amax(dim=(1, 2, 3)).min() > 5
    inside = ((images > 0) & (images < 255)).all(dim=1)
    luma = torch.einsum("nchw,c->nhw", images - before, LUMA)
    assert luma[inside].abs().max() < 4
    assert torch.equal(masks, same)


def test_blur_is_a_gaussian_of_the_drawn_width() -> None:
    images, _, drawn = shown(only(blur=Effect(1, 4)), 12)
    before, _ = plain(*picture(12))
    for row, sigma in enumerate(drawn.sigma):
        expected = cv2.GaussianBlur(
            before[row].permute(1, 2, 0).numpy(), (63, 63), float(sigma),
            borderType=cv2.BORDER_CONSTANT,
        )  # fmt: skip
        inner = np.s_[16:48, 16:48]  # at the border the bell is cut off and made whole again
        difference = np.abs(images[row].permute(1, 2, 0).numpy() - expected)[inner]
        assert difference.max() < 0.5, sigma


def test_noise_is_normal_of_the_drawn_width_and_repeats() -> None:
    grey = torch.full((12, SIZE, SIZE, 3), 128, dtype=torch.uint8), picture(12)[1]
    drawn = numbers(only(noise=Effect(1, 20)), 12)
    images, _ = augment(*grey, drawn, WHOLE)
    again, _ = augment(*grey, drawn, WHOLE)
    assert torch.equal(images, again)
    parts = (images - 128).flatten(1)
    torch.testing.assert_close(parts.std(dim=1), torch.from_numpy(drawn.noise).float(),
                               rtol=0.03, atol=0.01)  # fmt: skip
    unit = parts / parts.std(dim=1, keepdim=True)
    assert unit.mean().abs() < 0.01
    for width, share in ((1, 0.683), (2, 0.954)):
        assert float((unit.abs() < width).float().mean()) == pytest.approx(share, abs=0.02)
    for product in (unit[:, 1:] * unit[:, :-1], unit[0] * unit[1]):
        assert product.mean().abs() < 0.02, "neighbours and pictures are independent"


def test_jpeg_is_that_of_libjpeg() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 1.5)
    image = np.clip((image.astype(float) - 128) * 2.5 + 128, 0, 255).astype(np.uint8)
    drawn = numbers(only(jpeg=Effect(1, 95)), 24)
    assert 5 <= drawn.quality.min() < 20
    assert 75 < drawn.quality.max() <= 90
    batch = torch.from_numpy(image).expand(24, -1, -1, -1)
    found, _ = augment(batch, picture(24)[1], drawn, WHOLE)
    for row, quality in enumerate(drawn.quality):
        data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
        expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
        lost = np.abs(expected - image).mean()
        difference = np.abs(found[row].permute(1, 2, 0).numpy() - expected).mean()
        assert difference < 0.25 * lost + 0.4, quality
    odd = (24, 40)  # no multiple of the blocks
    odds = draw(only(jpeg=Effect(1, 80)), SIZE, (0, 0, 0), eyes(4), odd)
    assert augment(*picture(4), odds, odd)[0].shape == (4, 3, *odd)


def test_covers_hide_eyes_from_image_and_mask() -> None:
    drawn = numbers(only(hide=Effect(1, 0.6)), 200)
    smooth = replace(drawn, textured=np.zeros(200))
    images, masks = augment(*picture(200), smooth, WHOLE)
    before, before_masks = plain(*picture(200))
    for row in np.flatnonzero(drawn.hidden):
        left, top, right, bottom = drawn.box[row].astype(int)
        before[row, :, top:bottom, left:right] = torch.from_numpy(drawn.cover[row])[:, None, None]
        before_masks[row, 0, top:bottom, left:right] = 0
    torch.testing.assert_close(images, before, rtol=0, atol=0.01)
    assert torch.equal(masks, before_masks)
    assert (masks.sum(dim=(1, 2, 3)) < plain(*picture(1))[1].sum()).sum() > 60
    rough, same = augment(*picture(200), replace(drawn, textured=np.ones(200)), WHOLE)
    assert torch.equal(same, masks)
    changed = ((rough - images).abs() > 1).any(dim=1)
    covered = ((images - plain(*picture(200))[0]).abs() > 1e-3).any(dim=1)
    assert not (changed & ~covered).any(), "texture lies on covers only"
    assert changed.sum() > 0.3 * covered.sum()


def test_covers_move_with_the_picture() -> None:
    """A cover lies on the photograph, not on the crop: turned and mirrored, it stays on the eye."""
    config = replace(
        only(hide=Effect(1, 0.6), flip=Effect(0.5, 1), rotation=Effect(1, 60)), crop=Crop()
    )
    batch, shape = bright_eyes(100), (32, 48)
    drawn = numbers(config, 100, 2, shape)
    bare = replace(drawn, hidden=np.zeros(100, bool))
    covered, truth = augment(*batch, drawn, shape)
    images, masks = augment(*batch, bare, shape)
    gone = (masks > 0) & (truth == 0)
    assert gone.sum() > 500
    changed = (covered - images).abs().amax(dim=1, keepdim=True) > 1
    assert float(changed[gone].float().mean()) > 0.97, "hidden truth without a cover"
    assert float(changed[truth > 0].float().mean()) < 0.1, "covered truth that stays"


def test_covers_leave_slivers_whole_eyes_and_nothing() -> None:
    size, count = 256, 2000
    mask = np.zeros((size, size), np.uint8)
    mask[92:101, 80:104] = mask[92:101, 152:176] = 255
    places = np.tile(np.array([[92.0, 96.5], [164.0, 96.5]], np.float32), (count, 1, 1))
    drawn = draw(only(hide=Effect(1, 0.3)), size, (0, 0, 0), places, (size, size))
    left = np.empty((count, 2))
    for row, (x0, y0, x1, y1) in enumerate(drawn.box.astype(int)):
        assert 0 <= min(x0, y0) <= max(x1, y1) <= size
        rest = mask.copy()
        rest[y0:y1, x0:x1] = 0
        left[row] = rest[:, :128].mean(), rest[:, 128:].mean()
    left /= mask[:, :128].mean()
    least, most = left.min(axis=1), left.max(axis=1)
    assert np.mean((least > 0.05) & (least < 0.5)) > 0.2  # slivers
    assert np.mean((least == 0) & (most == 1)) > 0.05  # one eye
    assert np.mean(most == 0) > 0.03  # both
    assert np.mean(least == 1) > 0.05  # none
    assert np.abs(left[:, 0].mean() - left[:, 1].mean()) < 0.05


def test_crops_lie_around_the_eyes_but_for_some_that_lie_anywhere() -> None:
    shape = (32, 48)
    drawn = numbers(replace(only(rotation=Effect(1, 20)), crop=Crop()), 400, 1, shape)
    _, masks = augment(*bright_eyes(400), drawn, shape)
    seen = int((masks.sum(dim=(1, 2, 3)) > 10).sum())
    assert 0.75 * 400 < seen < 0.98 * 400
    centres = drawn.matrix @ np.array([24, 16, 1])
    far = np.abs(centres - [32, 24]).max(axis=1) > 20
    assert 0.1 < far.mean() < 0.3, "some crops lie anywhere"
