"""The packer's command line: exit codes, one-line errors, and a --help that costs nothing."""

import errno
from functools import partial
from pathlib import Path

import common
import numpy as np
import pytest
from common import Patch, fails, loaded
from PIL import Image

from preprocess.cli import main
from preprocess.command import reports_errors
from preprocess.errors import DecodeError, InputError
from preprocess.manifest import Manifest, PackSettings

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tar:ResourceWarning")


call = partial(common.call, main)


def test_pack_is_the_default_command(faces: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    words = ["--data", faces, "--out", tmp_path / "out", "--size", 64, "--workers", 1]
    assert not loaded("preprocess", *words) & {"torch", "matplotlib", "nvidia"}
    assert np.asarray(Image.open(tmp_path / "out" / "preview.png")).std() > 20
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    first, second = call(*words, "--overwrite", "--size", 48), call("pack", *words, "--no-tune")
    for part in ("24 samples (20 train, 2 val, 2 test)", "packed 24 in", "dropped: 0",
                 "process tuning: freed memory", "OMP_WAIT_POLICY=ACTIVE"):  # fmt: skip
        assert part in first.output, "the user's own OMP_WAIT_POLICY is kept"
    fails(second, "manifest.json: describes a pack of other photographs or other settings")
    last = call("pack", *words, "--size", 48, "--no-tune")
    for part in ("process tuning off", "up to date, nothing to pack"):
        assert part in last.output


def test_the_help_repeats_the_defaults() -> None:
    said = " ".join(call("pack", "--help").output.split())
    for name in ("size", "quality", "samples_per_shard", "seed"):
        words = said.partition(f"--{name.replace('_', '-')} ")[2].partition(" --")[0]
        assert words.endswith(f"[default: {getattr(PackSettings(), name)}]"), words


def test_every_option_reaches_the_pack(faces: Path, tmp_path: Path) -> None:
    words = (
        "--size 48 --quality 80 --samples-per-shard 5 --seed 3 --split val --workers 1 --no-tune"
    )
    done = call("--data", faces, "--out", tmp_path, *words.split())
    assert done.exit_code == 0, done.output
    manifest = Manifest.load(tmp_path)
    expected = PackSettings(size=48, quality=80, samples_per_shard=5, seed=3)
    assert (manifest.settings, manifest.split_rule) == (expected, "all val")
    assert manifest.splits["val"].samples == 24
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
    for part in (
        "eyes: 2 images with one mask for both", "dropped: 12",
        "note: pairs of images and masks: split 80/10/10 by a hash",
        f"... all are listed in {tmp_path / 'out' / 'manifest.json'}",
    ):  # fmt: skip
        assert part in done.output
    assert done.output.count("image without a mask") == 10


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
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_check_exits_with_0_or_lists_faults(pack_root: Path, tmp_path: Path) -> None:
    good = call("check", "--shards", pack_root)
    assert good.exit_code == 0, good.output
    assert f"{pack_root}: 24 samples, read through webdataset" in good.output
    (tmp_path / "manifest.json").write_bytes((pack_root / "manifest.json").read_bytes())
    bad = call("check", "--shards", tmp_path)
    first, *_, last = bad.stderr.splitlines()
    assert (bad.exit_code, first) == (2, f"{tmp_path / 'train' / 'eyes-000000.tar'}: missing")
    assert last.endswith("5 faults. Pack again with --overwrite")
    fails(call("show", "--shards", tmp_path), "eyes-000000.tar: No such file", "Check the path")


def test_show_draws_samples(pack_root: Path, tmp_path: Path) -> None:
    words = ["show", "--shards", pack_root, "--out", tmp_path / "a" / "grid.png", "--count", 2]
    assert call(*words, "--split", "val").exit_code == 0
    with Image.open(tmp_path / "a" / "grid.png") as picture:
        assert picture.size == (4 * (128 + 4) + 4, 64 + 14 + 8), "close-ups at four times the size"


def test_interrupt_and_errors_have_exit_codes(
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
