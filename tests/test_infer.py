"""Any photograph in, a mask of its own size and orientation out."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from infer import Prediction, Predictor
from infer.cli import main
from infer.output import View, draw
from infer.run import Failure, Result, find_photos, plan, run
from preprocess.celebamask import read_plan
from preprocess.errors import InputError
from preprocess.image import Geometry, decode_fitted, decode_rgb
from preprocess.manifest import Manifest, PackSettings
from preprocess.pack import PackConfig, pack
from preprocess.shards import read_samples
from train.checkpoint import MODEL_FILE, Checkpoint
from train.config import AugmentConfig, ModelConfig, TrainConfig
from train.loop import fit


@pytest.fixture(scope="module")
def shards(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    pack(PackConfig(faces, out, PackSettings(size=96), split="train", workers=1))
    return out


@pytest.fixture(scope="module")
def model(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that has learnt the 24 drawn faces, so that there is something to see."""
    output = tmp_path_factory.mktemp("model")
    fit(TrainConfig(
        shards, output, epochs=60, batch=8, lr=5e-3, ema=0.8, loader="portable",
        model=ModelConfig(width=8, depth=3), augment=AugmentConfig.off(),
    ))  # fmt: skip
    return output / MODEL_FILE


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.from_checkpoint(model)


@pytest.fixture(scope="module")
def photo(faces: Path, predictor: Predictor) -> Path:
    """The face on which the network marks most."""
    photos = sorted((faces / "CelebA-HQ-img").glob("*.jpg"))
    return max(photos, key=lambda p: predictor.predict(decode_rgb(p.read_bytes())).mask.sum())


def iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    with Image.open(path) as picture:
        assert picture.mode == "L"
        levels = np.asarray(picture)
    assert set(np.unique(levels).tolist()) <= {0, 255}
    return levels > 0


def test_prediction_has_the_photos_size_and_finds_the_eyes(
    predictor: Predictor, faces: Path
) -> None:
    scores = []
    for sample in read_plan(faces).samples:
        rgb = decode_rgb(sample.image.read(faces))
        prediction = predictor.predict(rgb)
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


def test_folded_network_predicts_what_the_trained_one_does(model: Path) -> None:
    checkpoint = Checkpoint.load(model)
    rng = np.random.default_rng(0)
    square = rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)
    from train.decode import normalise

    with torch.inference_mode():
        plain = checkpoint.build()(normalise(square[None], checkpoint.spec)).sigmoid()[0, 0]
    folded = Predictor(checkpoint).predict(square).probability
    np.testing.assert_allclose(folded, plain.numpy(), atol=2e-4)


def test_original_and_packed_sample_get_the_same_mask(
    predictor: Predictor, shards: Path, faces: Path
) -> None:
    samples = {sample.key: sample for sample in read_plan(faces).samples}
    hit = union = 0
    for shard in Manifest.load(shards).split("train").shards:
        for key, parts in read_samples(shards / shard.name):
            original = decode_rgb(samples[key].image.read(faces))
            whole = predictor.predict(original).mask
            height, width = original.shape[:2]
            placement = Geometry.fit(height, width, predictor.spec.size)
            (plane,) = predictor.probabilities([decode_rgb(parts["jpg"])])
            packed = placement.restore(plane) >= predictor.threshold
            hit += int((whole & packed).sum())
            union += int((whole | packed).sum())
    assert union > 1000
    assert hit / union > 0.95


