"""Difficulties: what each does to picture and truth, and the report."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from preprocess.mask import eye_boxes
from train.data import Batch, Loader
from train.difficulty import DIFFICULTIES, NO_EYES, Difficulty, without_eyes
from train.evaluate import evaluate_checkpoint
from train.split import Split
from train.stress import eyeless, harder, run_stress

SIZE = 128
BY_NAME = {difficulty.name: difficulty for difficulty in DIFFICULTIES}
Array = npt.NDArray[np.uint8]


def face() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(60, 220, (SIZE, SIZE, 3), dtype=np.uint8), (0, 0), 2)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for x in (46, 82):
        cv2.ellipse(mask, (x, 60), (9, 5), 0, 0, 360, 255, -1)
    image[mask > 0] = (250, 250, 250)
    return np.asarray(image, np.uint8), mask


def apply(name: str, level: int, seed: int = 0) -> tuple[Array, Array]:
    difficulty = BY_NAME[name]
    return difficulty.apply(*face(), difficulty.figures[level], np.random.default_rng(seed))


@pytest.mark.parametrize("difficulty", DIFFICULTIES, ids=lambda d: d.name)
def test_shapes_types_and_inputs_stay_and_harder_is_further_away(difficulty: Difficulty) -> None:
    image, mask = face()
    kept = image.copy(), mask.copy()
    distances = []
    for figure in difficulty.figures:
        new, new_mask = difficulty.apply(image, mask, figure, np.random.default_rng(0))
        assert (new.shape, new.dtype) == (image.shape, np.uint8)
        assert (new_mask.shape, new_mask.dtype) == (mask.shape, np.uint8)
        assert set(np.unique(new_mask)) <= {0, 255}
        distances.append(np.abs(new.astype(int) - image).mean())
    assert all(map(np.array_equal, (image, mask), kept))
    assert 0 < distances[0] < distances[2]
    if difficulty.name in {"grey", "dark", "blur", "noise", "compression", "glasses"}:
        assert np.array_equal(new_mask, mask), "only the camera sees it"


@pytest.mark.parametrize(
    ("name", "area"),
    [("smaller", 0.65**2), ("larger", 1.4**2), ("roll", 1.0), ("off centre", 1.0),
     ("turned head", 0.7), ("closing lids", 0.55)],
)  # fmt: skip
def test_truth_follows_what_moves_the_eyes(name: str, area: float) -> None:
    image, mask = apply(name, 1)
    assert (mask > 0).sum() / (face()[1] > 0).sum() == pytest.approx(area, rel=0.12)
    inside = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0
    assert image[inside].mean() > 225, "the eyes are the brightest part of this picture"


def test_closing_lids_keep_the_width() -> None:
    before, after = (sorted(eye_boxes(mask)) for mask in (face()[1], apply("closing lids", 1)[1]))
    for (_, _, width, height), (_, _, new_width, new_height) in zip(before, after, strict=True):
        assert new_width == pytest.approx(width, abs=2)
        assert new_height < 0.75 * height


def test_hidden_eye_is_no_longer_wanted_and_the_other_is() -> None:
    for seed in range(6):
        image, mask = apply("one eye hidden", 2, seed)
        assert len(eye_boxes(mask)) == 1
        gone = (face()[1] > 0) & (mask == 0)
        assert image[gone].mean() < 235
        assert (mask > 0).sum() == pytest.approx((face()[1] > 0).sum() / 2, rel=0.1)


def test_pictures_without_eyes_come_from_around_them() -> None:
    image, mask = face()
    for kind in NO_EYES:
        changed = np.asarray(without_eyes(image, mask, kind))
        assert changed.shape == image.shape
        assert (changed > 245).all(axis=2).mean() < 0.001, "no white of an eye"
    low = np.zeros_like(mask)
    low[-6:, 20:40] = 255
    assert without_eyes(image, low, "mouth and chin") is None
    assert without_eyes(image, np.zeros_like(mask), "painted over") is image


def test_the_report_covers_all(face_model: Path, face_shards: Path) -> None:
    run = evaluate_checkpoint(face_model, face_shards, "train", loader="portable")
    report = run_stress(run)
    assert [row.name for row in report.rows] == list(BY_NAME)
    assert report.plain == run.evaluation.metrics.f1
    assert set(report.marked) == set(NO_EYES)
    assert all(0 <= f1 <= 1 for row in report.rows for f1 in row.f1)
    blurred = next(row for row in report.rows if row.name == "blur")
    assert blurred.f1[2] < report.plain
    assert all(name in report.table() for name in (*BY_NAME, *NO_EYES))


def test_harder_pictures_depend_on_the_sample_alone(face_shards: Path) -> None:
    loader = Loader(Split.open(face_shards, "train"), torch.device("cpu"), "portable")
    by_size = []
    for size in (1, 5, 24):
        plain = list(loader.batches(loader.split.in_order(size)))
        changed = list(harder(plain, BY_NAME["roll"], 2))
        assert [b.rows.tolist() for b in changed] == [b.rows.tolist() for b in plain]
        by_size.append(torch.cat([batch.images for batch in changed]))
        assert not torch.equal(by_size[-1], torch.cat([batch.images for batch in plain]))
    assert torch.equal(by_size[0], by_size[1])
    assert torch.equal(by_size[0], by_size[2])
    images, masks, rows = plain[0].images[[0, 0]], plain[0].masks[[0, 0]], plain[0].rows[:2]
    (noisy,) = harder([Batch(images, masks, rows)], BY_NAME["noise"], 1)
    assert not torch.equal(*noisy.images), "each sample has numbers of its own"
    none = eyeless(loader.batches(loader.split.in_order(8)), "painted over")
    assert all(int(batch.masks.sum()) == 0 for batch in none)
