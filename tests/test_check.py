"""`check` reads every sample back, twice, and notices damage of every kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

import preprocess.check
from preprocess.check import check
from preprocess.errors import InputError
from preprocess.image import RGB, decode_rgb
from preprocess.manifest import Manifest
from preprocess.mask import decode_label, encode_label
from preprocess.runtime import dali_is_installed
from preprocess.shards import index_path, read_samples, write_shard

# webdataset leaves closing its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tar:ResourceWarning")

NAME = "train/eyes-000001.tar"
Parts = dict[str, bytes]


@pytest.fixture
def packed(pack_root: Path, tmp_path: Path) -> Path:
    """Return a copy of the pack that the test may damage."""
    return Path(shutil.copytree(pack_root, tmp_path / "pack"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def forge(root: Path, change: Callable[[Parts], Parts]) -> None:
    """Change the first sample of a shard and make all checksums fit."""
    samples = list(read_samples(root / NAME))
    key, parts = samples[0]
    record = write_shard(root, NAME, [(key, change(parts)), *samples[1:]])
    manifest = Manifest.load(root)
    train = manifest.splits["train"]
    shards = tuple(record if shard.name == NAME else shard for shard in train.shards)
    splits = manifest.splits | {"train": replace(train, shards=shards)}
    replace(manifest, splits=splits).save(root)


def test_a_whole_pack_is_in_order_and_both_readers_read_it(pack_root: Path) -> None:
    report = check(pack_root)
    assert report.faults == ()
    assert report.samples == 24
    assert report.readers == (("webdataset", "dali") if dali_is_installed() else ("webdataset",))


def test_without_dali_the_report_says_so(pack_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("DALI was asked")

    monkeypatch.setattr(preprocess.check, "dali_is_installed", lambda: False)
    monkeypatch.setattr(preprocess.check, "_dali_samples", forbidden)
    report = check(pack_root)
    assert (report.readers, report.faults) == (("webdataset",), ())


@pytest.mark.parametrize("at", [0, 700, 5000, -1100, -1])
def test_a_flipped_bit_anywhere_in_a_shard_is_noticed(at: int, packed: Path) -> None:
    flip(packed / NAME, at)
    assert check(packed).faults == (f"{packed / NAME}: sha256 differs from the manifest's",)


def test_a_truncated_shard_is_noticed(packed: Path) -> None:
    with (packed / NAME).open("r+b") as file:
        file.truncate(6000)
    assert check(packed).faults == (f"{packed / NAME}: sha256 differs from the manifest's",)


def test_a_missing_shard_is_noticed(packed: Path) -> None:
    (packed / NAME).unlink()
    assert check(packed).faults == (f"{packed / NAME}: missing",)


def test_an_altered_index_is_noticed(packed: Path) -> None:
    index = index_path(packed / NAME)
    index.write_text(index.read_text().replace("jpg 512 ", "jpg 513 ", 1))
    assert check(packed).faults == (f"{index}: sha256 differs from the manifest's",)
    index.write_text("v1.2")
    assert check(packed).faults == (f"{index}: sha256 differs from the manifest's",)
    index.unlink()
    assert check(packed).faults == (f"{index}: missing",)


def test_every_fault_is_listed_not_the_first_alone(packed: Path) -> None:
    flip(packed / NAME, 99)
    index_path(packed / "train" / "eyes-000000.tar").unlink()
    (packed / "val" / "eyes-000000.tar").unlink()
    assert len(check(packed).faults) == 3


def test_a_missing_or_damaged_manifest_is_an_error(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/manifest\.json: does not exist\. Pack first"):
        check(tmp_path / "nowhere")
    flip(packed / "manifest.json", 0)
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read"):
        check(packed)


def test_checksums_made_to_fit_hide_nothing_of_the_samples(packed: Path) -> None:
    forge(packed, lambda parts: parts)
    assert check(packed).faults == ()


def painted(parts: Parts, level: int) -> Parts:
    label = decode_label(parts["png"], "label").copy()
    label[:3, :3] = level
    return parts | {"png": encode_label(label)}


def smaller(parts: Parts) -> Parts:
    label, image = decode_label(parts["png"], "label"), simplejpeg.decode_jpeg(parts["jpg"])
    jpg = simplejpeg.encode_jpeg(np.ascontiguousarray(image[:32]), colorspace="RGB")
    return parts | {"png": encode_label(np.ascontiguousarray(label[:, :32])), "jpg": jpg}


def noted(parts: Parts) -> Parts:
    meta = json.loads(parts["json"])
    meta["area"] = {"l_eye": 4000}
    return parts | {"json": json.dumps(meta).encode()}


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        (lambda parts: painted(parts, 170), ["l_eye covers another area than the"]),
        (lambda parts: painted(parts, 100), ["label map holds levels [100]"]),
        (smaller, ["image is (32, 64, 3), expected (64, 64, 3)", "label map is (64, 32), expe"]),
        (noted, ["l_eye covers another area than the 4000 pixels noted when packing"]),
    ],
    ids=["area", "level", "size", "json"],
)  # fmt: skip
def test_samples_that_break_the_format_are_noticed(
    change: Callable[[Parts], Parts], faults: list[str], packed: Path
) -> None:
    key = next(iter(read_samples(packed / NAME)))[0]
    forge(packed, change)
    found = check(packed).faults
    for fault in faults:
        assert any(row.startswith(f"{packed / NAME}, {key}: {fault}") for row in found), found


@pytest.mark.skipif(not dali_is_installed(), reason="NVIDIA DALI is not installed")
def test_readers_that_see_different_pixels_are_noticed(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brighter(data: bytes, name: str) -> RGB:
        return np.asarray(np.minimum(decode_rgb(data, name), 252) + 3, np.uint8)

    monkeypatch.setattr(preprocess.check, "decode_rgb", brighter)
    found = check(packed).faults
    assert len(found) == 24
    assert all("DALI decodes other pixels" in fault for fault in found)


def test_a_sample_missing_from_the_count_is_noticed(packed: Path) -> None:
    samples = list(read_samples(packed / NAME))
    expected = Manifest.load(packed).splits["train"].shards[1].samples
    forge(packed, lambda parts: parts)
    record = write_shard(packed, NAME, samples[1:])
    raw = json.loads((packed / "manifest.json").read_text())
    shard = raw["splits"]["train"]["shards"][1]
    shard |= {"sha256": record.sha256, "index_sha256": record.index_sha256}
    (packed / "manifest.json").write_text(json.dumps(raw))
    assert check(packed).faults == (
        f"{packed / NAME}: {expected - 1} samples read, {expected} in the manifest",
    )
