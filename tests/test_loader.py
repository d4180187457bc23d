"""DALI, the portable loader and the inference path give the network the same pictures.

Tolerances, in levels of 255. Decoding and normalising: 1e-3, because both loaders call
libjpeg-turbo and differ by float rounding at most. Every augmentation: a mean of 0.25 and 99.9
percent of the pixels within 3, because warp, blur and JPEG round at other places, and the pixels
that JPEG quantises into the next bin differ by more. All effects together get 12 levels and a
mean of 0.5: JPEG, the last of them, magnifies a rounding difference of one level to half a step
of its quantisation (and, on noise, does so nearly everywhere: that pair is left out).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from preprocess.celebamask import read_plan
from preprocess.errors import InputError
from preprocess.image import decode_fitted
from preprocess.manifest import Manifest
from preprocess.shards import read_index, read_samples, write_shard
from train.batch import Batch, LoaderConfig
from train.cache import SampleCache
from train.config import AugmentConfig, Effect, Window
from train.decode import binarise, decode_sample, denormalise, normalise
from train.loader import Loader, open_loader, read_spec
from train.order import SplitOrder

KINDS = ["dali", "portable", "graph"]  # graph: all of DALI's, as on a GPU, on the CPU
CPU = torch.device("cpu")
OFF = AugmentConfig.off()


def open_split(
    root: Path, kind: str, *, split: str = "train", batch: int = 6, shuffle: bool = False,
    augment: AugmentConfig = OFF, window: Window | None = None, device: torch.device = CPU,
    **ranks: int,
) -> Loader:  # fmt: skip
    order = SplitOrder.read(root, split, batch, shuffle=shuffle, seed=5, **ranks)
    config = LoaderConfig(order, read_spec(root), augment, device, window=window)
    return open_kind(config, kind)


def open_kind(config: LoaderConfig, kind: str) -> Loader:
    if kind == "graph":
        return open_loader(replace(config, whole_graph=True), "dali")
    return open_loader(config, kind)


def levels(batch: Batch, root: Path) -> npt.NDArray[np.float32]:
    spec = read_spec(root)
    std = torch.tensor(spec.std)[:, None, None]
    return (batch.images.cpu() * std + torch.tensor(spec.mean)[:, None, None]).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_batch_is_what_the_interface_says(pack_root: Path, kind: str) -> None:
    loader = open_split(pack_root, kind)
    batches = list(loader.epoch(0))
    assert len(batches) == loader.steps == 4
    assert sum(len(batch.keys) for batch in batches) == loader.samples == 20
    for batch in batches:
        count = len(batch.keys)
        assert batch.images.shape == (count, 3, 64, 64)
        assert batch.masks.shape == (count, 1, 64, 64)
        assert batch.images.dtype == batch.masks.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert set(batch.masks.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_in_the_shard(pack_root: Path, kind: str) -> None:
    packed = {
        key: decode_sample(parts["jpg"], parts["png"], key)
        for shard in Manifest.load(pack_root).split("train").shards
        for key, parts in read_samples(pack_root / shard.name)
    }
    spec = read_spec(pack_root)
    for batch in open_split(pack_root, kind).epoch(0):
        images = normalise(np.stack([packed[key][0] for key in batch.keys]), spec)
        torch.testing.assert_close(batch.images, images, rtol=0, atol=1e-5)
        masks = binarise(np.stack([packed[key][1] for key in batch.keys]))
        assert torch.equal(batch.masks, masks)
    assert any(mask.any() for _, mask in packed.values())


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["dali", "graph"])
def test_both_loaders_give_the_same_batches(pack_root: Path, kind: str, shuffle: bool) -> None:
    dali, portable = (open_split(pack_root, k, shuffle=shuffle) for k in (kind, "portable"))
    for epoch in range(2):
        for one, other in zip(dali.epoch(epoch), portable.epoch(epoch), strict=True):
            assert one.keys == other.keys
            torch.testing.assert_close(one.images, other.images, rtol=0, atol=2e-5)
            assert torch.equal(one.masks, other.masks)


EFFECTS = {
    "flip": Effect(1, 1),
    "larger": Effect(1, 0.4),
    "smaller": Effect(1, 0.4),
    "aspect": Effect(1, 0.5),
    "rotation": Effect(1, 30),
    "translation": Effect(1, 0.2),
    "hide": Effect(1, 0.6),
    "light": Effect(1, 0.4),
    "colour": Effect(1, 0.5),
    "grey": Effect(1, 1),
    "blur": Effect(1, 3),
    "noise": Effect(1, 20),
    "jpeg": Effect(1, 80),
}


def test_augmentation_on_the_host_is_the_same_for_both(pack_root: Path) -> None:
    one, other = (
        open_split(pack_root, kind, shuffle=True, augment=AugmentConfig()).epoch(1)
        for kind in ("dali", "portable")
    )
    for dali, portable in zip(one, other, strict=True):
        assert dali.keys == portable.keys
        torch.testing.assert_close(dali.images, portable.images, rtol=0, atol=2e-5)
        assert torch.equal(dali.masks, portable.masks)


@pytest.mark.parametrize("name", [*EFFECTS, "all"])
def test_both_loaders_augment_alike(pack_root: Path, name: str) -> None:
    effects = {name: EFFECTS[name]} if name != "all" else EFFECTS | {"noise": Effect(0, 0)}
    augment = replace(OFF, **effects)
    dali, portable = (
        list(open_split(pack_root, kind, shuffle=True, augment=augment).epoch(0))
        for kind in ("graph", "portable")
    )
    plain = list(open_split(pack_root, "dali", shuffle=True).epoch(0))
    changed = 0.0
    for one, other, before in zip(dali, portable, plain, strict=True):
        assert one.keys == other.keys == before.keys
        difference = np.abs(levels(one, pack_root) - levels(other, pack_root))
        assert difference.mean() < (0.5 if name == "all" else 0.25)
        assert np.quantile(difference, 0.999) <= (12 if name == "all" else 3)
        assert float((one.masks != other.masks).float().mean()) < 1e-3
        changed += np.abs(levels(one, pack_root) - levels(before, pack_root)).mean()
    assert changed > 1, f"{name} changed nothing"


@pytest.mark.parametrize("shuffle", [False, True])
def test_both_loaders_crop_alike(pack_root: Path, shuffle: bool) -> None:
    window = Window(32, 48, 0.15)
    augment = replace(OFF, rotation=Effect(1, 20), smaller=Effect(1, 0.4), hide=Effect(0.5, 0.5))
    dali, portable = (
        list(open_split(pack_root, kind, shuffle=shuffle, augment=augment, window=window).epoch(0))
        for kind in ("graph", "portable")
    )
    eyes = 0.0
    for one, other in zip(dali, portable, strict=True):
        assert one.keys == other.keys
        assert one.images.shape[1:] == (3, 32, 48)
        assert one.images.is_contiguous(memory_format=torch.channels_last)
        difference = np.abs(levels(one, pack_root) - levels(other, pack_root))
        assert difference.mean() < 0.25
        assert float((one.masks != other.masks).float().mean()) < 1e-3
        eyes += float((one.masks.sum(dim=(1, 2, 3)) > 5).sum())
    assert eyes > 0.5 * sum(len(batch.keys) for batch in dali)


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_differs_by_epoch_and_repeats_by_seed(pack_root: Path, kind: str) -> None:
    augment = AugmentConfig()
    loader = open_split(pack_root, kind, shuffle=True, augment=augment)
    first, again, later = (next(iter(loader.epoch(epoch))) for epoch in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, later.images)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_load_their_rows_of_the_whole_batch(pack_root: Path, kind: str) -> None:
    augment = AugmentConfig()
    whole = list(open_split(pack_root, kind, shuffle=True, augment=augment).epoch(2))
    parts = [
        open_split(pack_root, kind, shuffle=True, augment=augment, rank=r, world=2).epoch(2)
        for r in range(2)
    ]
    for batch, one, other in zip(whole, *parts, strict=True):
        assert batch.keys == one.keys + other.keys
        joined = torch.cat([one.images, other.images])
        torch.testing.assert_close(joined, batch.images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_sees_what_the_loader_sees(pack_root: Path, faces: Path, kind: str) -> None:
    """The photo fitted for inference equals its packed sample, up to the packed JPEG's loss."""
    samples = {sample.key: sample for sample in read_plan(faces).samples}
    spec = read_spec(pack_root)
    for batch in open_split(pack_root, kind, split="test").epoch(0):
        loaded = denormalise(batch.images, spec)
        for key, square in zip(batch.keys, loaded, strict=True):
            fitted, _ = decode_fitted(samples[key].image.read(faces), spec.size)
            error = np.square(fitted.astype(float) - square).mean()
            assert 10 * np.log10(255**2 / error) > 36, "decibels; JPEG at quality 96 has about 40"


