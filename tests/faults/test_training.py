"""Training on a bad day: a full disk, a second run, changed shards, a loss that is no number."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from common import call, fails, flip, python, tiny

from preprocess.errors import InputError
from preprocess.files import locked
from preprocess.manifest import Manifest
from preprocess.runtime import dali_is_installed
from preprocess.shards import ShardIndex, index_path
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_file, epoch_files
from train.cli import main
from train.config import TrainConfig
from train.evaluate import evaluate_checkpoint
from train.loop import fit
from train.run_folder import NON_FINITE_FILE, read_run
from train.split import Split
from train.step import TrainStep

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which file a number is")
WITH_DALI = pytest.mark.skipif(not dali_is_installed(), reason="NVIDIA DALI is not installed")
LOADERS = [pytest.param("dali", marks=WITH_DALI), "portable"]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list: files whose names have a part of it find the disk full."""
    names: list[str] = []
    sync = os.fsync

    def full(number: int) -> None:
        if any(name in str(Path(f"/proc/self/fd/{number}").readlink()) for name in names):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(number)

    monkeypatch.setattr(os, "fsync", full)
    return names


@LINUX
@pytest.mark.parametrize(
    "name",
    ["settings.json", MODEL_FILE, "history.jsonl", "model_checkpoint_epoch_2.pth",
     "training_history.png", "sample_predictions.png"],
)  # fmt: skip
def test_a_full_disk_names_the_file_and_leaves_the_rest_whole(
    pack_root: Path, tmp_path: Path, full_disk: list[str], name: str
) -> None:
    full_disk.append(name)
    with pytest.raises(InputError) as full:
        fit(tiny(pack_root, tmp_path))
    assert str(full.value).startswith(f"{tmp_path / name}: No space left on device. ")
    assert "free space; then go on with --resume" in str(full.value)
    assert not list(tmp_path.glob(".*.tmp"))
    for path in epoch_files(tmp_path):
        Checkpoint.load(path)
    full_disk.clear()
    assert len(fit(tiny(pack_root, tmp_path), resume=True).history) == 2
    assert len(read_run(tmp_path)[1]) == 2


SMALL_FILES = """
import resource, sys
import train.cli
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
train.cli.main(sys.argv[2:])
"""


