"""The predictor: arrays in, masks of their size out."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from common import iou
from PIL import Image

from infer import Prediction, Predictor
from infer.faces import FoundFace
from preprocess.celebamask import read_plan
from preprocess.errors import InputError
from preprocess.image import Geometry, decode_rgb
from preprocess.mask import decode_mask, label_map
from preprocess.shards import read_samples
from train.checkpoint import Checkpoint


def test_prediction_has_the_photos_size_and_its_eyes(predictor: Predictor, faces: Path) -> None:
    scores = []
    for sample in read_plan(faces).samples:
        prediction = predictor.predict(sample.image.read(faces), "whole")
        assert isinstance(prediction, Prediction)
        assert prediction.mask.shape == prediction.probability.shape == (256, 256)
        assert prediction.probability.dtype == np.float32
        assert 0 <= prediction.probability.min() <= prediction.probability.max() <= 1
        masks = {part: decode_mask(member.read(faces)) for part, member in sample.masks.items()}
        truth = label_map(masks, Geometry.fit(256, 256, 256))
        scores.append(iou(prediction.mask, truth > 0))
    assert np.mean(scores) > 0.4, "it saw these very pictures in training"


def test_folded_network_predicts_what_the_trained_one_does(face_model: Path) -> None:
    square = np.random.default_rng(0).integers(0, 255, (1, 96, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        images = torch.from_numpy(square).permute(0, 3, 1, 2)
        plain = Checkpoint.load(face_model).build()(images).sigmoid()[:, 0]
    folded = Predictor.from_checkpoint(face_model, "cpu").network(square)
    np.testing.assert_allclose(folded, plain.numpy(), atol=2e-4)


def test_original_and_packed_get_one_mask(
    predictor: Predictor, face_shards: Path, faces: Path
) -> None:
    samples = {sample.key: sample for sample in read_plan(faces).samples}
    (shard,) = face_shards.rglob("*.tar")
    pairs = []
    for key, parts in read_samples(shard):
        whole = predictor.predict(samples[key].image.read(faces), "whole").mask
        (plane,) = predictor.network(decode_rgb(parts["jpg"])[None])
        packed = Geometry.fit(256, 256, 96).restore(plane) >= predictor.network.threshold
        pairs.append((whole, packed))
    wholes, packed = map(np.stack, zip(*pairs, strict=True))
    assert wholes.sum() > 1000
    assert iou(wholes, packed) > 0.95


@pytest.mark.parametrize(("gap", "found"), [(6, True), (40, False)])
def test_a_whole_picture_is_a_face_only_if_each_eye_is_in_one_piece(gap: int, found: bool) -> None:
    """Two spots far apart, as of two animals, are not one eye."""

    class Marks:
        size, stride, threshold = 192, 32, 0.5

        def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            plane = np.zeros(images.shape[:3], np.float32)
            for left in (40, 120):
                for start in (left, left + gap):
                    plane[:, 90:100, start : start + 6] = 1
            return plane

    predictor = Predictor(Marks())  # type: ignore[arg-type]
    prediction = predictor.predict(np.full((192, 192, 3), 128, np.uint8))
    assert bool(prediction.faces) is found
    assert bool(prediction.warning) is not found


def test_an_array_or_a_choice_of_another_kind_is_refused(predictor: Predictor) -> None:
    for wrong in ("all", 0, -1):
        with pytest.raises(InputError, match="Expected auto, whole or a number"):
            predictor.predict(np.zeros((8, 8, 3), np.uint8), wrong)
    for shape, kind in (((8, 8), "u1"), ((8, 8, 4), "u1"), ((8, 8, 3), "f4"), ((0, 8, 3), "u1")):
        with pytest.raises(InputError, match="Expected H x W x 3, uint8"):
            predictor.predict(np.zeros(shape, kind))


def test_a_photo_is_a_path_bytes_picture_or_array(
    predictor: Predictor, photo: Path, tmp_path: Path
) -> None:
    upright = Image.open(photo)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    expected = predictor.predict(np.asarray(upright.convert("RGB")), "whole").probability
    for given in (str(photo), photo, photo.read_bytes(), upright, turned, Image.open(turned)):
        found = predictor.predict(given, "whole").probability
        assert np.abs(found - expected).max() < 0.02
    with pytest.raises(InputError, match=r"none\.jpg: does not exist"):
        predictor.predict(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="photo: cannot be decoded"):
        predictor.predict(b"no picture")


def test_a_prediction_draws_and_tells_itself(
    predictor: Predictor, photo: Path, tmp_path: Path
) -> None:
    prediction = predictor.predict(photo, "whole")
    height, width = prediction.mask.shape
    cutout = prediction.cutout()
    alpha = cutout[..., 3]
    assert (alpha[prediction.mask] >= 127).all()
    assert (alpha[prediction.probability < prediction.threshold - 0.26] == 0).all()
    assert ((alpha > 0) & (alpha < 255)).any(), "soft at the edges"
    assert not cutout[alpha == 0].any(), "nothing of the photo is left outside"
    assert np.array_equal(cutout[alpha == 255][:, :3], prediction.photo[alpha == 255])
    assert prediction.overlay().shape == (height, 2 * width, 3)
    prediction.save(tmp_path / "m.png", "mask")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "m.png")) > 0, prediction.mask)
    assert prediction.to_dict("a.jpg")["photo"] == "a.jpg"
    assert [len(face["eyes"]) for face in prediction.to_dict()["faces"]] == [len(prediction.eyes)]


def test_a_crowd_goes_through_the_network_a_few_faces_at_a_time() -> None:
    batches = []

    class Red:
        size, stride, threshold = 192, 32, 0.5

        def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            batches.append(len(images))
            return images[..., 0].astype(np.float32) / 255

    predictor, rng = Predictor(Red()), np.random.default_rng(0)  # type: ignore[arg-type]
    photo = rng.integers(0, 255, (200, 3000, 3), dtype=np.uint8)
    points = np.array([[40, 60], [80, 60], [60, 80], [45, 100], [75, 100]], np.float32)
    found = [
        FoundFace((120.0 * n, 20.0, 100.0, 120.0), points + np.array([120 * n, 0], np.float32), 0.9)
        for n in range(20)
    ]
    looks = predictor.look(photo, found=found)
    predictor.see(photo, looks)
    assert batches == [8, 8, 4]
    for look in looks:
        assert look.frame is not None
        np.testing.assert_allclose(look.plane, look.frame.sample(photo)[..., 0] / 255, atol=1e-6)
