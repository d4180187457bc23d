"""Packing on Ray: the same bytes, after deaths of workers too, and every end of a run.

One cluster serves all tests but those of how a cluster is started and found. What runs in its
workers stands inside of functions: those are sent as they are, and this module is not imported.
"""

import gc
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import common
import pytest
from common import ROOT, Patch, fails, files

import preprocess.pack
from preprocess import engine
from preprocess.cli import main
from preprocess.engine import on_ray
from preprocess.errors import InputError

ray = pytest.importorskip("ray", reason="needs pip install '.[ray]'")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

call = partial(common.call, main)
WORDS = ("--size", 32, "--samples-per-shard", 4, "--no-tune")
ON_RAY = (*WORDS, "--engine", "ray")
VICTIM = "train/eyes-000003.tar"
QUIET = {"RAY_AUTH_TOKEN": "1" * 64, "RAY_USAGE_STATS_ENABLED": "0"}  # else it is kept at home


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in QUIET.items():
            patch.setenv(variable, value)
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False,
                 logging_level="ERROR")  # fmt: skip
        yield ray
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            ray.shutdown()  # drops its processes without a last look at them
            gc.collect()


@pytest.fixture
def nobody(monkeypatch: Patch) -> None:
    """Let the command look for a cluster, although this process has one."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(engine, "_ANSWER_SECONDS", 4.0)


@pytest.fixture(scope="module")
def undivided(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the pack by two processes."""
    out = tmp_path_factory.mktemp("processes")
    assert call("--data", small, "--out", out, *WORDS, "--workers", 2).exit_code == 0
    return files(out)


class Harm:
    """Harms the packing of VICTIM after its first sample, so many times; counts all starts."""

    def __init__(self, place: Path, patch: Patch) -> None:
        self.place, self.patch = place, patch

    def starts(self) -> Counter[str]:
        return Counter(path.name.split()[0].replace("+", "/") for path in self.place.iterdir())

    def __call__(self, times: int, error: Exception | None = None) -> None:
        place = self.place

        def pack_shard(source: Path, out: Path, settings: Any, planned: Any, **more: Any) -> Any:
            import preprocess.pack as packing

            name = planned.name.replace("/", "+")
            (place / f"{name} {time.time_ns()}").touch()
            real, first = packing.pack_sample, planned.samples[0]

            def harmed(source: Path, sample: Any, *args: Any) -> Any:
                if sample is first:
                    return real(source, sample, *args)
                if error:
                    raise error
                return os.kill(os.getpid(), signal.SIGKILL)

            if planned.name == VICTIM and len(list(place.glob(f"{name} *"))) <= times:
                packing.pack_sample = harmed
            try:
                return packing.pack_shard(source, out, settings, planned, **more)
            finally:
                packing.pack_sample = real

        self.patch.setattr(preprocess.pack, "pack_shard", pack_shard)


@pytest.fixture
def harm(tmp_path: Path, monkeypatch: Patch) -> Harm:
    (tmp_path / "starts").mkdir()
    return Harm(tmp_path / "starts", monkeypatch)


def test_the_bytes_are_those_by_processes(
    cluster: Any, small: Path, tmp_path: Path, undivided: dict[str, bytes]
) -> None:
    done = call("--data", small, "--out", tmp_path / "out", *ON_RAY)
    assert done.exit_code == 0, done.output
    assert files(tmp_path / "out") == undivided


def test_of_a_killed_worker_only_the_running_shard_is_done_again(
    cluster: Any, small: Path, tmp_path: Path, undivided: dict[str, bytes], harm: Harm
) -> None:
    harm(times=1)
    done = call("--data", small, "--out", tmp_path / "out", *ON_RAY)
    assert done.exit_code == 0, done.output
    shards = [name for name in undivided if name.endswith(".tar")]
    assert harm.starts() == Counter([*shards, VICTIM])
    assert files(tmp_path / "out") == {**undivided, **files(tmp_path / "out", ".tmp")}
