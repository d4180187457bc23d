"""Shards: plain deterministic tar files with DALI's index, whole or not there at all."""

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import webdataset
from common import files, write_shard

from preprocess.errors import InputError
from preprocess.files import file_sha256
from preprocess.manifest import Manifest
from preprocess.shards import index_path, read_samples

Samples = list[tuple[str, dict[str, bytes]]]

# Sizes around tar's blocks of 512 bytes.
SAMPLES: Samples = [
    (f"{size:05d}", {"jpg": b"j" * size, "json": b'{"a": 1}', "png": bytes(range(7))})
    for size in (0, 1, 511, 512, 513, 5000)
]


def written(root: Path, samples: Samples = SAMPLES) -> Path:
    write_shard(root, "train/eyes-000000.tar", samples)
    return root / "train" / "eyes-000000.tar"


def test_tar_holds_each_component_in_order(tmp_path: Path) -> None:
    with tarfile.open(written(tmp_path), "r:") as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    expected = {f"{key}.{kind}": data for key, parts in SAMPLES for kind, data in parts.items()}
    assert list(members.items()) == list(expected.items())


@pytest.mark.filterwarnings("ignore:unclosed file.*tar:ResourceWarning")  # webdataset's own
def test_the_index_and_webdataset_lead_to_the_same_samples(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert list(read_samples(path)) == SAMPLES
    read = [
        (row["__key__"], {extension: row[extension] for extension in ("jpg", "json", "png")})
        for row in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    assert read == SAMPLES


def test_indexes_equal_what_dalis_wds2idx_writes(pack_root: Path, tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx", reason="NVIDIA DALI is not installed")
    shards = [written(tmp_path), *sorted(pack_root.rglob("*.tar"))]
    assert len(shards) == 6
    for path in shards:
        with wds2idx.IndexCreator(str(path), str(tmp_path / "idx"), verbose=False) as creator:
            creator.create_index()
        assert index_path(path).read_bytes() == (tmp_path / "idx").read_bytes()


def test_same_samples_same_bytes_and_the_record_tells_them(tmp_path: Path) -> None:
    turned = [(key, dict(reversed(parts.items()))) for key, parts in SAMPLES]
    first = write_shard(tmp_path / "1", "val/eyes-000000.tar", SAMPLES)
    second = write_shard(tmp_path / "2", "val/eyes-000000.tar", turned)
    assert first == second
    assert files(tmp_path / "1") == files(tmp_path / "2")
    path = tmp_path / "1" / first.name
    data = path.read_bytes()
    assert (first.samples, first.bytes) == (6, len(data))
    assert first.sha256 == hashlib.sha256(data).hexdigest() == file_sha256(path)
    assert first.index_sha256 == file_sha256(index_path(path))
    assert (len(data) % 512, data[-1024:]) == (0, bytes(1024)), "tar's end mark"


def test_a_failure_half_way_keeps_what_was_there_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    path = written(tmp_path)
    before = files(tmp_path)

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield SAMPLES[0]
        assert list(path.parent.glob(".*.tmp")), "it is being written, under another name"
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        write_shard(tmp_path, "train/eyes-000000.tar", samples())
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    ["", "v1.2 2\njpg 512 9 7.jpg\n", "v1.1 1\njpg 512 9 7.jpg\n", "v1.2 1\njpg 512 9\n",
     "v1.2 1\njpg five 9 7.jpg\n", "v1.2 1\n\n", "v1.2\n", "v1.2 1\njpg 512 9 \xe4.jpg\n"],
)  # fmt: skip
def test_a_damaged_index_is_an_error_that_names_it(content: str, tmp_path: Path) -> None:
    shard = written(tmp_path)
    index_path(shard).write_text(content, "latin-1")
    with pytest.raises(InputError, match=r"eyes-000000\.idx: is no DALI index\. Pack again"):
        list(read_samples(shard))
    index_path(shard).unlink()
    with pytest.raises(InputError, match=r"eyes-000000\.idx: is missing\. Pack again"):
        list(read_samples(shard))


def test_the_manifest_comes_back_as_it_was_saved(pack_root: Path, tmp_path: Path) -> None:
    Manifest.load(pack_root).save(tmp_path)
    raw = (pack_root / "manifest.json").read_bytes()
    assert (tmp_path / "manifest.json").read_bytes() == raw


def test_a_damaged_manifest_is_an_error_that_names_it(pack_root: Path, tmp_path: Path) -> None:
    raw = (pack_root / "manifest.json").read_text()
    for old, new in {
        '"format_version": 2': '"format_version": 99', '"quality"': '"qualities"', "{": "",
        '"splits"': '"split"', '"train": {': '"training": {',
    }.items():  # fmt: skip
        assert old in raw
        (tmp_path / "manifest.json").write_text(raw.replace(old, new, 1))
        with pytest.raises(InputError, match=r"manifest\.json: cannot be read .*--overwrite"):
            Manifest.load(tmp_path)


def test_a_split_without_samples_lists_those_that_have(pack_root: Path) -> None:
    manifest = Manifest.load(pack_root)
    assert manifest.split("train").samples == 20
    with pytest.raises(InputError, match=r"'extra': holds no samples\. .*train \(20\), val \(2\)"):
        manifest.split("extra")
