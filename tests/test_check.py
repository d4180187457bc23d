"""`check` reads every sample back, twice, and notices damage of every kind."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from common import Parts, flip, forge, write_shard

import preprocess.check
from preprocess.check import check
from preprocess.errors import InputError
from preprocess.image import RGB, decode_rgb
from preprocess.manifest import Manifest
from preprocess.mask import decode_label, encode_label
from preprocess.runtime import dali_is_installed
from preprocess.shards import index_path, read_samples

# webdataset leaves closing its files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tar:ResourceWarning")

NAME = "train/eyes-000001.tar"


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
def test_a_flipped_bit_anywhere_in_a_shard_is_noticed(at: int, pack_copy: Path) -> None:
    flip(pack_copy / NAME, at)
    assert check(pack_copy).faults == (f"{pack_copy / NAME}: sha256 differs from the manifest's",)


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


def test_a_missing_or_damaged_manifest_is_an_error(pack_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/manifest\.json: does not exist\. Pack first"):
        check(tmp_path / "nowhere")
    flip(pack_copy / "manifest.json", 0)
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read"):
        check(pack_copy)


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
    change: Callable[[Parts], Parts], faults: list[str], pack_copy: Path
) -> None:
    key = forge(pack_copy, NAME, 0, lambda parts: parts)
    assert check(pack_copy).faults == (), "the checksums fit"
    forge(pack_copy, NAME, 0, change)
    found = check(pack_copy).faults
    for fault in faults:
        assert any(row.startswith(f"{pack_copy / NAME}, {key}: {fault}") for row in found), found


@pytest.mark.skipif(not dali_is_installed(), reason="NVIDIA DALI is not installed")
def test_readers_that_see_different_pixels_are_noticed(
    pack_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brighter(data: bytes, name: str) -> RGB:
        return np.asarray(np.minimum(decode_rgb(data, name), 252) + 3, np.uint8)

    monkeypatch.setattr(preprocess.check, "decode_rgb", brighter)
    found = check(pack_copy).faults
    assert len(found) == 24
    assert all("DALI decodes other pixels" in fault for fault in found)


def test_a_sample_missing_from_the_count_is_noticed(pack_copy: Path) -> None:
    samples = list(read_samples(pack_copy / NAME))
    expected = Manifest.load(pack_copy).splits["train"].shards[1].samples
    forge(pack_copy, NAME, 0, lambda parts: parts)
    record = write_shard(pack_copy, NAME, samples[1:])
    raw = json.loads((pack_copy / "manifest.json").read_text())
    shard = raw["splits"]["train"]["shards"][1]
    shard |= {"sha256": record.sha256, "index_sha256": record.index_sha256}
    (pack_copy / "manifest.json").write_text(json.dumps(raw))
    assert check(pack_copy).faults == (
        f"{pack_copy / NAME}: {expected - 1} samples read, {expected} in the manifest",
    )
