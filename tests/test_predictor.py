"""The predictor: arrays in, masks of their size out."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from common import iou
from PIL import Image

from infer import Prediction, Predictor
from preprocess.celebamask import read_plan
from preprocess.errors import InputError
from preprocess.image import Geometry, decode_rgb
from preprocess.manifest import Manifest
from preprocess.shards import read_samples
from train.checkpoint import Checkpoint


def test_prediction_has_the_photos_size_and_finds_the_eyes(
    predictor: Predictor, faces: Path
) -> None:
    scores = []
    for sample in read_plan(faces).samples:
        rgb = decode_rgb(sample.image.read(faces))
        prediction = predictor.predict(rgb, "whole")
        assert isinstance(prediction, Prediction)
        assert prediction.mask.shape == prediction.probability.shape == rgb.shape[:2]
        assert prediction.probability.dtype == np.float32
        assert 0 <= prediction.probability.min() <= prediction.probability.max() <= 1
        truth = np.zeros(rgb.shape[:2], np.uint8)
        for member in sample.masks.values():
            mask = Image.open(io.BytesIO(member.read(faces))).convert("L").resize(rgb.shape[1::-1])
            truth |= (np.asarray(mask) > 127).astype(np.uint8)
        scores.append(iou(prediction.mask, truth > 0))
    assert np.mean(scores) > 0.4, "it saw these very pictures in training"


def test_folded_network_predicts_what_the_trained_one_does(face_model: Path) -> None:
    checkpoint = Checkpoint.load(face_model)
    rng = np.random.default_rng(0)
    square = rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        images = torch.from_numpy(square)[None].permute(0, 3, 1, 2)
        plain = checkpoint.build()(images).sigmoid()[0, 0]
    folded = Predictor(checkpoint).predict(square, "whole").probability
    np.testing.assert_allclose(folded, plain.numpy(), atol=2e-4)


def test_original_and_packed_sample_get_the_same_mask(
    predictor: Predictor, face_shards: Path, faces: Path
) -> None:
    samples = {sample.key: sample for sample in read_plan(faces).samples}
    hit = union = 0
    for shard in Manifest.load(face_shards).split("train").shards:
        for key, parts in read_samples(face_shards / shard.name):
            original = decode_rgb(samples[key].image.read(faces))
            whole = predictor.predict(original, "whole").mask
            height, width = original.shape[:2]
            placement = Geometry.fit(height, width, predictor.spec.size)
            (plane,) = predictor.probabilities([decode_rgb(parts["jpg"])])
            packed = placement.restore(plane) >= predictor.threshold
            hit += int((whole & packed).sum())
            union += int((whole | packed).sum())
    assert union > 1000
    assert hit / union > 0.95


def test_an_array_or_a_choice_of_another_kind_is_refused(predictor: Predictor) -> None:
    for wrong in ("all", 0, -1):
        with pytest.raises(InputError, match="Expected auto, whole or a number"):
            predictor.predict(np.zeros((8, 8, 3), np.uint8), wrong)
    for shape, kind in (((8, 8), np.uint8), ((8, 8, 4), np.uint8), ((8, 8, 3), np.float32),
                        ((0, 8, 3), np.uint8)):  # fmt: skip
        bad = np.zeros(shape, kind)
        with pytest.raises(InputError, match="Expected H x W x 3, uint8"):
            predictor.predict(bad)