@LINUX
def test_a_file_that_the_system_cuts_off_ends_with_code_2(pack_root: Path, tmp_path: Path) -> None:
    """Weights of the usual network take 8 MB; its training state takes more than twice that."""
    words = ("--shards", pack_root, "--output", tmp_path, "--epochs", "1", "--batch", "8")
    command = [sys.executable, "-c", SMALL_FILES, "12000000", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    assert f"Error: {epoch_file(tmp_path, 1)}: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert Checkpoint.load(tmp_path / MODEL_FILE).epoch == 1
    assert len(read_run(tmp_path)[1]) == 1


@pytest.mark.parametrize("place", ["file", "file/below", "/sys/eyes"])
def test_a_place_that_cannot_be_written_is_named(
    pack_root: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / place
    fails(call(main, "--shards", pack_root, "--output", output), str(output), "permissions")


HOLD = """
import sys, time
from pathlib import Path
from preprocess.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_in_the_folder_is_refused_until_the_first_has_ended(
    pack_root: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout
            assert owner.stdout.readline() == "held\n"
            words = ("--shards", pack_root, "--output", tmp_path, "--epochs", "1")
            fails(call(main, *words), str(tmp_path), "is in use by another run", "Wait until")
            with pytest.raises(InputError, match="in use by another run"), locked(tmp_path):
                pass
        finally:
            owner.kill()
    assert len(fit(tiny(pack_root, tmp_path, epochs=1)).history) == 1
    with locked(tmp_path):
        pass


def changed(root: Path, split: str = "train", shard: int = 1) -> Path:
    """Flip a bit of a photograph's first row in a shard, which still decodes; return the shard."""
    path = root / Manifest.load(root).split(split).shards[shard].name
    ((_, offset, _, _),) = [c for c in ShardIndex.read(path).entry(1).components if c[0] == "jpg"]
    data = path.read_bytes()
    flip(path, data.index(b"\xff\xda", offset) + 40)
    return path


@pytest.mark.parametrize("cache", ["off", "1"])
@pytest.mark.parametrize("loader", LOADERS)
def test_a_shard_that_changed_is_found_in_the_first_epoch(
    pack_copy: Path, tmp_path: Path, loader: str, cache: str
) -> None:
    path = changed(pack_copy)
    output = tmp_path / "run"
    words = ("--shards", pack_copy, "--output", output, "--epochs", "2", "--batch", "4",
             "--loader", loader, "--cache", cache)  # fmt: skip
    done = call(main, *words)
    assert done.exit_code == 2
    assert f"Error: {path}: has changed since it was packed" in done.stderr
    assert "make shards" in done.stderr
    assert not epoch_files(output), "the first epoch is not finished"
    if cache == "off":
        assert call(main, *words, "--verify", "off").exit_code == 0


INTERRUPTED = """
import sys, threading
from train.cli import main
start = threading.Thread.start
def interrupted(thread):
    start(thread)
    if thread.name.startswith(sys.argv[1]):
        raise KeyboardInterrupt
threading.Thread.start = interrupted
main(sys.argv[2:])
"""


@pytest.mark.parametrize("name", ["verify", "ThreadPoolExecutor"])
def test_a_ctrl_c_while_a_thread_is_being_started_ends_the_process(
    pack_root: Path, tmp_path: Path, name: str
) -> None:
    words = ("--shards", pack_root, "--output", tmp_path, "--epochs", 1, "--loader", "portable")
    done = python("-c", INTERRUPTED, name, *words, timeout=60)
    assert (done.returncode, done.stderr.splitlines()[-1][:12]) == (130, "Interrupted."), (
        done.stderr
    )


def test_an_evaluation_finds_a_changed_shard_too(
    whole: TrainConfig, pack_copy: Path, tmp_path: Path
) -> None:
    changed(pack_copy, "test", 0)
    model = whole.output / MODEL_FILE
    with pytest.raises(InputError, match="test/eyes-000000.tar: has changed since it was packed"):
        evaluate_checkpoint(model, pack_copy, "test", loader="portable")
    run = evaluate_checkpoint(model, pack_copy, "test", loader="portable", verify="off")
    assert run.evaluation.metrics.images == 2


def test_a_stale_index_is_refused(pack_copy: Path) -> None:
    """An index of as many lines that swaps two samples: nothing but its checksum tells."""
    path = index_path(pack_copy / Manifest.load(pack_copy).split("train").shards[0].name)
    head, one, other, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, other, one, *lines, ""]))
    with pytest.raises(InputError, match=f"{path.name}: differs from the manifest.*make shards"):
        Split.open(pack_copy, "train")
    assert Split.open(pack_copy, "train", verify=False).samples == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_the_samples(
    pack_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    compute, seen = TrainStep._compute, []

    def spoilt(self: TrainStep, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        loss = compute(self, images, masks)
        return loss * value if len(seen) == 14 else loss  # the fourth step of the second epoch

    monkeypatch.setattr(TrainStep, "_compute", spoilt)
    config = tiny(pack_root, tmp_path)
    with pytest.raises(InputError) as refused:
        fit(config)
    split = Split.open(pack_root, "train")
    keys = split.keys(split.shuffled(config.batch, config.seed, 1)[3])
    assert f"in epoch 2, first on the samples {', '.join(keys)}. Lower --lr" in str(refused.value)
    assert str(tmp_path / NON_FINITE_FILE) in str(refused.value)
    said = json.loads((tmp_path / NON_FINITE_FILE).read_text())
    assert said["samples"] == keys
    assert said["epoch"] == 2
    assert [record.epoch for record in read_run(tmp_path)[1]] == [1], "the first epoch is kept"
    monkeypatch.setattr(TrainStep, "_compute", compute)
    fit(replace(config, seed=1, epochs=1))
    assert (tmp_path / "previous-001" / NON_FINITE_FILE).exists()
