"""Packing on a bad day: full disks, two runs in one folder, damaged records."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from common import IMAGES, MASKS, ROOT, call, encoded, fails, files
from PIL import Image

from preprocess.celebamask import read_plan
from preprocess.cli import main
from preprocess.errors import DecodeError, InputError
from preprocess.files import atomic_file, locked
from preprocess.manifest import Manifest, PackSettings
from preprocess.pack import PackConfig, PackReport, pack

MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
PARTS = f"{MASKS}/0"
SETTINGS = PackSettings(size=32, samples_per_shard=8)


def run(source: Path, out: Path) -> PackReport:
    return pack(PackConfig(source, out, SETTINGS, workers=1))


PACKS = """
import resource, sys
from preprocess.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
main(sys.argv[2:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of a file's size")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_names_the_file_and_keeps_what_is_packed(
    workers: int, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    last = run(source, tmp_path / "whole").manifest.splits["train"].shards[-1]
    index = (tmp_path / "whole" / last.name).with_suffix(".idx").read_text()
    photo = source / IMAGES / f"{int(index.split()[5].partition('.')[0])}.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    photo.write_bytes(encoded(Image.fromarray(noise), "JPEG", quality=98))
    report = run(source, tmp_path / "noisy")
    most = max(shard.bytes for shard in report.manifest.shards)
    assert [s.name for s in report.manifest.shards if s.bytes == most] == [last.name]
    words = ["--data", source, "--out", out, "--size", "32", "--samples-per-shard", "8"]
    done = subprocess.run(
        [sys.executable, "-c", PACKS, str(most - 1), *map(str, words), "--workers", str(workers)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"{out / last.name}: File too large" in done.stderr
    assert "free space" in done.stderr
    kept = set(files(out, ".json"))
    assert not list(out.rglob(".*.tmp"))
    assert kept, "the small shards fit"
    before = {name: (out / name).stat().st_mtime_ns for name in kept}
    assert call(main, *words, "--workers", 1).exit_code == 0
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == before


def test_a_disk_that_turns_read_only_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with pytest.raises(OSError, match="a directory") as caught, atomic_file(tmp_path):
        pass
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(OSError, match="Read-only") as caught, atomic_file(tmp_path / "a") as file:  # noqa: PT012
        file.write(b"?")
        monkeypatch.setattr(os, "fsync", refuse)
        monkeypatch.setattr(Path, "unlink", refuse)
    assert caught.value.filename == str(tmp_path / "a")


def test_a_second_run_in_one_folder_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out):
        done = call(main, "--data", source, "--out", out)
        fails(done, f"{out}: is in use by another run", "Wait until it ends")
        assert sorted(path.name for path in out.iterdir()) == [".lock"]
    assert run(source, out).packed == 40


HOLDS = """
import sys, time
from pathlib import Path
from preprocess.files import locked
with locked(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_lock_dies_with_its_owner_and_what_it_left_goes(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out)
    command = [sys.executable, "-c", HOLDS, str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mine\n"
        with pytest.raises(InputError, match="in use"), locked(out):
            pass
        process.kill()
    left = [out / ".manifest.json.99.tmp", out / "val" / ".eyes-000000.tar.99.tmp"]
    for path in left:
        path.write_bytes(b"half")
    assert run(source, out).packed == 0
    assert not any(path.exists() for path in left)


def test_a_photograph_beyond_the_limit_is_left_out_until_it_is_raised(
    source: Path, tmp_path: Path
) -> None:
    large = encoded(Image.new("RGB", (300, 300)), "JPEG")
    (source / IMAGES / "3.jpg").write_bytes(large)
    words = ["--data", source, "--out", tmp_path / "out", "--size", 32, "--workers", 1]
    done = call(main, *words, "--max-megapixels", 0.08)
    assert "3.jpg: has 300 x 300 pixels, more than 0.08 megapixels" in done.output
    assert call(main, *words, "--overwrite").exit_code == 0
    assert Manifest.load(tmp_path / "out").samples == 40


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "masks" / "a.png").write_bytes(b"?")
    with (tmp_path / "images" / "a.jpg").open("wb") as file:
        file.truncate(600 << 20)
    (sample,) = read_plan(tmp_path).samples
    with pytest.raises(DecodeError, match=r"a\.jpg: holds 6.29e\+08 bytes, more than 512 MiB"):
        sample.image.read(tmp_path)


def test_records_of_other_types_are_packed_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = run(source, out).manifest
    record = out / "train" / "eyes-000001.json"
    whole = json.loads(record.read_text())
    for damage in (
        "[" * 100_000, "[]", json.dumps(whole | {"eyes": 3}), json.dumps(whole | {"dropped": {}}),
        json.dumps(whole | {"shard": whole["shard"] | {"bytes": "9"}}),
        json.dumps(whole | {"shard": whole["shard"] | {"name": "../../etc/eyes-000000.tar"}}),
        json.dumps(whole | {"shard": whole["shard"] | {"name": "train/eyes-000000.tar"}}),
        json.dumps(whole | {"shard": whole["shard"] | {"samples": 7}}),
    ):  # fmt: skip
        record.write_text(damage)
        assert run(source, out).manifest == before
        assert json.loads(record.read_text()) == whole
