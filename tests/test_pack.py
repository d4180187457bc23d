"""Packing: same bytes always, nothing lost in silence."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from common import IMAGES, MASKS, files, labels

from preprocess.manifest import EyeCount, Manifest, PackSettings
from preprocess.mask import LABELS, decode_label
from preprocess.pack import PackConfig, PackReport, pack
from preprocess.plan import samples_per_shard
from preprocess.shards import read_samples
from preprocess.show import summary

PARTS = f"{MASKS}/0"
SETTINGS = PackSettings(size=32, samples_per_shard=8)


def run(source: Path, out: Path, settings: PackSettings = SETTINGS) -> PackReport:
    return pack(PackConfig(source, out, settings, workers=1))


def sizes(manifest: Manifest) -> tuple[int, ...]:
    return tuple(manifest.splits[name].samples for name in ("train", "val", "test"))


def test_bytes_do_not_depend_on_workers_or_on_folder_or_zip(small: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"  # whose members come in another order
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(small.rglob("*"), reverse=True):
            file.write(path, f"CelebAMask-HQ/{path.relative_to(small).as_posix()}")
    for name, origin, workers in (("one", small, 1), ("two", small, 2), ("zip", archive, 2)):
        pack(PackConfig(origin, tmp_path / name, SETTINGS, workers=workers))
    one = files(tmp_path / "one")
    assert len([name for name in one if not name.endswith(".json")]) == 12
    assert files(tmp_path / "two") == one
    data = (".tar", ".idx")
    assert files(tmp_path / "zip", *data) == files(tmp_path / "one", *data)
    first, third = Manifest.load(tmp_path / "one"), Manifest.load(tmp_path / "zip")
    assert replace(third, source=first.source) == first


def test_manifest_says_what_was_packed(faces: Path, pack_root: Path) -> None:
    manifest = Manifest.load(pack_root)
    assert sizes(manifest) == (20, 2, 2)
    assert (manifest.split_rule, manifest.dropped, manifest.samples) == ("official", (), 24)
    eyes = [len(list((faces / PARTS).glob(f"{i:05d}_?_eye.png"))) for i in range(24)]
    assert manifest.eyes == EyeCount(eyes.count(2), eyes.count(1), eyes.count(0))
    assert manifest.bytes == sum(path.stat().st_size for path in pack_root.rglob("*.tar"))
    assert [shard.samples for shard in manifest.splits["train"].shards] == [8, 8, 4]


def test_each_sample_has_image_label_and_the_way_back(faces: Path, pack_root: Path) -> None:
    seen: dict[str, dict[str, bytes]] = {}
    for shard in sorted(pack_root.rglob("*.tar")):
        seen.update(read_samples(shard))
    assert sorted(seen) == [f"{i:05d}" for i in range(24)]
    for key, parts in seen.items():
        meta = json.loads(parts["json"])
        assert (meta["key"], meta["source"]) == (key, f"{int(key)}.jpg")
        assert (meta["geometry"]["source_height"], meta["geometry"]["size"]) == (256, 64)
        label = decode_label(parts["png"], key)
        image = cv2.imdecode(np.frombuffer(parts["jpg"], np.uint8), cv2.IMREAD_COLOR)
        assert np.shape(image) == (64, 64, 3)
        for part in ("l_eye", "r_eye"):
            path = faces / PARTS / f"{key}_{part}.png"
            assert (part in meta["area"]) == path.exists()
            if path.exists():
                on = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) > 127
                assert meta["area"][part] == (label == LABELS[part]).sum()
                assert meta["area"][part] == pytest.approx(on.sum() / 4, abs=1)


def test_seed_decides_the_order_alone(small: Path, tmp_path: Path) -> None:
    run(small, tmp_path / "0")
    run(small, tmp_path / "1", replace(SETTINGS, seed=1))
    first, second = labels(tmp_path / "0"), labels(tmp_path / "1")
    assert list(first) != list(second)
    assert list(first) != sorted(first)
    assert sorted(first) == sorted(second)
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_what_cannot_be_read_is_left_out_and_listed(source: Path, tmp_path: Path) -> None:
    images = source / IMAGES
    (images / "4.jpg").write_bytes((images / "4.jpg").read_bytes()[:300])
    (source / PARTS / "00006_r_eye.png").write_bytes(b"GIF89a")
    (images / "11.jpg").write_text("no picture")
    (images / "14.jpg").unlink()
    manifest = run(source, tmp_path / "out").manifest
    reasons = {row.key: row.reason for row in manifest.dropped}
    for key, reason in {
        "00004": "4.jpg: cannot be decoded as an image (300 bytes",
        "00006": "00006_r_eye.png: cannot be decoded as a mask (6 bytes",
        "00011": "no known image format",
        "00014": "mask without an image (14.jpg is missing)",
    }.items():
        assert reason in reasons.pop(key)
    assert reasons == {}
    assert manifest.samples == 36 == len(labels(tmp_path / "out"))
    assert Manifest.load(tmp_path / "out") == manifest
    assert run(source, tmp_path / "again").manifest == manifest


def test_a_source_of_which_nothing_can_be_read_packs_no_shard(tmp_path: Path) -> None:
    for folder, name in (("images", "a.jpg"), ("masks", "a.png")):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / name).write_bytes(b"?")
    report = run(tmp_path / "in", tmp_path / "out")
    assert (report.packed, report.manifest.samples, len(report.manifest.dropped)) == (0, 0, 1)
    assert list(files(tmp_path / "out")) == ["manifest.json"]


def test_eyes_are_counted_and_empty_masks_are_suspect(source: Path, tmp_path: Path) -> None:
    for number in range(40):
        for part in ("l_eye", "r_eye"):
            path = source / PARTS / f"{number:05d}_{part}.png"
            if number < 3 or (number < 8 and part == "r_eye"):
                path.unlink(missing_ok=True)
            else:
                mask = np.zeros((32, 32), np.uint8)
                mask[10:12, 8:12] = 0 if number == 20 else 225
                cv2.imwrite(str(path), mask)
    manifest = run(source, tmp_path / "out").manifest
    assert (manifest.eyes, manifest.dropped) == (EyeCount(two=31, one=5, none=4), ())
    names = [name.rpartition("/")[2] for name in manifest.empty_masks]
    assert names == ["00020_l_eye.png", "00020_r_eye.png"]
    seen = labels(tmp_path / "out")
    assert set(np.unique(seen["00005"])) == {0, LABELS["l_eye"]}
    assert seen["00000"].max() == seen["00020"].max() == 0


def test_masks_of_the_other_eye_are_counted(source: Path, tmp_path: Path) -> None:
    before = run(source, tmp_path / "before").manifest.eyes
    left, right = (source / PARTS / f"00003_{part}.png" for part in ("l_eye", "r_eye"))
    left.rename(tmp_path / "left.png")
    right.rename(left)
    (tmp_path / "left.png").rename(right)
    report = run(source, tmp_path / "after")
    assert report.manifest.eyes == replace(before, swapped=1)
    assert f"1 of {before.two} have l_eye" in summary(tmp_path / "after", report)


def test_pairs_pack_with_the_label_of_an_eye_of_unknown_side(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[10:16, 5:35] = 255
    for folder in ("images", "masks"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for name, content in (("b", mask), ("a", 0 * mask)):
        cv2.imwrite(str(tmp_path / "in" / "masks" / f"{name}.png"), content)
        cv2.imwrite(str(tmp_path / "in" / "images" / f"{name}.png"), np.zeros((60, 80, 3)))
    manifest = run(tmp_path / "in", tmp_path / "out").manifest
    assert manifest.eyes == EyeCount(none=1, merged=1)
    assert (manifest.split_rule, manifest.empty_masks) == ("hash", ())
    seen = labels(tmp_path / "out")
    assert not seen["a"].any()
    assert set(np.unique(seen["b"])) == {0, LABELS["eye"]}
    assert (seen["b"] > 0).sum() == pytest.approx(180 * 0.8**2, abs=1)


def test_genuine_photographs_keep_split_and_eye_area(genuine: Path, tmp_path: Path) -> None:
    source = genuine / "CelebAMask-HQ"
    manifest = pack(PackConfig(source, tmp_path / "out")).manifest
    assert (sizes(manifest), manifest.dropped) == ((676, 84, 84), ())
    assert (manifest.eyes.swapped, manifest.eyes.two) == (55, 818)
    before = sum(
        (np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) > 127).mean()
        for path in (source / MASKS).rglob("*_?_eye.png")
    )
    after = sum((label > 0).mean() for label in labels(tmp_path / "out").values())
    assert after == pytest.approx(before, rel=0.01)
    assert before > 0.003 * 844


@pytest.mark.parametrize(
    ("samples", "most", "expected"),
    [(40, 1024, 32), (844, 1024, 32), (844, 8, 8), (30_000, 1024, 512), (200_000, 1024, 1024)],
)
def test_small_sets_have_small_shards(samples: int, most: int, expected: int) -> None:
    assert samples_per_shard(samples, most) == expected
