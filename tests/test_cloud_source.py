"""A source in object storage: a zip, or a folder of objects."""

import zipfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import common
import pytest
from common import IMAGES, MASKS, Patch, fails, files
from s3 import Proxy

from preprocess.celebamask import read_plan
from preprocess.cli import main
from preprocess.errors import DecodeError, InputError, UnreadError
from preprocess.manifest import Manifest, PackSettings
from preprocess.pack import PackConfig, pack
from preprocess.storage import Remote

call = partial(common.call, main)
SETTINGS = PackSettings(size=64, samples_per_shard=8)
SMALL = ("--samples-per-shard", 8, "--workers", 1)


@pytest.fixture(scope="module")
def zipped(server: type[Proxy], faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The faces in a zip, here and as s3://faces/faces.zip; half of them with a long header."""
    path = tmp_path_factory.mktemp("zip") / "faces.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number, photo in enumerate(sorted(p for p in faces.rglob("*") if p.is_file())):
            entry = zipfile.ZipInfo(photo.relative_to(faces).as_posix())
            entry.compress_type = zipfile.ZIP_DEFLATED if number % 3 else zipfile.ZIP_STORED
            entry.extra = b"\xfe\xca\xc8\0" + bytes(200) if number % 2 else b""
            file.writestr(entry, photo.read_bytes())
    Remote("s3://faces/faces.zip").put(path)
    return path


def test_a_zip_there_gives_the_pack_of_the_zip_here_and_is_read_by_range(
    zipped: Path, proxy: type[Proxy], tmp_path: Path
) -> None:
    for data, out in ((zipped, "here"), ("s3://faces/faces.zip", "there")):
        done = call("--data", data, "--out", tmp_path / out, "--size", 64, *SMALL)
        assert done.exit_code == 0, done.output
    assert files(tmp_path / "there") == files(tmp_path / "here")
    parts = [request for request in proxy.seen.elements() if "faces.zip bytes=" in request]
    with zipfile.ZipFile(zipped) as file:
        long = [entry for entry in file.infolist() if entry.extra]
        most = len(file.infolist()) + len(long) + 10
    assert len(long) > 20
    assert len(parts) < most, "a member is a request, or two"
    assert not any(r.startswith("GET") and r.endswith("faces.zip ") for r in proxy.seen)


def test_a_zip_survives_what_a_network_does_now_and_then(
    faults: tuple[str, ...], zipped: Path, proxy: type[Proxy], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(proxy, "where", "faces.zip")
    source, proxy.faults = Remote("s3://faces/faces.zip"), (*faults, "")
    first, second = (sample.members for sample in read_plan(source).samples[:2])
    for member in first:
        assert member.read(source) == member.read(zipped)
    proxy.faults, proxy.seen = faults, Counter()
    with pytest.raises(InputError, match=r"faces.zip: cannot be reached \(5 tries; ") as info:
        second[0].read(source)
    assert not isinstance(info.value, DecodeError), "it must not be taken for a bad photograph"
    assert list(proxy.seen.values()) == [5]


def test_zips_there_that_cannot_be_used_are_one_line(
    zipped: Path, proxy: type[Proxy], tmp_path: Path
) -> None:
    whole = zipped.read_bytes()
    for name, content in (("empty", b""), ("text", b"PK" * 5000), ("half", whole[:-9000])):
        (broken := Remote(f"s3://faces/{name}.zip")).put(content)
        fails(call("--data", broken, "--out", tmp_path), f"{broken}: is no zip (")
    problem = "s3://faces/none: is no zip, and no object is below it"
    fails(call("--data", "s3://faces/none", "--out", tmp_path), problem)


def test_a_member_past_the_end_is_left_out_and_asked_for_by_nobody(
    zipped: Path, proxy: type[Proxy], tmp_path: Path
) -> None:
    data = bytearray(zipped.read_bytes())
    at = data.rfind(f"{IMAGES}/7.jpg".encode()) - 46  # of its entry in the list
    assert data[at : at + 4] == b"PK\1\2"
    data[at + 42 : at + 46] = (len(data) - 50).to_bytes(4, "little")
    Remote("s3://faces/odd.zip").put(bytes(data))
    proxy.seen = Counter()
    report = pack(PackConfig(Remote("s3://faces/odd.zip"), tmp_path, SETTINGS, workers=1))
    (row,) = report.manifest.dropped
    assert row.key == "00007"
    assert "is damaged in the zip" in row.reason
    assert max(count for request, count in proxy.seen.items() if "bytes=" in request) == 1


def test_a_folder_there_gives_the_pack_of_the_folder_here(
    server: type[Proxy], small: Path, proxy: type[Proxy], tmp_path: Path
) -> None:
    names = [path.relative_to(small).as_posix() for path in small.rglob("*.*")]
    for name in names:
        Remote(f"s3://faces/official/{name}").put(small / name)
    Remote(f"s3://faces/official/{IMAGES}/.hidden.jpg").put(b"no photograph")
    Remote(f"s3://faces/official-too/{IMAGES}/9999.jpg").put(b"not meant")
    proxy.seen = Counter()
    for data, out in ((small, "here"), ("s3://faces/official/", "there")):
        done = call("--data", data, "--out", tmp_path / out, "--size", 64, *SMALL)
        assert done.exit_code == 0, done.output
    assert files(tmp_path / "there", ".tar") == files(tmp_path / "here", ".tar") != {}
    here, there = (Manifest.load(tmp_path / out) for out in ("here", "there"))
    assert replace(there, source=here.source) == here
    reads = Counter(request for request in proxy.seen.elements() if " bytes=" in request)
    assert set(reads.values()) == {1}, "a file is a request"
    assert len(reads) <= len(names)


def test_an_object_that_vanishes_is_left_out_and_tried_again(
    server: type[Proxy], small: Path, tmp_path: Path
) -> None:
    source = Remote("s3://faces/some")
    for name in (f"{IMAGES}/0.jpg", f"{IMAGES}/1.jpg", f"{MASKS}/0/00000_l_eye.png"):
        photo = next((small / IMAGES).iterdir()) if name.endswith("jpg") else None
        mask = next((small / MASKS).rglob("*_l_eye.png"))
        (source / name).put(photo or mask)
    plan = read_plan(source)
    (source / IMAGES / "1.jpg").unlink()
    with pytest.raises(UnreadError, match=r"some/CelebA-HQ-img/1.jpg: cannot be read"):
        plan.samples[1].image.read(source)
