"""Frames: CelebA-HQ's rule, the band around the eyes, antialiased sampling, the exact way back."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from common import iou

from infer.frame import FaceFrame, PhotoFrame
from preprocess.image import Geometry

SIZE, STRIDE = 256, 32
Floats = npt.NDArray[np.float64]


def landmarks(centre: tuple[float, float], eyes: float, roll: float = 0.0) -> Floats:
    """Five points of a face with eyes so far apart, its middle between eyes and mouth."""
    upright = np.array([[-0.5, -0.5], [0.5, -0.5], [0, 0], [-0.4, 0.55], [0.4, 0.55]]) * eyes
    angle = np.deg2rad(roll)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return upright @ turn.T + centre


def apply(matrix: Floats, point: Floats) -> list[float]:
    return [float(v) for v in matrix[:, :2] @ point + matrix[:, 2]]


def framed(points: Floats) -> FaceFrame:
    return FaceFrame.of_face(points, SIZE, STRIDE)


@pytest.mark.parametrize(("roll", "long"), [(-75, 0), (-30, 0.4), (0, 0), (10, 0.4), (60, 0)])
def test_frame_is_the_band_of_the_published_square(roll: float, long: float) -> None:
    """Centre 0.1 of eye-to-mouth below the eyes, side max(4 eyes, 3.6 mouth), turned upright."""
    points = landmarks((300, 200), eyes=50, roll=roll)
    points[3:] += long * (points[3:].mean(axis=0) - points[:2].mean(axis=0))
    frame = framed(points)
    assert (frame.width, frame.height) == (192, 96)
    assert SIZE / frame.scale == pytest.approx(max(4 * 50, 3.6 * 1.05 * 50 * (1 + long)))
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    centre = apply(frame.matrix, eyes + 0.1 * (mouth - eyes))
    assert centre == pytest.approx([SIZE / 2 - 32, SIZE / 2 - 64])
    right, left = (apply(frame.matrix, point) for point in points[:2])
    assert right[1] == pytest.approx(left[1])
    assert left[0] - right[0] == pytest.approx(50 * frame.scale)
    assert apply(frame.matrix, mouth)[1] > right[1]


@pytest.mark.parametrize(("size", "stride"), [(96, 16), (256, 32), (512, 32), (64, 64)])
def test_band_fits_any_network(size: int, stride: int) -> None:
    frame = FaceFrame.of_face(landmarks((300, 200), 50), size, stride)
    assert frame.width % stride == frame.height % stride == 0
    right, left = (apply(frame.matrix, p) for p in landmarks((300, 200), 50)[:2])
    assert 0 < right[0] < left[0] < frame.width
    assert 0 < right[1] < frame.height
    assert (right[0] + left[0]) / 2 == pytest.approx(frame.width / 2)


@pytest.mark.parametrize("eyes", [64, 128, 512, 700])
def test_upright_band_is_what_packing_would_make_of_the_face(eyes: int) -> None:
    rng, side = np.random.default_rng(0), 4 * eyes
    coarse = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    photo = np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    points = landmarks((side / 2, side / 2), eyes)
    points[3:, 1] = points[0, 1] + eyes  # mouth one eye distance below the eyes
    points[:, 1] += side / 2 - points[0, 1] - 0.1 * eyes
    band = framed(points).sample(photo)
    square = PhotoFrame(Geometry.fit(side, side, SIZE)).sample(photo)
    assert np.abs(band.astype(int) - square[64:160, 32:224]).mean() < 1.0


@pytest.mark.parametrize(("eyes", "roll"), [(6, 0), (16, 20), (60, -50), (200, 75)])
def test_a_mask_goes_there_and_back(eyes: float, roll: float) -> None:
    """A disc of the photograph, seen through the frame, comes back where it was."""
    photo = np.zeros((900, 1200, 3), np.uint8)
    points = landmarks((600, 450), eyes, roll)
    for x, y in points[:2]:
        cv2.circle(photo, (round(x * 16), round(y * 16)), round(eyes * 0.25 * 16), (255,) * 3, -1,
                   cv2.LINE_AA, 4)  # fmt: skip
    frame = framed(points)
    plane = frame.sample(photo)[..., 0].astype(np.float32) / 255
    patch, (x, y) = frame.restore(plane, photo.shape)
    back = np.zeros(photo.shape[:2], np.float32)
    back[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    assert iou(photo[..., 0] > 127, back >= 0.5) > (0.97 if eyes > 10 else 0.8)


def test_a_whole_picture_goes_there_and_back() -> None:
    photo = np.zeros((300, 500, 3), np.uint8)
    cv2.circle(photo, (120, 200), 30, (255, 255, 255), -1)
    frame = PhotoFrame(Geometry.fit(300, 500, SIZE))
    square = frame.sample(photo)
    assert square.shape == (SIZE, SIZE, 3)
    x, y = apply(frame.matrix, np.array([120.5, 200.5]))
    row, column = (axis.mean() + 0.5 for axis in np.nonzero(square[..., 0] > 127))
    assert (x, y) == pytest.approx((column, row), abs=0.2)
    back, corner = frame.restore(square[..., 0].astype(np.float32) / 255, photo.shape)
    assert back.size < 0.1 * 300 * 500, "only where something is"
    whole = np.zeros((300, 500), bool)
    whole[corner[1] :, corner[0] :][: back.shape[0], : back.shape[1]] = back >= 0.5
    expected = frame.geometry.restore(square[..., 0].astype(np.float32) / 255) >= 0.5
    assert (whole ^ expected).mean() < 1e-4
    assert iou(whole, photo[..., 0] > 127) > 0.95


def test_nothing_is_aliased_however_large_the_face() -> None:
    stripes = np.zeros((2000, 2000, 3), np.uint8)
    stripes[:, ::2] = 255
    inside = framed(landmarks((1000, 1000), 450, 30)).sample(stripes)[8:-8, 8:-8]
    assert np.abs(inside.astype(int) - 127).max() < 12
    board = np.indices((96, 192)).sum(axis=0).astype(np.float32) % 2
    back, _ = framed(landmarks((50, 50), 6)).restore(board, (100, 100))
    assert np.abs(back[3:-3, 3:-3] - 0.5).max() < 0.05, "a face smaller than its frame"


@pytest.mark.parametrize(
    ("eyes", "lowest", "highest"), [(16, 0.0, 0.3), (24, 0.0, 0.3), (30, 0.8, 1)]
)
def test_the_grid_of_pixels_fades_if_eyes_are_tiny(
    eyes: int, lowest: float, highest: float
) -> None:
    """A chess board of pixels: all contrast is left of eyes from 9 pixels on, little below."""
    board = np.indices((200, 200)).sum(axis=0).astype(np.uint8) % 2 * 255
    band = framed(landmarks((100, 100), eyes)).sample(np.dstack([board] * 3))
    assert lowest <= np.ptp(band[30:-30, 30:-30].astype(int)) / 255 <= highest


def test_a_face_at_the_rim_or_outside_repeats_the_border() -> None:
    photo = np.full((100, 100, 3), 77, np.uint8)
    for centre in ((0, 0), (99, 50), (-200, -200), (500, 50)):
        frame = framed(landmarks(centre, 30, 10))
        assert (frame.sample(photo) == 77).all()
        patch, (x, y) = frame.restore(np.ones((frame.height, frame.width), np.float32), photo.shape)
        assert max(patch.shape[0] + y, patch.shape[1] + x) <= 100
