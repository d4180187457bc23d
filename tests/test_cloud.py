"""Packs in object storage: the server of `s3`, which can misbehave."""

import json
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import common
import numpy as np
import pytest
import torch
from common import Patch, fails, files, loaded, tiny
from s3 import KEY, SECRET, Proxy, objects

import train.cli
from preprocess import storage
from preprocess.check import check
from preprocess.cli import main
from preprocess.errors import InputError
from preprocess.files import LOCK
from preprocess.manifest import Manifest, PackSettings
from preprocess.pack import PackConfig, pack
from preprocess.storage import Remote, place
from train.checkpoint import MODEL_FILE, Checkpoint, epoch_file
from train.evaluate import evaluate_checkpoint
from train.loop import fit
from train.run_folder import read_run
from train.split import Split

call = partial(common.call, main)
SETTINGS = PackSettings(size=64, samples_per_shard=8)
SMALL = ("--samples-per-shard", 8, "--workers", 1)


@pytest.fixture(scope="module")
def bucket(server: type[Proxy], faces: Path) -> Remote:
    """The pack of `pack_root`, packed straight to S3."""
    done = call("--data", faces, "--out", "s3://faces/pack/", "--size", 64, *SMALL)
    assert done.exit_code == 0, done.output
    return Remote("s3://faces/pack")


def test_the_bytes_are_those_of_a_local_pack_and_no_secret(bucket: Remote, pack_root: Path) -> None:
    there = objects(bucket)
    assert there.pop("preview.png")
    assert there == files(pack_root)  # which knows no key


def test_check_and_show_read_it(bucket: Remote, pack_root: Path, tmp_path: Path) -> None:
    assert check(bucket) == check(pack_root)
    for root, grid in ((bucket, "there.png"), (pack_root, "here.png")):
        assert call("show", "--shards", root, "--out", tmp_path / grid).exit_code == 0
    assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()


@pytest.mark.parametrize("loader", ["portable", "dali"])
def test_training_and_evaluation_are_those_of_a_local_pack(
    loader: str, bucket: Remote, pack_root: Path, tmp_path: Path, no_plots: None
) -> None:
    if loader == "dali":
        pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")
    runs = [fit(tiny(root, tmp_path / name, epochs=1, loader=loader, cache="off"))
            for name, root in (("there", bucket), ("here", pack_root))]  # fmt: skip
    assert runs[0].history[0].loss == runs[1].history[0].loss
    said = (tmp_path / "there" / "settings.json").read_text()
    assert json.loads(said)["settings"]["shards"] == str(bucket)
    assert not any(word in said for word in (KEY, SECRET))
    there, here = (evaluate_checkpoint(runs[0].model_path, root, "test", loader=loader).evaluation
                   for root in (bucket, pack_root))  # fmt: skip
    assert (there.loss, there.metrics) == (here.loss, here.metrics)


def test_packs_here_and_there_are_one_pool(bucket: Remote, pack_root: Path) -> None:
    split, local = Split.open_all([pack_root, bucket], "train"), Split.open(pack_root, "train")
    batches = [np.array(rows, np.int32) for rows in ([1, 21, 0], [39, 20])]
    wanted = [[one.jpg for one in local.read(rows % 20)] for rows in batches]
    assert [[one.jpg for one in batch] for batch in split.read_batches(batches)] == wanted
    assert [one.jpg for one in split.read(batches[0])] == wanted[0]


def test_samples_are_read_by_range(bucket: Remote, proxy: type[Proxy]) -> None:
    split = Split.open(bucket, "train", verify=False)
    split.keys(np.array([0], np.int32))
    proxy.seen = Counter()
    list(split.read_batches([np.array([1, 2], np.int32)]))
    assert list(proxy.seen.values()) == [1, 1]
    assert all("train/eyes-000000.tar bytes=" in request for request in proxy.seen)


def test_what_a_network_does_now_and_then_loses_nothing(
    faults: tuple[str, ...], bucket: Remote, pack_root: Path, proxy: type[Proxy], faces: Path
) -> None:
    proxy.faults = (*faults, "")
    split, local = Split.open(bucket, "train"), Split.open(pack_root, "train")
    batches = local.in_order(7)
    read = [[(one.jpg, one.png) for one in batch] for batch in split.read_batches(batches)]
    assert read == [[(one.jpg, one.png) for one in local.read(rows)] for rows in batches]
    split.verify()
    out = Remote(f"s3://faces/{faults[0]}")
    pack(PackConfig(faces, out, SETTINGS, workers=1))
    proxy.faults = ()
    assert objects(out) == files(pack_root)


def test_what_lasts_ends_after_five_tries_in_an_error_that_names_the_url(
    faults: tuple[str, ...], bucket: Remote, proxy: type[Proxy]
) -> None:
    split = Split.open(bucket, "train", verify=False)
    split.keys(np.array([0], np.int32))
    proxy.faults, proxy.seen = faults, Counter()
    with pytest.raises(InputError, match=r"s3://\S+00\.tar: cannot be reached \(5 tries; ") as info:
        list(split.read_batches([np.array([1], np.int32)]))
    assert list(proxy.seen.values()) == [5]
    assert KEY not in str(info.value)


