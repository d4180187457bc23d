"""The packer's command line: exit codes, one-line errors, and a --help that costs nothing."""

import errno
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import common
import numpy as np
import pytest
from common import Patch, fails
from PIL import Image

from preprocess.cli import main
from preprocess.command import reports_errors
from preprocess.errors import DecodeError, InputError
from preprocess.manifest import Manifest, PackSettings

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tar:ResourceWarning")


call = partial(common.call, main)


def python(code: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=variables | environment)


PACKS = """
import sys
from preprocess.cli import main
main(sys.argv[1:], standalone_mode=False)
print("LOADED", *{"torch", "matplotlib", "nvidia"} & set(sys.modules))
"""


def test_packing_imports_no_torch(small: Path, tmp_path: Path) -> None:
    done = python(PACKS, "--data", small, "--out", tmp_path / "out", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert "process tuning: freed memory" in done.stderr
    assert "OMP_WAIT_POLICY=PASSIVE" in done.stderr
    done = python(
        "from preprocess.runtime import *; print(tune_process())", OMP_WAIT_POLICY="ACTIVE"
    )
    assert "OMP_WAIT_POLICY=ACTIVE" in done.stdout, "the user's own setting"


def test_pack_is_meant_where_no_command_is_given(faces: Path, tmp_path: Path) -> None:
    words = ["--data", faces, "--out", tmp_path / "out", "--size", 64, "--workers", 1, "--no-tune"]
    first, second = call(*words), call("pack", *words)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert "24 samples (20 train, 2 val, 2 test)" in first.output
    assert "packed 24 in" in first.output
    assert "dropped: 0" in first.output
    assert "process tuning off" in first.output
    assert "up to date, nothing to pack" in second.output
    assert "[default: 256]" in " ".join(call("pack", "--help").output.split())
    assert np.asarray(Image.open(tmp_path / "out" / "preview.png")).std() > 20


def test_every_option_reaches_the_pack(faces: Path, tmp_path: Path) -> None:
    words = (
        "--size 48 --quality 80 --samples-per-shard 5 --seed 3 --split val --workers 1 --no-tune"
    )
    done = call("--data", faces, "--out", tmp_path, *words.split())
    assert done.exit_code == 0, done.output
    manifest = Manifest.load(tmp_path)
    chosen = manifest.settings
    assert (chosen.size, chosen.quality, chosen.samples_per_shard, chosen.seed) == (48, 80, 5, 3)
    assert manifest.splits["val"].samples == 24
    assert "all val" in manifest.split_rule
    again = call("--data", faces, "--out", tmp_path, "--no-tune")
    assert again.exit_code == 2
    assert "--update" in again.stderr
    words = "--update --size 32 --workers 1 --no-tune"
    assert call("--data", faces, "--out", tmp_path, *words.split()).exit_code == 0
    assert Manifest.load(tmp_path).settings.size == 32


def test_summary_says_what_was_dropped_suspected_and_assumed(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    for number in range(14):
        Image.new("RGB", (20, 20), "grey").save(tmp_path / "in" / "images" / f"{number}.png")
        if number < 2:
            Image.new("L", (20, 20), 255).save(tmp_path / "in" / "masks" / f"{number}.png")
    done = call("--data", tmp_path / "in", "--out", tmp_path / "out", "--size", 32, "--no-tune")
    assert done.exit_code == 0, done.output
    assert "eyes: 2 images with one mask for both" in done.output
    assert "note: pairs of images and masks: split 80/10/10 by a hash" in done.output
    assert "dropped: 12" in done.output
    assert done.output.count("image without a mask") == 10
    assert f"... all are listed in {tmp_path / 'out' / 'manifest.json'}" in done.output


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--data no", "no: does not exist. Give a"),
        ("--data file", "file: is no zip"),
        ("--data empty", "empty: holds neither CelebA-HQ-img/ nor"),
        ("--data FACES --size 100", "--size: is 100. Expected a multiple of 16"),
        ("--data FACES --size 8", "--size: is 8. Expected 16 to 4096 pixels"),
        ("--data FACES --quality 0", "--quality: is 0. Expected 1 to 100"),
        ("--data FACES --samples-per-shard 0", "--samples-per-shard: is 0. Expected >= 1"),
        ("--data FACES --out file", "file: is a file. Give a folder"),
        ("--data FACES --out file/in", "file/in"),
        ("check --shards empty", "manifest.json: does not exist. Pack"),
        ("show --shards empty", "manifest.json: does not exist. Pack"),
        ("sample --out s --count 0", "count: is 0. Expected an integer"),
        ("sample --out own --count 1", "CelebA-HQ-img holds pictures"),
    ],
)
def test_mistakes_are_one_line_with_place_value_and_remedy(
    words: str, problem: str, faces: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("empty").mkdir()
    Path("own/CelebA-HQ-img").mkdir(parents=True)
    Path("own/CelebA-HQ-img/1.jpg").touch()
    fails(call(*words.replace("FACES", str(faces)).split()), problem)
    assert Path("file").read_text() == "mine"
    assert not Path("shards").exists()


@pytest.mark.parametrize(
    "words", ["", "--data", "--workers 0", "--split all", "chekc", "show --count 0"]
)
def test_wrong_usage_exits_with_2(words: str) -> None:
    done = call(*words.split())
    assert done.exit_code == 2
    assert "Error: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_check_exits_with_0_or_lists_faults(pack_root: Path, tmp_path: Path) -> None:
    good = call("check", "--shards", pack_root)
    assert good.exit_code == 0, good.output
    assert f"{pack_root}: 24 samples, read through webdataset" in good.output
    (tmp_path / "manifest.json").write_bytes((pack_root / "manifest.json").read_bytes())
    bad = call("check", "--shards", tmp_path)
    assert bad.exit_code == 2
    assert bad.stderr.splitlines()[0] == f"{tmp_path / 'train' / 'eyes-000000.tar'}: missing"
    assert bad.stderr.splitlines()[-1].endswith("5 faults. Pack again with --overwrite")


def test_show_draws_samples_and_names_what_it_cannot_read(pack_root: Path, tmp_path: Path) -> None:
    words = ["show", "--shards", pack_root, "--out", tmp_path / "a" / "grid.png", "--count", 2]
    assert call(*words, "--split", "val").exit_code == 0
    with Image.open(tmp_path / "a" / "grid.png") as picture:
        assert picture.size == (4 * (128 + 4) + 4, 64 + 14 + 8), "close-ups at four times the size"
    (tmp_path / "manifest.json").write_bytes((pack_root / "manifest.json").read_bytes())
    gone = call("show", "--shards", tmp_path)
    fails(gone, "train/eyes-000000.tar: No such file or directory", "Check the path")


def test_interrupt_and_system_errors_have_their_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cases: list[tuple[BaseException, int, str]] = [
        (InputError("a.jpg", "is 3", "Expected 4"), 2, "Error: a.jpg: is 3. Expected 4\n"),
        (DecodeError("b", "is cut", "Copy it"), 2, "Error: b: is cut. Copy it\n"),
        (PermissionError(errno.EACCES, "No", "/x"), 2, "Error: /x: No. Check the path, its perm"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "Error: [Errno 28] No space left"),
        (KeyboardInterrupt(), 130, "Interrupted. What was finished is kept.\n"),
    ]  # fmt: skip
    for error, code, text in cases:

        @reports_errors
        def command(error: BaseException = error) -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            command()
        assert ended.value.code == code
        shown = capsys.readouterr().err
        assert shown.startswith(text)
        assert shown.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        reports_errors(lambda: 1 / 0)()


def test_the_help_repeats_the_defaults() -> None:
    said = " ".join(call("pack", "--help").output.split())
    for name in ("size", "quality", "samples_per_shard", "seed"):
        words = said.partition(f"--{name.replace('_', '-')} ")[2].partition(" --")[0]
        assert words.endswith(f"[default: {getattr(PackSettings(), name)}]"), words
