from collections import Counter
from pathlib import Path

import pytest

from preprocess.errors import InputError
from preprocess.shards import index_path, read_index
from train.order import EpochOrder, SplitOrder


def keys(order: EpochOrder) -> list[str]:
    return [key for batch in order.batches for key in batch]


def all_keys(root: Path, split: str) -> list[str]:
    return [e.key for shard in sorted((root / split).glob("*.tar")) for e in read_index(shard)]


def read(root: Path, batch: int, *, shuffle: bool, **more: int) -> SplitOrder:
    return SplitOrder.read(root, "train", batch, shuffle=shuffle, **more)


def test_evaluation_reads_every_sample_once_in_the_packed_order(pack_root: Path) -> None:
    order = read(pack_root, 6, shuffle=False)
    assert keys(order.epoch(0)) == all_keys(pack_root, "train")
    assert [len(batch) for batch in order.epoch(0).batches] == [6, 6, 6, 2]
    assert order.steps == 4


def test_training_leaves_out_the_incomplete_batch_only(pack_root: Path) -> None:
    order = read(pack_root, 6, shuffle=True)
    assert [len(batch) for batch in order.epoch(0).batches] == [6, 6, 6]
    assert order.steps == 3
    assert set(Counter(keys(order.epoch(0))).values()) == {1}


def test_order_is_a_function_of_seed_and_epoch(pack_root: Path) -> None:
    order = read(pack_root, 4, shuffle=True, seed=1)
    again = read(pack_root, 4, shuffle=True, seed=1)
    assert order.epoch(3) == again.epoch(3)
    assert keys(order.epoch(3)) != keys(order.epoch(4))
    assert keys(order.epoch(3)) != keys(read(pack_root, 4, shuffle=True, seed=2).epoch(3))
    assert sorted(keys(order.epoch(3))) == sorted(all_keys(pack_root, "train"))


def test_segments_hold_the_samples_of_the_batches_in_order(pack_root: Path) -> None:
    epoch = read(pack_root, 5, shuffle=True).epoch(0)
    assert [e.key for segment in epoch.segments for e in segment.entries] == keys(epoch)
    for segment in epoch.segments:
        inside = {entry.key for entry in read_index(segment.shard)}
        assert {entry.key for entry in segment.entries} <= inside


@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_the_batches_of_one_process(pack_root: Path, shuffle: bool) -> None:
    alone = read(pack_root, 6, shuffle=shuffle).epoch(1)
    parts = [read(pack_root, 6, shuffle=shuffle, rank=r, world=2).epoch(1) for r in range(2)]
    whole_batches = zip(*(part.batches for part in parts), strict=False)
    joined = [first + second for first, second in whole_batches]
    assert joined == [batch for batch in alone.batches if len(batch) == 6]
    assert sorted(keys(parts[0]) + keys(parts[1])) == sorted(keys(alone))
    assert parts[1].first_row == 3


def test_more_ranks_than_samples_leaves_some_without(pack_root: Path) -> None:
    parts = [
        SplitOrder.read(pack_root, "val", 4, shuffle=False, rank=r, world=4).epoch(0)
        for r in range(4)
    ]
    assert sum(len(keys(part)) for part in parts) == len(all_keys(pack_root, "val")) < 4
    assert not parts[3].batches


def test_batch_must_fit(pack_root: Path) -> None:
    with pytest.raises(InputError, match="--batch: is 64"):
        read(pack_root, 64, shuffle=True)
    with pytest.raises(InputError, match="cannot be shared by 4"):
        read(pack_root, 6, shuffle=True, world=4)
    with pytest.raises(InputError, match="does not exist"):
        read(pack_root / "nowhere", 6, shuffle=True)


def test_stale_index_is_noticed(pack_root: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "pack"
    shutil.copytree(pack_root, root)
    index = index_path(next((root / "train").glob("*.tar")))
    first, *lines = index.read_text().splitlines()
    index.write_text("\n".join([f"v1.2 {len(lines) - 1}", *lines[1:], ""]))
    with pytest.raises(InputError, match="differs from the manifest"):
        read(root, 4, shuffle=True)
