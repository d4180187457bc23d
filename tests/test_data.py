"""Both decoders, with and without a store, give the same bytes: those that inference sees too."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from common import Patch

from preprocess.errors import InputError
from preprocess.image import decode_rgb
from preprocess.mask import decode_label
from preprocess.shards import ShardIndex
from train import data
from train.data import Loader, available_memory, place_store
from train.split import Split

KINDS = ["dali", "portable"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", ["off", "1"])
def test_bytes_are_those_that_inference_decodes(pack_root: Path, kind: str, cache: str) -> None:
    """`preprocess.image.decode_rgb` is what `infer` reads photographs with."""
    split, on = Split.open(pack_root, "train"), 0
    loader = Loader(split, CPU, kind, cache)
    for epoch in range(2):
        order = list(split.shuffled(6, 5, epoch))
        for rows, batch in zip(order, loader.batches(order), strict=True):
            assert np.array_equal(batch.rows, rows)
            assert batch.images.dtype == batch.masks.dtype == torch.uint8
            for sample, image, mask in zip(
                split.read(rows), batch.images, batch.masks, strict=True
            ):
                assert np.array_equal(image, decode_rgb(sample.jpg))
                label = decode_label(sample.png, sample.name)
                assert np.array_equal(mask, np.where(label > 0, 255, 0))
                on += int((mask > 0).sum())
    assert on > 200, "there are eyes to be seen"


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_reads_once(pack_copy: Path, kind: str) -> None:
    split = Split.open(pack_copy, "train")
    loader = Loader(split, CPU, kind, "1")
    order = list(split.shuffled(6, 0, 0))
    first = list(loader.batches(order))
    for shard, _ in split.shards:
        shard.unlink()
    for one, other in zip(loader.batches(order), first, strict=True):
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_that_is_left_early_leaves_no_thread(pack_root: Path, kind: str) -> None:
    split = Split.open(pack_root, "train")
    assert list(Loader(split, CPU, kind).batches(split.in_order(4, 30, 31))) == []
    list(Loader(split, CPU, kind).batches(split.in_order(2)))  # what stays, stays from now on
    before = threading.active_count()
    for _ in range(3):
        begun = Loader(split, CPU, kind).batches(split.in_order(2))
        next(begun)
        begun.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("part", "message"), [("jpg", "cannot be decoded"), ("png", "label map")])
def test_a_damaged_sample_is_named(pack_copy: Path, kind: str, part: str, message: str) -> None:
    split = Split.open(pack_copy, "train", verify=False)
    shard = split.shards[0][0]
    ((_, offset, size, _),) = [
        c for c in ShardIndex.read(shard).entry(2).components if c[0] == part
    ]
    with shard.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * size)
    key = ShardIndex.read(shard).entry(2).key
    with pytest.raises(InputError, match=f"{shard.name}, sample {key}.* {message}"):
        list(Loader(split, CPU, kind).batches(split.in_order(6)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_of_another_size_is_named(pack_root: Path, kind: str) -> None:
    split = Split.open(pack_root, "train")
    wrong = Split("train", 32, split.shards, split.packs)
    with pytest.raises(InputError, match=r"image is \(64, 64, 3\).*the pack's size 32"):
        list(Loader(wrong, CPU, kind).batches(wrong.in_order(6)))


def test_dali_hands_out_views_not_copies(pack_root: Path, monkeypatch: Patch) -> None:
    from nvidia.dali.pipeline import Pipeline

    seen, original = [], Pipeline.run

    def run(self: Pipeline, *args: object) -> object:
        outputs = original(self, *args)
        seen.append(outputs[0].as_tensor().data_ptr())
        return outputs

    monkeypatch.setattr(Pipeline, "run", run)
    split = Split.open(pack_root, "train")
    batch = next(iter(Loader(split, CPU, "dali").batches(split.in_order(6))))
    assert seen[0] == batch.images.data_ptr()


def test_auto_takes_a_quarter_of_what_is_free(monkeypatch: Patch) -> None:
    if (facts := Path("/proc/meminfo")).exists():
        total = float(facts.read_text().split()[1]) * 1024
        assert total / 100 < available_memory() <= total
    monkeypatch.setattr(data, "available_memory", lambda: 8e9)
    assert place_store("auto", 2_000_000_000, CPU) == CPU
    assert place_store("auto", 2_000_000_001, CPU) is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert place_store("auto", 500_000_001, CPU) is None
    assert place_store("off", 1, CPU) is None
    assert place_store("1.5", 1_500_000_000, CPU) == CPU
    assert place_store("1.5", 1_500_000_001, CPU) is None
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4e9, 8e9))
    gpu = torch.device("cuda", 0)
    assert place_store("auto", 1_000_000_000, gpu) == gpu
    assert place_store("auto", 1_500_000_000, gpu) == CPU, "the host has the room"
    assert place_store("auto", 3_000_000_000, gpu) is None


def test_other_settings_are_refused(pack_root: Path) -> None:
    for setting in ("-1", "much", "inf", "nan"):
        with pytest.raises(InputError, match=f"--cache: is '{setting}'"):
            place_store(setting, 1, CPU)
    with pytest.raises(InputError, match="--loader: is 'tensorflow'"):
        Loader(Split.open(pack_root, "train"), CPU, "tensorflow")
