"""The peers of the loading contest: who they are, and the settings that each tries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contest
from contest import Contender

PEERS = Path(__file__).with_name("peers")


@dataclass(frozen=True)
class Peer:
    """A peer and the settings that it tries: label, arguments, whether freed memory is kept."""

    name: str
    what: str
    script: str
    advice: str
    settings: tuple[tuple[str, tuple[str, ...], bool], ...]
    stored: str

    def contenders(self, python: Path, place: Path, least: float) -> dict[str, Contender]:
        """Build a contender for each setting."""
        base = (str(python), str(PEERS / self.script), "--data", str(place), "--least", str(least))
        return {
            label: Contender(
                self.name, self.what, (*base, *arguments), self.advice,
                contest.KEEP_MEMORY if keep else {},
            )
            for label, arguments, keep in self.settings
        }  # fmt: skip


def peers(cores: int) -> list[Peer]:
    """List the peers with the settings to try."""

    def workers(n: int, *more: str) -> tuple[str, ...]:
        return ("--workers", str(n), *more)

    kept, plain = "memory kept", f"{cores} workers"
    turbo: Any = (
        (f"simplejpeg, {plain}, {kept}", workers(cores), True),
        (f"simplejpeg, {plain}", workers(cores), False),
    )  # fmt: skip
    pillow: Any = ((f"Pillow, {plain}, {kept}", workers(cores, "--decoder", "pillow"), True),)
    originals = workers(cores, "--over", "originals")
    return [
        Peer("plain Dataset", "torch Dataset and DataLoader over the 1024 x 1024 originals, Pillow",
             "load_dataset.py",
             "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html",
             ((f"{plain}, {kept}", originals, True), (plain, originals, False),
              (f"{cores + 1} workers, {kept}", workers(cores + 1, "--over", "originals"), True)),
             "originals"),
        Peer("packed files", "the same over files of 256 x 256", "load_dataset.py",
             "https://docs.pytorch.org/docs/stable/data.html", turbo + pillow, "files"),
        Peer("webdataset", "WebDataset and WebLoader, on our shards", "load_webdataset.py",
             "https://webdataset.github.io/webdataset/sharding/", turbo + pillow, "shards"),
        Peer("LitData", "StreamingDataset and StreamingDataLoader", "load_litdata.py",
             "https://github.com/Lightning-AI/litData", turbo, "litdata"),
        Peer("MosaicML Streaming", "StreamingDataset over MDS", "load_mosaic.py",
             "https://docs.mosaicml.com/projects/streaming/en/latest/distributed_training/"
             "performance_tuning.html", turbo, "mosaic"),
        Peer("SPDL", "Meta's pipeline of threads, simplejpeg in them", "load_spdl.py",
             "https://facebookresearch.github.io/spdl/latest/performance_analysis/index.html",
             ((f"{cores} threads, {kept}", workers(cores), True),
              (f"{cores} threads", workers(cores), False),
              (f"{cores + 1} threads, {kept}", workers(cores + 1), True),
              (f"{cores} threads, a task a picture, {kept}", workers(cores, "--tasks", "picture"),
               True)), "files"),
        Peer("FFCV", "compiled pipeline over JPEG fields", "load_ffcv.py",
             "https://docs.ffcv.io/parameter_tuning.html",
             ((f"{plain}, {kept}", workers(cores), True), (plain, workers(cores), False)),
             "ffcv.beton"),
        Peer("DALI's example", "readers.webdataset by the documentation, on our shards",
             "load_dali.py",
             "https://docs.nvidia.com/deeplearning/dali/user-guide/docs/examples/general/"
             "data_loading/dataloading_webdataset.html",
             ((f"{cores} threads, {kept}", workers(cores), True),
              (f"{cores} threads", workers(cores), False),
              (f"{cores + 1} threads, {kept}", workers(cores + 1), True)), "shards"),
    ]  # fmt: skip
