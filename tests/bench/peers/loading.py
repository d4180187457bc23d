"""The peers of the loading contest: a function each.

A peer's function takes the folder that the contest prepared (``originals``, ``files``, ``shards``)
and a number of workers, and returns what yields an epoch, by its number, as (images, masks). It
imports its library itself, so that the contest can list `PEERS` without any of them. Its docstring
says what it does, and links to where the settings come from.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import Figures, serve
from rulers import measure_loading
from torch.utils.data import DataLoader, Dataset

BATCH, SIZE = 16, 256
Batch = tuple[torch.Tensor, torch.Tensor]
Pair = tuple[np.ndarray, np.ndarray]
Epoch = Callable[[int], Iterator[Batch]]


@dataclass(frozen=True)
class Peer:
    """What a peer does, its advice, its function, and what writes its format."""

    what: str
    advice: str
    load: Callable[[Path, int], Epoch]
    prepare: Callable[[Path], None] | None


PEERS: dict[str, Peer] = {}


def peer(name: str, prepare: Callable[[Path], None] | None = None) -> Any:
    """Enter a function into `PEERS`."""

    def enter(load: Callable[[Path, int], Epoch]) -> Callable[[Path, int], Epoch]:
        what, advice = (load.__doc__ or "").strip().rsplit(maxsplit=1)
        PEERS[name] = Peer(" ".join(what.split()), advice, load, prepare)
        return load

    return enter


def read(path: Any) -> dict[str, bytes]:
    return {"jpg": Path(path).read_bytes(), "png": Path(path).with_suffix(".png").read_bytes()}


def decode(jpg: bytes, png: bytes) -> Pair:
    """Decode with the fastest of PyPI that we know, for those that leave it to the user."""
    import cv2
    import simplejpeg

    label = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    return simplejpeg.decode_jpeg(jpg, "RGB"), label


def stack(pairs: Sequence[Pair]) -> Batch:
    images, labels = zip(*pairs, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


def packed_files(data: Path) -> list[Path]:
    return sorted((data / "files").glob("*.jpg"))


def epochs(dataset: Any, workers: int, kind: Any = DataLoader, **more: Any) -> Epoch:
    """Return the epochs of a DataLoader with workers that stay."""
    settings = {"batch_size": BATCH, "drop_last": True, "collate_fn": stack} | more
    batches = kind(dataset, num_workers=workers, persistent_workers=True, **settings)
    return lambda number: (batch for batch in batches if len(batch[0]) == BATCH)


class Mapped(Dataset):
    """Items by a function of their path."""

    def __init__(self, paths: list[Path], load: Callable[[Path], Pair]) -> None:
        self.paths, self.load = paths, load

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Pair:
        return self.load(self.paths[number])


@peer("plain Dataset")
def originals(data: Path, workers: int) -> Epoch:
    """torch Dataset and DataLoader over the 1024 x 1024 originals, Pillow
    https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html
    """
    from PIL import Image

    masks = data / "originals" / "CelebAMask-HQ-mask-anno" / "0"

    def load(path: Path) -> Pair:
        with Image.open(path) as picture:
            image = picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        both = np.zeros((), np.uint8)
        for eye in ("l_eye", "r_eye"):
            with Image.open(masks / f"{int(path.stem):05d}_{eye}.png") as part:
                both = both | np.asarray(part.convert("L"))
        mask = Image.fromarray(both).resize((SIZE, SIZE), Image.Resampling.NEAREST)
        return np.asarray(image), np.asarray(mask)

    paths = sorted((data / "originals" / "CelebA-HQ-img").glob("*.jpg"))
    return epochs(Mapped(paths, load), workers, shuffle=True)


@peer("packed files")
def files(data: Path, workers: int) -> Epoch:
    """the same over files of 256 x 256, simplejpeg
    https://docs.pytorch.org/docs/stable/data.html
    """
    dataset = Mapped(packed_files(data), lambda path: decode(**read(path)))
    return epochs(dataset, workers, shuffle=True)


@peer("webdataset")
def webdataset(data: Path, workers: int) -> Epoch:
    """WebDataset and WebLoader, on our shards, simplejpeg
    https://webdataset.github.io/webdataset/sharding/
    """
    import webdataset as wds

    shards = [str(path) for path in sorted((data / "shards" / "train").glob("*.tar"))]
    dataset = (
        wds.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(256)
        .map(lambda sample: decode(sample["jpg"], sample["png"]))
        .batched(BATCH, partial=False, collation_fn=stack)
    )
    whole = {"batch_size": None, "drop_last": False, "collate_fn": None}
    return epochs(dataset, workers, wds.WebLoader, **whole)


def write_litdata(data: Path) -> None:
    from litdata import optimize

    paths, out = [str(path) for path in packed_files(data)], str(data / "litdata")
    optimize(fn=read, inputs=paths, output_dir=out, num_workers=1, chunk_bytes="64MB")


@peer("LitData", write_litdata)
def litdata(data: Path, workers: int) -> Epoch:
    """StreamingDataset and StreamingDataLoader, simplejpeg
    https://github.com/Lightning-AI/litData
    """
    from litdata import StreamingDataLoader, StreamingDataset

    class Pictures(StreamingDataset):
        def __getitem__(self, index: Any) -> Pair:
            return decode(**super().__getitem__(index))

    dataset = Pictures(str(data / "litdata"), shuffle=True, drop_last=True)
    return epochs(dataset, workers, StreamingDataLoader, drop_last=None)


def write_mosaic(data: Path) -> None:
    import cpu_torchvision  # noqa: F401  # before streaming, which imports torchvision
    from streaming import MDSWriter

    columns = {"jpg": "bytes", "png": "bytes"}
    with MDSWriter(out=str(data / "mosaic"), columns=columns) as writer:
        for path in packed_files(data):
            writer.write(read(path))


@peer("MosaicML Streaming", write_mosaic)
def mosaic(data: Path, workers: int) -> Epoch:
    """StreamingDataset over MDS, simplejpeg
    https://docs.mosaicml.com/projects/streaming/en/latest/distributed_training/performance_tuning.html
    """
    import cpu_torchvision  # noqa: F401
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Pictures(StreamingDataset):
        def __getitem__(self, index: Any) -> Pair:
            return decode(**super().__getitem__(index))

    clean_stale_shared_memory()
    return epochs(Pictures(local=str(data / "mosaic"), shuffle=True, batch_size=BATCH), workers)


@peer("SPDL")
def spdl(data: Path, workers: int) -> Epoch:
    """Meta's pipeline of threads, simplejpeg in them, a task a batch
    https://facebookresearch.github.io/spdl/latest/performance_analysis/index.html
    """
    from spdl.pipeline import PipelineBuilder

    paths = packed_files(data)

    def load(batch: Any) -> Batch:
        return stack([decode(**read(paths[at])) for at in batch])

    def epoch(number: int) -> Iterator[Batch]:
        order = np.random.default_rng(number).permutation(len(paths))
        batches = order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)
        builder = PipelineBuilder().add_source(batches)
        builder = builder.pipe(load, concurrency=workers, output_order="input").add_sink(2)
        pipeline = builder.build(num_threads=workers)
        with pipeline.auto_stop():
            yield from pipeline.get_iterator()

    return epoch


def write_ffcv(data: Path) -> None:
    from ffcv_jpeg import write

    write([read(path) for path in packed_files(data)], data / "ffcv.beton")


@peer("FFCV", write_ffcv)
def ffcv(data: Path, workers: int) -> Epoch:
    """compiled pipeline over JPEG fields
    https://docs.ffcv.io/parameter_tuning.html
    """
    from ffcv_jpeg import loader

    # It refuses more threads than cores.
    batches = loader(data / "ffcv.beton", BATCH, min(workers, len(os.sched_getaffinity(0))))
    return lambda number: iter(batches)


@peer("DALI's example")
def dali(data: Path, workers: int) -> Epoch:
    """readers.webdataset by the documentation, on our shards
    https://docs.nvidia.com/deeplearning/dali/user-guide/docs/examples/general/data_loading/dataloading_webdataset.html
    """
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    shards = sorted((data / "shards" / "train").glob("*.tar"))

    @pipeline_def(batch_size=BATCH, num_threads=workers, device_id=None)
    def graph() -> Any:
        jpg, png = fn.readers.webdataset(
            paths=[str(path) for path in shards], ext=["jpg", "png"], name="reader",
            index_paths=[str(path.with_suffix(".idx")) for path in shards],
            missing_component_behavior="error", random_shuffle=True,
        )  # fmt: skip
        image = fn.decoders.image(jpg, output_type=types.RGB)
        return image, fn.decoders.image(png, output_type=types.GRAY)

    settings = {"auto_reset": True, "last_batch_policy": LastBatchPolicy.DROP}
    batches = DALIGenericIterator([graph()], ["image", "mask"], reader_name="reader", **settings)
    return lambda number: ((batch["image"], batch["mask"]) for (batch,) in batches)


def measure(name: str, data: str, workers: int, seconds: float) -> Figures:
    return measure_loading(PEERS[name].load(Path(data), workers), seconds)


def prepare(name: str, data: str) -> Figures:
    write = PEERS[name].prepare
    if write:
        write(Path(data))
    return {"done": 1}


if __name__ == "__main__":
    serve((measure, prepare))