@pytest.mark.parametrize("name", ["manifest.json", "train/eyes-000000.idx", "val/eyes-000000.json"])
def test_a_refusal_is_neither_tried_again_nor_taken_for_damage(
    name: str, bucket: Remote, proxy: type[Proxy], faces: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(proxy, "where", name)
    proxy.faults = ("403",)
    again = partial(pack, PackConfig(faces, bucket, SETTINGS, workers=1))
    with pytest.raises(InputError, match=f"^{bucket / name}: is refused. Check the credentials"):
        again() if name.startswith("val") else Split.open(bucket, "train")
    assert all(proxy.seen[request] == 1 for request in proxy.seen if name in request)


def test_what_was_changed_there_is_found(bucket: Remote, faces: Path) -> None:
    out = Remote("s3://faces/changed")
    pack(PackConfig(faces, out, SETTINGS, workers=1))
    shard = out / Manifest.load(out).split("train").shards[1].name
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.put(bytes(data))
    assert check(out).faults == (f"{shard}: sha256 differs from the manifest's",)
    split = Split.open(out, "train")
    list(split.read_batches([np.array([8], np.int32)]))
    with pytest.raises(InputError, match=f"{shard}: has changed since it was packed"):
        split.verify()
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard}: is missing"):
        Split.open(out, "train")
    assert pack(PackConfig(faces, out, SETTINGS, workers=1)).packed == 8


def test_a_killed_run_goes_on_and_foreign_objects_stay(
    small: Path, tmp_path: Path, proxy: type[Proxy]
) -> None:
    out, settings = Remote("s3://faces/killed"), PackSettings(size=32, samples_per_shard=8)
    foreign = [out / name for name in ("train/eyes-1.txt", "train/eyes-000099.tar.bak", "a.tar")]
    for one in foreign:
        one.put(b"not of a pack")
    words = [str(w) for w in ("--data", small, "--out", out, "--size", 32, *SMALL)]
    run = subprocess.Popen([sys.executable, "-m", "preprocess", *words, "--workers", "2"])
    while not any(request.startswith("PUT") and "01.json" in request for request in [*proxy.seen]):
        assert run.poll() is None
        time.sleep(0.005)
    run.kill()
    run.wait()
    assert "manifest.json" not in (kept := objects(out))
    assert call(*words, "--slice", "1/2").exit_code == 0
    assert call(*words).exit_code == 0
    assert "up to date, nothing to pack" in call(*words).output
    pack(PackConfig(small, tmp_path, settings, workers=1))
    there = objects(out)
    assert kept.items() <= there.items()
    assert all(there.pop(str(one).removeprefix(f"{out}/")) for one in foreign)
    assert there.pop("preview.png")
    assert there == files(tmp_path)
    words[words.index("8")] = "16"
    fails(call(*words), f"{out}/manifest.json: describes a pack of other photographs")
    assert call(*words, "--update").exit_code == 0
    assert len(objects(out)) == 3 * len(Manifest.load(out).shards) + 2 + 3, "its strays are gone"
    assert all(one.exists() for one in foreign)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3://key:S3CRET@bucket/pack", "s3://...: is no URL that can be used. Expected s3://b"),
        ("s3://bucket/pack?X-Amz-Signature=S3CRET", "is no URL that can be used"),
        ("s3://bucket/../S3CRET", "is no URL that can be used"),
    ],
)
def test_urls_that_cannot_be_used_are_one_line(url: str, problem: str) -> None:
    fails(done := call("check", "--shards", url), problem)
    assert "S3CRET" not in done.output


def test_a_pack_that_is_not_there_is_one_line(server: type[Proxy]) -> None:
    problem = "s3://faces/nothing/manifest.json: does not exist. Pack first"
    fails(call("check", "--shards", "s3://faces/nothing"), problem)


def test_what_is_not_there_can_be_deleted(tmp_path: Path, monkeypatch: Patch) -> None:
    store = pytest.importorskip("obstore.store", reason="needs pip install '.[cloud]'")
    folder = store.LocalStore(tmp_path)  # minds, as Google's storage does, and S3 does not
    monkeypatch.setattr(storage, "_store", lambda _: folder)
    Remote("gs://faces/none.tar").unlink()


def test_without_the_extra_a_line_names_it(monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    done = call("check", "--shards", "s3://bucket/pack")
    fails(done, "s3://bucket/pack: is in object storage", "Install the extra `cloud`")


def test_paths_stay_paths_and_load_no_obstore(pack_root: Path) -> None:
    assert [place("a/b"), place("C:\\faces")] == [Path("a/b"), Path("C:\\faces")]
    used = loaded("preprocess", "show", "--shards", pack_root, "--out", pack_root.parent / "p.png")
    assert "obstore" not in used


def test_a_run_kept_there_is_resumed_from_there_and_an_earlier_one_set_aside(
    server: type[Proxy], pack_root: Path, tmp_path: Path
) -> None:
    """The history is that of a run on disk; `compare` reads both."""
    there, here = Remote("s3://faces/run"), tmp_path / "run"
    for out in (there, here):
        fit(tiny(pack_root, out, epochs=1))
        fit(tiny(pack_root, out, epochs=2), resume=True)
    wanted = Checkpoint.load(here / MODEL_FILE)
    (_, ours), (_, theirs) = read_run(there), read_run(here)
    assert [record.loss for record in ours] == [record.loss for record in theirs]
    assert all(map(torch.equal, Checkpoint.load(there / MODEL_FILE).weights.values(),
                   wanted.weights.values()))  # fmt: skip
    names = set(objects(there))
    assert names == {path.name for path in here.iterdir() if path.name != LOCK}
    done = common.call(train.cli.main, "compare", there, here, "--output", tmp_path / "plot.png")
    assert str(there) in done.output
    fit(tiny(pack_root, there, epochs=1))
    assert {f"previous-001/{name}" for name in names} <= set(objects(there))
    assert epoch_file(there, 2).name not in objects(there), "moved, not copied"
    (export := there / "eyes.safetensors").put(b"...")
    with pytest.raises(InputError, match="an export is read from a disk"):
        Checkpoint.load(export)
    with pytest.raises(InputError, match=r"s3://faces/run/.*lr=.*Use the same settings"):
        fit(tiny(pack_root, there, epochs=2, lr=0.5), resume=True)
