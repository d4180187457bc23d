"""Order, keys, bytes and eyes of a split; what keeps start-up and memory the same for any size."""

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from common import forge

from preprocess.errors import InputError
from preprocess.manifest import Manifest
from preprocess.mask import decode_label, eye_centres
from preprocess.shards import index_path, read_samples
from train.distributed import Processes
from train.split import Pack, Split

FIRST = "train/eyes-000000.tar"
# Numbers 0 to 4, 5 to 8 and 9 to 11.
SPLIT = Split(
    "train", 64, ((Path("0.tar"), 5), (Path("5.tar"), 4), (Path("9.tar"), 3)), (Pack("one", 12),)
)


def shards(root: Path) -> list[Path]:
    return [root / shard.name for shard in Manifest.load(root).split("train").shards]


def first(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int32)


def test_the_order_of_a_seed_never_changes() -> None:
    """A run that another version began goes on alike; the incomplete batch is left out."""
    assert SPLIT.shuffled(4, 0, 0).tolist() == [[3, 10, 6, 9], [11, 5, 1, 7], [0, 8, 4, 2]]
    assert SPLIT.shuffled(4, 3, 7).tolist() == [[7, 10, 6, 2], [1, 8, 0, 5], [11, 9, 4, 3]]
    assert SPLIT.shuffled(5, 0, 1).tolist() == [[2, 5, 1, 4, 10], [3, 6, 7, 8, 9]]


def test_packs_are_numbered_one_after_the_other_and_shown_as_often_as_they_weigh(
    pack_root: Path, face_shards: Path
) -> None:
    roots = (pack_root, pack_root)
    split = Split.open_all(roots, "train", weights=(2.0, 0.5))
    alone = Split.open(pack_root, "train")
    assert split.samples == 2 * alone.samples == 40
    assert split.pack_of(first(40)).tolist() == [0] * 20 + [1] * 20
    name = pack_root.name
    assert split.keys(np.array([3, 23], np.int32)) == [
        f"{name}/{key}" for key in 2 * alone.keys(np.array([3], np.int32))
    ]
    for epoch in (0, 1):
        shown = Counter(split.shuffled(1, 0, epoch).ravel().tolist())
        assert [shown[row] for row in range(20)] == [2] * 20
        half = [shown[row] for row in range(20, 40)]
        assert set(half) == {0, 1}
        assert sum(half) == 10
    assert not np.array_equal(split.shuffled(1, 0, 0), split.shuffled(1, 0, 1))
    with pytest.raises(InputError, match="holds 96-pixel squares.*same --size"):
        Split.open_all((pack_root, face_shards), "train")


def test_evaluation_shows_each_sample_once_whatever_batch_and_processes() -> None:
    for batch in (1, 5, 12, 100):
        for world in (1, 2, 5, 20):
            parts = [SPLIT.in_order(batch, rank, world) for rank in range(world)]
            rows = [row for part in parts for rows in part for row in rows.tolist()]
            assert rows == list(range(12))
            assert max(len(rows) for part in parts for rows in part) <= batch


def test_processes_share_a_batch_evenly_or_not_at_all() -> None:
    order = SPLIT.shuffled(6, 0, 0)
    parts = [order[:, Processes(rank, 3).share(6)] for rank in range(3)]
    assert np.array_equal(np.concatenate(parts, axis=1), order)
    with pytest.raises(InputError, match="cannot be shared by 4"):
        Processes(0, 4).share(6)
    with pytest.raises(InputError, match="--batch: is 64"):
        SPLIT.shuffled(64, 0, 0)


def test_an_epoch_of_100_000_samples_is_four_bytes_each() -> None:
    shards = tuple((Path(f"{number}.tar"), 1000) for number in range(100))
    split = Split("train", 64, shards, (Pack("large", 100_000),))
    split.shuffled(16, 0, 0)
    tracemalloc.start()
    order = split.shuffled(16, 0, 0)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert order.shape == (6_250, 16)
    assert kept < 600_000, "the rows take 400,000"
    assert peak < 2_000_000


