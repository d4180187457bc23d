"""Data that many tests read, made once a session. Nothing may write into these folders."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from preprocess import storage
from preprocess.manifest import PackSettings
from preprocess.pack import PackConfig, pack
from preprocess.runtime import tune_process
from preprocess.sample import SampleConfig, write_sample

# Before torch is imported: a busy neighbour must not make OpenMP's spinning threads crawl.
tune_process()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts background jobs like this
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or no test could interrupt anything

from common import tiny
from s3 import Proxy, serving

from infer import Predictor
from preprocess.image import decode_rgb
from train.checkpoint import MODEL_FILE
from train.config import AugmentConfig, ModelConfig, TrainConfig
from train.loop import fit

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 drawn faces in the official layout: images 256 x 256, masks 128 x 128."""
    out = tmp_path_factory.mktemp("faces")
    write_sample(out, SampleConfig(count=24, size=256, mask_size=128), workers=1)
    return out


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 drawn faces, tiny ones (64 x 64, masks 32 x 32): enough to occupy two workers."""
    out = tmp_path_factory.mktemp("small")
    write_sample(out, SampleConfig(count=40, size=64, mask_size=32), workers=1)
    return out


@pytest.fixture(scope="session")
def pack_root(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the faces at 64 x 64, eight samples a shard."""
    out = tmp_path_factory.mktemp("pack")
    settings = PackSettings(size=64, samples_per_shard=8)
    pack(PackConfig(faces, out, settings, workers=1))
    return out


@pytest.fixture(scope="session")
def whole(pack_root: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Return a run of four epochs of a tiny network, finished."""
    config = tiny(pack_root, tmp_path_factory.mktemp("whole"), epochs=4)
    fit(config)
    return config


@pytest.fixture
def copy(whole: TrainConfig, tmp_path: Path) -> TrainConfig:
    """Return the same run in a folder that the test may change."""
    return replace(whole, output=Path(shutil.copytree(whole.output, tmp_path / "copy")))


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no history: it takes longer than the epochs. (That of `whole` is drawn.)"""
    monkeypatch.setattr("train.loop.plot_history", lambda *_: None)


@pytest.fixture
def pack_copy(pack_root: Path, tmp_path: Path) -> Path:
    """Return a copy of the shards that the test may damage."""
    return Path(shutil.copytree(pack_root, tmp_path / "pack"))


@pytest.fixture
def source(small: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny faces that the test may change."""
    return Path(shutil.copytree(small, tmp_path / "source"))


@pytest.fixture(scope="session")
def genuine() -> Path:
    """Folder of the genuine photographs: CelebAMask-HQ/, london-faces/ and photos/ are in it."""
    place = Path(os.environ.get("EYES_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (place / "CelebAMask-HQ" / "CelebA-HQ-img").is_dir():
        pytest.skip(f"no genuine photographs in {place} (set EYES_DATA to their folder)")
    return place


@pytest.fixture(scope="session")
def face_shards(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All faces in one split, at 96 x 96."""
    out = tmp_path_factory.mktemp("face-shards")
    pack(PackConfig(faces, out, PackSettings(size=96), split="train", workers=1))
    return out


@pytest.fixture(scope="session")
def face_model(face_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that has learnt the 24 faces, so that there is something to see."""
    output = tmp_path_factory.mktemp("face-model")
    fit(TrainConfig(
        face_shards, output, epochs=20, batch=4, lr=1e-2, loader="portable",
        model=ModelConfig(width=8, depth=3), augment=AugmentConfig.off(),
    ))  # fmt: skip
    return output / MODEL_FILE


@pytest.fixture(scope="session")
def predictor(face_model: Path) -> Predictor:
    return Predictor.from_checkpoint(face_model)


@pytest.fixture(scope="session")
def photo(faces: Path, predictor: Predictor) -> Path:
    """The face on which the network marks most."""
    photos = sorted((faces / "CelebA-HQ-img").glob("*.jpg"))
    return max(
        photos, key=lambda p: predictor.predict(decode_rgb(p.read_bytes()), "whole").mask.sum()
    )


@pytest.fixture(scope="module")
def server() -> Iterator[type[Proxy]]:
    """Yield object storage that answers as long as the tests of a module run."""
    with serving() as proxy:
        yield proxy


@pytest.fixture
def proxy(server: type[Proxy]) -> Iterator[type[Proxy]]:
    """Yield the same without faults, and no request counted."""
    server.faults, server.seen = (), Counter()
    yield server
    server.faults = ()


@pytest.fixture(params=["500 503", "cut", "short", "slow"])
def faults(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, ...]]:
    """Return what the server of `proxy` does wrong, once each."""
    if request.param == "slow":
        monkeypatch.setitem(storage._CLIENT, "read_timeout", "300ms")
    storage._store.cache_clear()
    yield tuple(request.param.split())
    storage._store.cache_clear()