@pytest.mark.slow
def test_genuine_originals_and_packed_samples_get_the_same_mask(
    genuine: Path, tmp_path: Path
) -> None:
    """With weights trained on the spot the masks are coarse; the bar of 0.98 is for real ones."""
    source = genuine / "CelebAMask-HQ"
    pack(PackConfig(source, tmp_path / "shards", PackSettings(size=128), split=None))
    output = tmp_path / "out"
    fit(TrainConfig(
        tmp_path / "shards", output, epochs=3, batch=16, lr=5e-3, ema=0.9,
        model=ModelConfig(width=8, depth=3),
    ))  # fmt: skip
    predictor = Predictor.from_checkpoint(output / MODEL_FILE)
    samples = {sample.key: sample for sample in read_plan(source).samples}
    hit = union = 0
    for shard in Manifest.load(tmp_path / "shards").split("val").shards:
        for key, parts in read_samples(tmp_path / "shards" / shard.name):
            data = samples[key].image.read(source)
            square, geometry = decode_fitted(data, predictor.spec.size)
            planes = predictor.probabilities([square, decode_rgb(parts["jpg"])])
            one, other = (geometry.restore(plane) >= predictor.threshold for plane in planes)
            hit += int((one & other).sum())
            union += int((one | other).sum())
    assert union > 10_000
    assert hit / union > 0.95


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_array_of_another_kind_is_refused(predictor: Predictor, bad: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match="Expected H x W x 3, uint8"):
        predictor.predict(bad)


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
    job = plan([path], tmp_path / "mask.png")
    (outcome,) = run(predictor, job, View.MASK)
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
        list(run(predictor, plan([path], tmp_path / "mask.png"), View.MASK))
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
        (outcome,) = run(predictor, plan([path], tmp_path / "result.png"), view)
        assert isinstance(outcome, Result)
    assert read_mask(tmp_path / "result.png").shape == size[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("view", ["--mask-only", "--overlay"])
def test_several_pictures_of_fifty_megapixels_stay_under_two_gigabytes(
    model: Path, tmp_path: Path, view: str
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
    args = ["--image", str(folder), "--model", str(model), "--output", str(results), view]
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 2_000_000, "kilobytes"
    with Image.open(results / "a_eyes.png") as result:
        assert result.size == ((6144, 8192) if view == "--mask-only" else (2 * 1536, 2048))


def test_views_show_photo_mask_and_overlay_side_by_side() -> None:
    photo = np.random.default_rng(0).integers(0, 200, (40, 60, 3), dtype=np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 15:35] = True
    panel = draw(View.PANEL, photo, mask)
    assert panel.shape == (40, 180, 3)
    assert np.array_equal(panel[:, :60], photo)
    assert np.array_equal(panel[:, 60:120, 1] > 0, mask)
    overlay = panel[:, 120:]
    assert (overlay[12:18, 18:32] != photo[12:18, 18:32]).any(axis=2).all()
    assert np.array_equal(overlay[30:, 45:], photo[30:, 45:])
    assert draw(View.OVERLAY, photo, mask).shape == (40, 120, 3)
    assert np.array_equal(draw(View.MASK, None, mask) > 0, mask)


def test_photos_are_found_in_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", "c.webp"):
        (tmp_path / name).touch()
    names = ["a.PNG", "b.jpg", "c.webp"]
    assert [p.name for p in find_photos([str(tmp_path)])] == names
    assert [p.name for p in find_photos([str(tmp_path / "*.jpg")])] == ["b.jpg"]
    both = [str(tmp_path / "c.webp"), str(tmp_path)]
    assert [p.name for p in find_photos(both)] == ["c.webp", "a.PNG", "b.jpg"]
    for nothing in ("none.jpg", "*.gif"):
        with pytest.raises(InputError, match="does not exist"):
            find_photos([str(tmp_path / nothing)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no photograph"):
        find_photos([str(tmp_path / "empty")])


def test_results_have_predictable_names_of_their_own() -> None:
    photos = [Path("x/a.jpg"), Path("x/a.png"), Path("y/a.jpg"), Path("z/a.jpg"), Path("x/b.jpg")]
    names = [job.result for job in plan(photos, Path("out"))]
    assert names[0] == Path("out/a_eyes.png")
    assert names[1] == Path("out/a_png_eyes.png")
    assert names[4] == Path("out/b_eyes.png")
    assert len(set(names)) == len(names)
    assert plan(photos[:1], None)[0].result == Path("eye_segmentation_result.png")
    assert plan(photos[:1], Path("out"))[0].result == Path("out/a_eyes.png")
    with pytest.raises(InputError, match="one file for 5 photographs"):
        plan(photos, Path("all.png"))


def test_a_result_never_replaces_a_photograph(tmp_path: Path) -> None:
    photo = tmp_path / "self.png"
    photo.touch()
    with pytest.raises(InputError, match="would be overwritten"):
        plan([photo], tmp_path / "x" / ".." / "self.png")
    again = [tmp_path / "a.jpg", tmp_path / "a_eyes.png"]
    with pytest.raises(InputError, match="would be overwritten"):
        plan(again, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="one file for 2"):
        plan(again, tmp_path / "file")


def test_a_result_that_cannot_be_written_is_reported(
    predictor: Predictor, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "a_eyes.png").mkdir()  # in the way
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(photo.read_bytes())
    jobs = plan([tmp_path / "a.jpg", tmp_path / "b.jpg"], tmp_path)
    failed, done = run(predictor, jobs, View.MASK)
    assert isinstance(failed, Failure)
    assert "a_eyes.png: cannot be written" in failed.problem
    assert isinstance(done, Result)
    assert done.found


def test_one_bad_file_does_not_stop_the_others(
    predictor: Predictor, faces: Path, tmp_path: Path
) -> None:
    photos = [faces / "CelebA-HQ-img" / f"{number}.jpg" for number in range(20)]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photos[0].read_bytes()[:900])
    jobs = plan([*photos[:11], broken, *photos[11:]], tmp_path / "out")
    outcomes = list(run(predictor, jobs, View.MASK))
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert [failure.job.photo for failure in failures] == [broken]
    assert "broken.jpg" in failures[0].problem
    done = [outcome.job for outcome in outcomes if isinstance(outcome, Result)]
    assert sorted(job.photo for job in done) == sorted(photos)
    for job in done:  # batches must not mix photographs up
        square, geometry = decode_fitted(job.photo.read_bytes(), predictor.spec.size)
        (plane,) = predictor.probabilities([square])
        alone = geometry.restore(plane) >= predictor.threshold
        assert iou(read_mask(job.result), alone) > 0.99


def invoke(*args: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_command_writes_the_panel_where_users_look(
    model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = invoke("--image", photo, "--model", model)
    assert code == 0
    assert "eye_segmentation_result.png" in out
    with Image.open("eye_segmentation_result.png") as panel:
        assert panel.size == (3 * 256, 256)
    assert invoke("--image", photo, "--model", model, "--overlay")[0] == 0
    with Image.open("eye_segmentation_result.png") as panel:
        assert panel.size == (2 * 256, 256)
    assert invoke("--image", photo, "--model", model, "--mask-only", "--output", "m.png")[0] == 0
    assert read_mask(Path("m.png")).shape == (256, 256)


def test_command_does_a_folder_and_reports_what_failed(
    model: Path, photo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(photo.read_bytes())
    (folder / "two.jpg").write_bytes(photo.read_bytes())
    (folder / "text.png").write_text("no picture")
    code, out, err = invoke("--image", folder, "--model", model, "--output", tmp_path / "out")
    assert code == 2
    assert "2 of 3 photos done" in out
    assert "text.png: cannot be decoded" in err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"one_eyes.png", "two_eyes.png"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--image", "none.jpg"], "none.jpg: does not exist"),
        ([], "--image: is not given"),
        (["--image", ""], "--image: is empty"),
        (["--image", "PHOTO", "--model", "none.pth"], "none.pth: does not exist"),
        (["--image", "PHOTO", "--overlay", "--mask-only"], "Choose one"),
        (["--image", "PHOTO", "--model", "MODEL", "--output", "x.xyz"], "ends in '.xyz'"),
        (["--image", "PHOTO", "--model", "MODEL", "--mask-only", "--output", "m.jpg"], "'.jpg'"),
        (["--image", "PHOTO", "--model", "MODEL", "--device", "cuda:9"], "--device"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    args: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    known = {"PHOTO": photo, "MODEL": model}
    code, _, err = invoke(*(known.get(arg, arg) for arg in args))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
