"""What keeps start-up and memory the same for a thousand samples and a hundred thousand."""

from __future__ import annotations

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from preprocess.errors import InputError
from preprocess.manifest import Manifest
from preprocess.shards import index_path, read_samples, write_shard
from train.batch import LoaderConfig
from train.config import AugmentConfig, Effect, Window
from train.loader import Loader, open_loader, read_spec
from train.order import EpochOrder, SplitOrder

KINDS = ["dali", "portable"]
# Numbers 0 to 4, 5 to 8 and 9 to 11.
SHARDS = ((Path("0.tar"), 5), (Path("5.tar"), 4), (Path("9.tar"), 3))


def numbers(order: EpochOrder, step: int) -> list[int]:
    return [int(p.shard.stem) + row for p in order.places(step) for row in p.rows.tolist()]


@pytest.mark.parametrize(
    ("order", "epoch", "batches"),
    [
        (SplitOrder(SHARDS, 4, True), 0, ["11 9 10 2", "1 0 4 3", "7 5 6 8"]),
        (SplitOrder(SHARDS, 4, True), 7, ["3 2 4 0", "1 9 10 11", "6 5 8 7"]),
        (SplitOrder(SHARDS, 4, True, seed=3), 7, ["4 2 1 0", "3 7 8 5", "6 11 9 10"]),
        (SplitOrder(SHARDS, 4, True, rank=1, world=2), 7, ["4 0", "10 11", "8 7"]),
        (SplitOrder(SHARDS, 5, True), 1, ["10 9 11 8 6", "7 5 3 0 1"]),
        (SplitOrder(SHARDS, 10, False), 0, ["0 1 2 3 4 5 6 7 8 9", "10 11"]),
        (SplitOrder(SHARDS, 10, False, rank=1, world=2), 0, ["5 6 7 8 9"]),
    ],
)
def test_the_order_of_a_seed_never_changes(
    order: SplitOrder, epoch: int, batches: list[str]
) -> None:
    """Figures of the first version, which listed every sample: runs of then go on alike."""
    found = order.epoch(epoch)
    read = [numbers(found, step) for step in range(len(found.batches))]
    assert read == [[int(n) for n in batch.split()] for batch in batches]


def test_an_epoch_of_100_000_samples_is_four_bytes_each() -> None:
    shards = tuple((Path(f"{number}.tar"), 1000) for number in range(100))  # no such files
    tracemalloc.start()
    try:
        order = SplitOrder(shards, 16, shuffle=True).epoch(0)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert order.samples == 100_000
    assert len(order.batches) == 6_250
    assert kept < 600_000, "the rows take 400,000"
    assert peak < 2_000_000


@pytest.mark.parametrize("most", [1, 6, 13, 1000])
def test_stretches_are_the_epoch_cut_at_batches(pack_root: Path, most: int) -> None:
    whole = SplitOrder.read(pack_root, "train", 6, shuffle=False, rank=1, world=2).epoch(0)
    stretches = list(whole.stretches(most))
    assert [keys for part in stretches for keys in part.batches] == list(whole.batches)
    assert all(part.samples <= max(most, 3) for part in stretches)
    steps = [part.first_step + step for part in stretches for step in range(len(part.batches))]
    assert steps == list(range(len(whole.batches)))


def open_train(
    root: Path, kind: str, batch: int = 2, shuffle: bool = False, noise: bool = False
) -> Loader:
    order = SplitOrder.read(root, "train", batch, shuffle=shuffle, seed=5)
    augment = AugmentConfig() if noise else replace(AugmentConfig(), noise=Effect(0, 0))
    device, window = torch.device("cpu"), Window(32, 48, 0.15)
    return open_loader(LoaderConfig(order, read_spec(root), augment, device, window=window), kind)


def without_later_shards(pack_root: Path, out: Path) -> list[Path]:
    """Copy a pack and leave only the first train shard readable: the others hold zeros."""
    shutil.copytree(pack_root, out)
    shards = [out / shard.name for shard in Manifest.load(out).split("train").shards]
    for shard in shards[1:]:
        shard.write_bytes(bytes(shard.stat().st_size))
    return shards


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_batch_needs_no_later_shard(pack_root: Path, tmp_path: Path, kind: str) -> None:
    shards = without_later_shards(pack_root, tmp_path / "pack")
    batches = open_train(tmp_path / "pack", kind).epoch(0)
    keys = [key for key, _ in read_samples(shards[0])]
    assert next(batches).keys == tuple(keys[:2])
    with pytest.raises(InputError, match=shards[1].name):
        list(batches)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pack_without_eyes_is_refused_before_a_run(
    pack_root: Path, tmp_path: Path, kind: str
) -> None:
    shutil.copytree(pack_root, tmp_path / "pack")
    name = Manifest.load(pack_root).split("train").shards[0].name
    samples = [(key, parts | {"json": b"{}"}) for key, parts in read_samples(pack_root / name)]
    record = write_shard(tmp_path / "pack", name, samples)
    manifest = Manifest.load(pack_root)
    train = manifest.split("train")
    changed = replace(train, shards=(record, *train.shards[1:]))
    replace(manifest, splits=manifest.splits | {"train": changed}).save(tmp_path / "pack")
    with pytest.raises(InputError, match="does not say where its eyes are.*--crop off"):
        open_train(tmp_path / "pack", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_index_line_is_named(pack_root: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(pack_root, tmp_path / "pack")
    shard = tmp_path / "pack" / Manifest.load(pack_root).split("train").shards[1].name
    lines = index_path(shard).read_text().splitlines()
    index_path(shard).write_text("\n".join([*lines[:3], "jpg five 9 x.jpg", *lines[4:], ""]))
    with pytest.raises(InputError, match=f"{index_path(shard).name}: is no DALI index"):
        list(open_train(tmp_path / "pack", kind).epoch(0))


def test_a_long_epoch_through_several_graphs_gives_the_same_batches(
    pack_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train import dali_loader

    built = []
    build = dali_loader.DaliLoader._run_on_host

    def count(self: object, order: EpochOrder, *sources: list[str]) -> object:
        built.append(order.samples)
        return build(self, order, *sources)  # type: ignore[arg-type]

    monkeypatch.setattr(dali_loader.DaliLoader, "_run_on_host", count)
    loader = open_train(pack_root, "dali", batch=4, shuffle=True)
    whole = list(loader.epoch(3))
    monkeypatch.setattr(dali_loader, "_STRETCH", 8)
    parts = list(loader.epoch(3))
    assert built == [20, 8, 8, 4]
    for one, other in zip(whole, parts, strict=True):
        assert one.keys == other.keys
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.masks, other.masks)


def test_dali_reads_shards_without_mapping_them(pack_root: Path) -> None:
    """Mapped pages would add up to the whole set in memory while an epoch goes on."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system has no /proc/self/maps")
    batches = open_train(pack_root, "dali").epoch(0)
    next(batches)
    assert str(pack_root) not in maps.read_text()
