"""Packs from elsewhere, whose checksums fit what is damaged."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from common import blank_png, call, encoded, fails, forge, limited
from PIL import Image

from preprocess.check import check
from preprocess.cli import main
from preprocess.errors import InputError
from preprocess.files import file_sha256
from preprocess.manifest import Manifest
from preprocess.shards import ShardIndex, index_path, read_samples

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tar:ResourceWarning")

NAME = "train/eyes-000001.tar"
CHECKS = """
import sys
from pathlib import Path
from preprocess.check import check
for fault in check(Path(sys.argv[1])).faults:
    print(fault)
"""


def fitting(root: Path) -> None:
    """Make the manifest's checksums and size those of the files."""
    manifest = Manifest.load(root)
    train = manifest.splits["train"]
    shards = tuple(
        replace(
            shard, sha256=file_sha256(root / shard.name), bytes=(root / shard.name).stat().st_size,
            index_sha256=file_sha256(index_path(root / shard.name)),
        )
        for shard in train.shards
    )  # fmt: skip
    replace(manifest, splits=manifest.splits | {"train": replace(train, shards=shards)}).save(root)


def moved(line: str, offset: int, size: int) -> str:
    fields = line.split()
    fields[1:3] = [str(offset), str(size)]
    return " ".join(fields)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(10**12, 900), (512, 2**40), (-512, 900), (512, -1), (0, 10), (2**70, 2**70), (1024, 300)],
)
def test_an_index_that_points_elsewhere_is_a_fault_not_a_crash(
    offset: int, size: int, pack_copy: Path
) -> None:
    index = index_path(pack_copy / NAME)
    head, first, *rest = index.read_text().splitlines()
    index.write_text("\n".join([head, moved(first, offset, size), *rest, ""]))
    fitting(pack_copy)
    (fault,) = check(pack_copy).faults
    assert fault.startswith(f"{pack_copy / NAME}: ")
    if (offset, size) != (1024, 300):  # that is within the shard: training compares the names
        with pytest.raises(InputError, match=r"eyes-000001\.idx: is no DALI index"):
            ShardIndex.read(pack_copy / NAME).entry(0)
        with pytest.raises(InputError, match="is no DALI index"):
            list(read_samples(pack_copy / NAME))


@pytest.mark.parametrize("damage", ["names", "twice", "tar"])
def test_a_tar_and_an_index_that_differ_are_a_fault(damage: str, pack_copy: Path) -> None:
    path = pack_copy / NAME
    lines = index_path(path).read_text().splitlines()
    if damage == "names":
        lines[1] = lines[1].replace(".jpg", ".jpeg").replace("jpg ", "jpeg ")
    elif damage == "twice":
        lines[2] = lines[1]
    else:
        data = bytearray(path.read_bytes())
        data[100:600] = bytes(500)
        path.write_bytes(data)
    index_path(path).write_text("\n".join([*lines, ""]))
    fitting(pack_copy)
    (fault,) = check(pack_copy).faults
    assert fault.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("png", blank_png(50_000, 50_000, 0)),
        ("png", b"?"),
        ("png", encoded(Image.new("RGB", (64, 64)))),
        ("jpg", b""),
        ("jpg", encoded(Image.new("RGB", (65, 64)), "JPEG")),
        ("jpg", encoded(Image.new("RGB", (64, 64)), "JPEG").replace(
            struct.pack(">HH", 64, 64), struct.pack(">HH", 65_000, 65_000))),
        ("json", b"[" * 100_000), ("json", b"[]"), ("json", b'{"area": 3}'), ("json", b"\xff"),
    ],
)  # fmt: skip
def test_samples_of_any_content_are_faults_in_little_memory(
    part: str, content: bytes, pack_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given_to_dali(path: Path, _: int) -> list[str]:
        seen.append(path)
        return []

    seen: list[Path] = []
    key = forge(pack_copy, NAME, 0, lambda parts: parts | {part: content})
    monkeypatch.setattr("preprocess.check._check_dali", given_to_dali)
    monkeypatch.setattr("preprocess.check.dali_is_installed", lambda: True)
    faults = check(pack_copy).faults
    assert faults
    assert len(seen) == 4
    assert pack_copy / NAME not in seen
    assert all(fault.startswith(f"{pack_copy / NAME}, {key}: ") for fault in faults)


def test_dali_never_sees_a_damaged_shard(pack_copy: Path) -> None:
    key = forge(pack_copy, NAME, 0, lambda parts: parts | {"png": blank_png(50_000, 50_000, 0)})
    (fault,) = limited(CHECKS, pack_copy, megabytes=20_000).splitlines()
    assert fault.startswith(f"{pack_copy / NAME}, {key}: cannot be read")


def test_a_shard_without_photographs_cannot_be_shown(pack_copy: Path, tmp_path: Path) -> None:
    words = ("show", "--shards", pack_copy, "--out", tmp_path / "grid.png")
    forge(pack_copy, "train/eyes-000000.tar", 0, lambda parts: {"json": parts["json"]})
    fails(call(main, *words), "cannot be decoded as an image")
    small = encoded(Image.new("RGB", (32, 16)), "JPEG")
    forge(pack_copy, "train/eyes-000000.tar", 1, lambda parts: parts | {"jpg": small})
    forge(pack_copy, "train/eyes-000000.tar", 0, lambda parts: parts | {"jpg": small, "png": b""})
    fails(call(main, *words), "cannot be decoded as a label map")


def without_val(content: dict[str, Any]) -> None:
    del content["splits"]["val"]


def with_path(content: dict[str, Any]) -> None:
    content["splits"]["train"]["shards"][0]["name"] = "train/../../../etc/passwd"


def other(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        without_val,
        with_path,
        other("splits", value=[]),
        other("splits", "train", value=None),
        other("splits", "train", "samples", value="20"),
        other("splits", "train", "samples", value=21),
        other("splits", "train", "shards", value={}),
        other("splits", "train", "shards", 0, "bytes", value=-1),
        other("splits", "train", "eyes", value={"three": 1}),
        other("splits", "train", "shards", 0, "sha256", value=7),
        other("settings", "size", value=10**9),
        other("settings", "size", value="64"),
        other("settings", "labels", value=[1]),
        other("dropped", value=[["a", "b"]]),
        other("notes", value="abc"),
        other("format_version", value="2"),
        other("source", value=None),
    ],
)
def test_a_manifest_of_other_types_is_an_error_that_names_it(
    change: Callable[[dict[str, Any]], None], pack_root: Path, tmp_path: Path
) -> None:
    content = json.loads((pack_root / "manifest.json").read_text())
    change(content)
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    for words in (("check", "--shards", tmp_path), ("show", "--shards", tmp_path)):
        fails(call(main, *words), "manifest.json: cannot be read", "Pack again with --overwrite")


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "3", "null", '{"a": ' * 50_000, "\udcff"])
def test_a_manifest_that_is_no_record_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read"):
        Manifest.load(tmp_path)
