"""What `pip install` and a source archive hold: all that runs, and all that tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from common import files, python
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BUILD = """
import sys
from hatchling import build as build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what git would check out: building must not depend on anything else."""
    place = tmp_path_factory.mktemp("checkout")
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    for name in names.splitlines():
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    return place


def build(checkout: Path, kind: str, out: Path, umask: int = -1) -> Path:
    done = python("-c", BUILD, f"build_{kind}", out, cwd=checkout, umask=umask)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def test_a_wheel_segments_on_its_own_and_brings_no_training_framework(
    checkout: Path, photo: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(build(checkout, "wheel", tmp_path)) as wheel:
        wheel.extractall(tmp_path / "site")
        (facts,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        needs = [line for line in wheel.read(facts).decode().splitlines()
                 if line.startswith("Requires-Dist") and "extra ==" not in line]  # fmt: skip
    assert not any(heavy in line for line in needs for heavy in ("torch", "dali", "matplotlib"))
    alone, words = {"PYTHONPATH": str(tmp_path / "site")}, ("--image", photo, "--output", "a.png")
    done = python("-m", "infer", *words, cwd=tmp_path, env=alone)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a.png") as panel:
        assert panel.size[0] == 3 * 256


def test_a_source_archive_holds_tests_docs_and_makefile(checkout: Path, tmp_path: Path) -> None:
    shutil.rmtree(checkout / "build", ignore_errors=True)  # left by a wheel
    with tarfile.open(build(checkout, "sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kinds = (".py", ".md", ".png", ".toml", ".onnx", ".sha256")
    wanted = set(files(checkout, *kinds))
    assert wanted | {"Makefile", "LICENSE", "constraints.txt", ".ci/run"} <= names


def test_a_wheel_holds_the_page_that_was_built_and_no_archive_its_tools(
    checkout: Path, tmp_path: Path
) -> None:
    page = checkout / "infer" / "page"
    for name in ("dist/index.html", "dist/1234/main.js", "node_modules/a/a.js", "data/a.json"):
        (page / name).parent.mkdir(parents=True, exist_ok=True)
        (page / name).write_text("made")
    try:
        with zipfile.ZipFile(build(checkout, "wheel", tmp_path)) as wheel:
            held = {name for name in wheel.namelist() if name.startswith("infer/page/")}
        with tarfile.open(build(checkout, "sdist", tmp_path)) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
    finally:
        for name in ("dist", "node_modules", "data"):
            shutil.rmtree(page / name)
    assert held == {"infer/page/dist/index.html", "infer/page/dist/1234/main.js"}
    assert {"infer/page/src/main.ts", "infer/page/package-lock.json"} <= names
    assert not any(f"infer/page/{made}/" in name for made in ("dist", "node_modules", "data")
                   for name in names)  # fmt: skip


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_another_checkout_at_another_time_builds_the_same_bytes(
    checkout: Path, tmp_path: Path, kind: str
) -> None:
    other, outs = tmp_path / "other", (tmp_path / "one", tmp_path / "two")
    every = [path for path in checkout.rglob("*") if path.is_file()]
    for path in reversed(every):  # a file system may list files as they came
        copy = other / path.relative_to(checkout)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        copy.chmod(path.stat().st_mode & 0o700)  # as umask 077 leaves it
        os.utime(copy, (10**9, 10**9))
    for out in outs:
        out.mkdir()
    one, two = build(checkout, kind, outs[0]), build(other, kind, outs[1], umask=0o077)
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()


def test_licences_of_all_that_is_needed_are_allowed_and_an_unknown_one_is_refused(
    tmp_path: Path,
) -> None:
    done = python(ROOT / ".ci" / "licences.py")
    assert done.returncode == 0, done.stderr
    assert {"click", "torch", "pytest"} <= {line.split()[0] for line in done.stdout.splitlines()}
    for name, said in (("click", "License: MIT AND GPL-3.0-only"), ("tqdm", "Keywords: bar")):
        facts = tmp_path / f"{name}-9.0.dist-info" / "METADATA"
        facts.parent.mkdir()
        facts.write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 9.0\n{said}\n")
    done = python(ROOT / ".ci" / "licences.py", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("Error: click 9.0: GPL-3.0-only is not")
    assert second.startswith("Error: tqdm 9.0: none stated is not")


def test_every_pin_has_its_hashes() -> None:
    """The other lines of hashes.txt are what other systems need."""
    pins, hashed = ((ROOT / name).read_text() for name in ("constraints.txt", ".ci/hashes.txt"))
    for pin in (line for line in pins.splitlines() if "==" in line and line[0] != "#"):
        name = re.escape(pin.lower().replace("_", "-"))
        assert re.search(rf"^{name}\b.*\n    --hash=sha256:[0-9a-f]{{64}}", hashed, re.M)