def test_keys_and_bytes_are_those_of_the_shards(pack_root: Path) -> None:
    split = Split.open(pack_root, "train")
    packed = [pair for shard in shards(pack_root) for pair in read_samples(shard)]
    rows = first(20)[::-1]
    assert split.keys(rows) == [key for key, _ in packed][::-1]
    for sample, (key, parts) in zip(split.read(rows), packed[::-1], strict=True):
        assert (sample.jpg, sample.png) == (parts["jpg"], parts["png"])
        assert sample.name.endswith(f"sample {key}")


def test_eyes_are_those_of_the_label_maps(pack_root: Path) -> None:
    split = Split.open(pack_root, "train")
    seen = 0
    for sample, eyes in zip(split.read(first(20)), split.eyes(first(20)), strict=True):
        found = eye_centres(decode_label(sample.png, sample.name))
        seen += len(found) == 2
        if found:
            np.testing.assert_allclose(eyes, [found[0], found[-1]], atol=0.06)
        else:
            usual = np.array([[0.37, 0.48], [0.63, 0.48]]) * split.size
            np.testing.assert_allclose(eyes, usual, atol=1e-3)
    assert seen > 10


def test_the_first_batch_needs_no_later_shard(pack_copy: Path) -> None:
    _, *later = shards(pack_copy)
    for shard in later:
        shard.write_bytes(bytes(shard.stat().st_size))
    split = Split.open(pack_copy, "train")
    assert len(list(split.read(first(8)))) == len(split.eyes(first(8))) == 8
    with pytest.raises(InputError, match=later[0].name):
        list(split.read(first(20)))


def test_mask_and_photograph_are_joined_by_the_key_in_the_tar(pack_copy: Path) -> None:
    """An index that swaps two masks, or that misnames one, is refused."""
    shard = shards(pack_copy)[0]
    head, *lines = index_path(shard).read_text().splitlines()
    one, other = (line.split() for line in lines[:2])
    mixed = [" ".join(one[:-4] + other[-4:]), " ".join(other[:-4] + one[-4:])]
    index_path(shard).write_text("\n".join([head, *mixed, *lines[2:], ""]))
    with pytest.raises(InputError, match=f"{shard.name}: has .* where its index has"):
        list(Split.open(pack_copy, "train", verify=False).read(first(2)))
    moved = [" ".join([*one[:3], other[3], *one[4:]])]
    index_path(shard).write_text("\n".join([head, *moved, *lines[1:], ""]))
    with pytest.raises(InputError, match="where its index has"):
        list(Split.open(pack_copy, "train", verify=False).read(first(1)))


def test_stale_and_damaged_indexes_are_refused(pack_copy: Path) -> None:
    index = index_path(shards(pack_copy)[1])
    head, *lines = index.read_text().splitlines()
    index.write_text("\n".join([head, *lines[:3], "jpg five 9 x.jpg", *lines[4:], ""]))
    with pytest.raises(InputError, match=f"{index.name}: is no DALI index"):
        list(Split.open(pack_copy, "train", verify=False).read(first(20)))
    index.write_text("\n".join([f"v1.2 {len(lines) - 1}", *lines[1:], ""]))
    with pytest.raises(InputError, match="differs from the manifest"):
        Split.open(pack_copy, "train")
    with pytest.raises(InputError, match="does not exist"):
        Split.open(pack_copy / "nowhere", "train")


@pytest.mark.parametrize("part", ["jpg", "png"])
def test_a_missing_component_is_an_error(pack_copy: Path, part: str) -> None:
    key = forge(pack_copy, FIRST, 3, lambda parts: {n: parts[n] for n in parts if n != part})
    with pytest.raises(InputError, match=f"'{key}' has no {part}"):
        list(Split.open(pack_copy, "train").read(first(4)))


def test_a_sample_without_eyes_in_its_metadata_is_an_error(pack_copy: Path) -> None:
    forge(pack_copy, FIRST, 3, lambda parts: parts | {"json": b"{}"})
    with pytest.raises(InputError, match="does not say where its eyes are.*crop=off"):
        Split.open(pack_copy, "train").eyes(first(1))
