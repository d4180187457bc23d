"""`check` reads every sample back, twice, and notices damage of every kind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from common import Parts, Patch, flip, forge

import preprocess.check
from preprocess.check import check
from preprocess.image import RGB, decode_rgb
from preprocess.manifest import Manifest
from preprocess.mask import decode_label, encode_label
from preprocess.runtime import dali_is_installed
from preprocess.shards import index_path

# webdataset leaves closing its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tar:ResourceWarning")

NAME = "train/eyes-000001.tar"


def test_a_whole_pack_is_in_order_and_both_readers_read_it(pack_root: Path) -> None:
    report = check(pack_root)
    assert (report.samples, report.faults) == (24, ())
    assert report.readers == (("webdataset", "dali") if dali_is_installed() else ("webdataset",))


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:60]),
                                    lambda path: flip(path, 30), Path.unlink])  # fmt: skip
@pytest.mark.parametrize("kind", [".tar", ".idx"])
def test_a_cut_altered_or_missing_file_is_noticed(
    kind: str, damage: Callable[[Path], object], pack_copy: Path
) -> None:
    path = (pack_copy / NAME).with_suffix(kind)
    damage(path)
    fault = "sha256 differs from the manifest's" if path.exists() else "missing"
    assert check(pack_copy).faults == (f"{path}: {fault}",)


def test_every_fault_is_listed_not_the_first_alone(pack_copy: Path) -> None:
    flip(pack_copy / NAME, 99)
    index_path(pack_copy / "train" / "eyes-000000.tar").unlink()
    (pack_copy / "val" / "eyes-000000.tar").unlink()
    assert len(check(pack_copy).faults) == 3


def painted(parts: Parts, level: int) -> Parts:
    label = decode_label(parts["png"], "label").copy()
    label[:3, :3] = level
    return parts | {"png": encode_label(label)}


def smaller(parts: Parts) -> Parts:
    label, image = decode_label(parts["png"], "label"), simplejpeg.decode_jpeg(parts["jpg"])
    jpg = simplejpeg.encode_jpeg(np.ascontiguousarray(image[:32]), colorspace="RGB")
    return parts | {"png": encode_label(np.ascontiguousarray(label[:, :32])), "jpg": jpg}


def test_samples_that_break_the_format_are_noticed(pack_copy: Path) -> None:
    forge(pack_copy, NAME, 0, lambda parts: parts)
    assert check(pack_copy).faults == (), "the checksums fit"
    changes: list[Callable[[Parts], Parts]] = [
        lambda parts: painted(parts, 170), lambda parts: painted(parts, 100), smaller
    ]  # fmt: skip
    keys = [forge(pack_copy, NAME, row, change) for row, change in enumerate(changes)]
    found = check(pack_copy).faults
    for key, fault in (
        (keys[0], "l_eye covers another area than the"), (keys[1], "label map holds levels [100]"),
        (keys[2], "image is (32, 64, 3), expected (64, 64, 3)"),
        (keys[2], "label map is (64, 32), expected (64, 64)"),
    ):  # fmt: skip
        assert any(row.startswith(f"{pack_copy / NAME}, {key}: {fault}") for row in found), found


@pytest.mark.skipif(not dali_is_installed(), reason="NVIDIA DALI is not installed")
def test_readers_that_see_different_pixels_are_noticed(pack_copy: Path, monkeypatch: Patch) -> None:
    def brighter(data: bytes, name: str) -> RGB:
        return np.asarray(np.minimum(decode_rgb(data, name), 252) + 3, np.uint8)

    monkeypatch.setattr(preprocess.check, "decode_rgb", brighter)
    found = check(pack_copy).faults
    assert sum("DALI decodes other pixels" in fault for fault in found) == len(found) == 24


def test_a_sample_missing_from_the_count_is_noticed(pack_copy: Path) -> None:
    manifest = Manifest.load(pack_copy)
    train = manifest.splits["train"]
    shards = tuple(replace(shard, samples=shard.samples + 1) for shard in train.shards)
    more = replace(train, samples=train.samples + len(shards), shards=shards)
    replace(manifest, splits=manifest.splits | {"train": more}).save(pack_copy)
    assert f"{pack_copy / NAME}: 8 samples read, 9 in the manifest" in check(pack_copy).faults