@pytest.mark.parametrize("window", [None, Window(32, 48, 0.15)])
@pytest.mark.parametrize("kind", KINDS)
def test_cache_changes_nothing_and_saves_reading(
    pack_root: Path, tmp_path: Path, kind: str, window: Window | None
) -> None:
    root = tmp_path / "pack"
    shutil.copytree(pack_root, root)
    order = SplitOrder.read(root, "train", 6, shuffle=True, seed=5)
    keys = [entry.key for shard, _ in order.shards for entry in read_index(shard)]
    plain = LoaderConfig(order, read_spec(root), AugmentConfig(), CPU, window=window)
    cached = replace(plain, cache=SampleCache(len(keys), plain.spec.size))
    expected = [list(open_kind(plain, kind).epoch(epoch)) for epoch in range(4)]
    loader = open_kind(cached, kind)
    for epoch, batches in enumerate(expected):
        for one, other in zip(loader.epoch(epoch), batches, strict=True):
            assert one.keys == other.keys
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.masks, other.masks)
        if epoch == 2:
            assert cached.cache
            assert cached.cache.missing(keys) == 0, "three epochs leave out two others each"
            for shard, _ in order.shards:
                shard.unlink()  # the fourth epoch has to do without


def copy_with_shard(root: Path, out: Path, drop: str) -> Path:
    """Copy a pack whose first train shard lacks one component of one sample."""
    shutil.copytree(root, out)
    name = Manifest.load(out).split("train").shards[0].name
    samples = list(read_samples(out / name))
    samples[3][1].pop(drop)
    size = (out / name).stat().st_size
    write_shard(out, name, samples)
    with (out / name).open("ab") as file:  # the size is checked before the content
        file.write(b"\0" * (size - (out / name).stat().st_size))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_missing_component_is_an_error(pack_root: Path, tmp_path: Path, kind: str) -> None:
    root = copy_with_shard(pack_root, tmp_path / "pack", "png")
    key = read_index(root / Manifest.load(root).split("train").shards[0].name)[3].key
    with pytest.raises(InputError, match=f"'{key}' has no png"):
        list(open_split(root, kind).epoch(0))


@pytest.mark.parametrize("kind", KINDS)
def test_undecodable_sample_is_an_error(pack_root: Path, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "pack"
    shutil.copytree(pack_root, root)
    shard = root / Manifest.load(root).split("train").shards[0].name
    ((_, offset, size, _),) = [c for c in read_index(shard)[2].components if c[0] == "jpg"]
    with shard.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * size)
    key = read_index(shard)[2].key
    with pytest.raises(InputError, match=f"{shard.name}, sample {key}: cannot be decoded"):
        list(open_split(root, kind).epoch(0))


def test_unknown_loader_is_refused(pack_root: Path) -> None:
    with pytest.raises(InputError, match="--loader"):
        open_split(pack_root, "tensorflow")


def test_dali_output_is_a_view_not_a_copy(pack_root: Path) -> None:
    from nvidia.dali.pipeline import Pipeline

    seen = []
    original = Pipeline.run

    def run(self: Pipeline, *args: object) -> object:
        outputs = original(self, *args)
        seen.append(outputs[0].as_tensor().data_ptr())
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "run", run)
        batch = next(iter(open_split(pack_root, "graph").epoch(0)))
    assert seen[0] == batch.images.data_ptr()
