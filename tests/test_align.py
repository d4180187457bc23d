"""The frame of a face: CelebA-HQ's rule, antialiased sampling, and the exact way back."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from infer.align import Alignment
from preprocess.image import fit

SIZE = 64


def landmarks(
    centre: tuple[float, float], eyes: float, roll: float = 0.0
) -> npt.NDArray[np.float64]:
    """Five points of a face with eyes so far apart, its middle between eyes and mouth."""
    upright = np.array([[-0.5, -0.5], [0.5, -0.5], [0, 0], [-0.4, 0.55], [0.4, 0.55]]) * eyes
    angle = np.deg2rad(roll)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return upright @ turn.T + centre


def apply(matrix: npt.NDArray[np.float64], point: npt.NDArray[np.float64]) -> list[float]:
    return [float(v) for v in matrix[:, :2] @ point + matrix[:, 2]]


@pytest.mark.parametrize("roll", [-75, -30, 0, 10, 60])
def test_frame_is_the_published_rule(roll: float) -> None:
    """Centre 0.1 of eye-to-mouth below the eyes, side max(4 eyes, 3.6 mouth), turned upright."""
    points = landmarks((300, 200), eyes=50, roll=roll)
    alignment = Alignment.of_face(points, SIZE)
    assert SIZE / alignment.scale == pytest.approx(max(4 * 50, 3.6 * 1.05 * 50))
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    assert apply(alignment.matrix, eyes + 0.1 * (mouth - eyes)) == pytest.approx([SIZE / 2] * 2)
    right, left = (apply(alignment.matrix, point) for point in points[:2])
    assert right[1] == pytest.approx(left[1])
    assert left[0] - right[0] == pytest.approx(50 * alignment.scale)
    assert apply(alignment.matrix, mouth)[1] > right[1]


@pytest.mark.parametrize("side", [SIZE, 2 * SIZE, 8 * SIZE, 10 * SIZE])
def test_upright_square_is_what_packing_would_make_of_it(side: int) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
    photo = np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    middle = np.array([side / 2, side / 2])
    alignment = Alignment.of_square(middle, side, np.array([1.0, 0.0]), SIZE)
    square, _ = fit(photo, SIZE)
    assert np.abs(alignment.sample(photo).astype(int) - square).mean() < 1.0


@pytest.mark.parametrize(("eyes", "roll"), [(6, 0), (16, 20), (60, -50), (200, 75)])
def test_a_mask_goes_there_and_back(eyes: float, roll: float) -> None:
    """A disc of the photograph, seen through the frame, comes back where it was."""
    photo = np.zeros((900, 1200, 3), np.uint8)
    points = landmarks((600, 450), eyes, roll)
    for x, y in points[:2]:
        cv2.circle(photo, (round(x * 16), round(y * 16)), round(eyes * 0.25 * 16), (255,) * 3, -1,
                   cv2.LINE_AA, 4)  # fmt: skip
    alignment = Alignment.of_face(points, 256)
    plane = alignment.sample(photo)[..., 0].astype(np.float32) / 255
    patch, (x, y) = alignment.restore(plane, photo.shape)
    back = np.zeros(photo.shape[:2], np.float32)
    back[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    before, after = photo[..., 0] > 127, back >= 0.5
    assert (before & after).sum() / (before | after).sum() > (0.97 if eyes > 10 else 0.8)
    assert (patch >= 0.5).sum() == after.sum()


def test_nothing_is_aliased_however_large_the_face() -> None:
    stripes = np.zeros((2000, 2000, 3), np.uint8)
    stripes[:, ::2] = 255
    alignment = Alignment.of_face(landmarks((1000, 1000), 450, 30), SIZE)
    inside = alignment.sample(stripes)[8:-8, 8:-8]
    assert np.abs(inside.astype(int) - 127).max() < 12


def test_a_face_at_the_rim_or_outside_repeats_the_border() -> None:
    photo = np.full((100, 100, 3), 77, np.uint8)
    for centre in ((0, 0), (99, 50), (-200, -200), (500, 50)):
        alignment = Alignment.of_face(landmarks(centre, 30, 10), SIZE)
        assert (alignment.sample(photo) == 77).all()
        patch, (x, y) = alignment.restore(np.ones((SIZE, SIZE), np.float32), photo.shape)
        assert patch.shape[0] + y <= 100
        assert patch.shape[1] + x <= 100


def test_an_aligned_crop_is_recognised() -> None:
    whole = Alignment.of_face(landmarks((128, 153), 64), 256)
    assert 256 / whole.scale > SIZE
    assert whole.is_nearly_all_of((256, 256))
    assert not whole.is_nearly_all_of((512, 512))
    assert not whole.is_nearly_all_of((256, 400))
    assert not Alignment.of_face(landmarks((128, 153), 64, 12), 256).is_nearly_all_of((256, 256))
