"""A cluster for all tests of Ray but those of how one is started and found.

What runs in its workers stands inside of functions: those are sent as they are.
"""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from common import Patch, files
from harm import QUIET, WORDS, Harm, call

from preprocess import engine


@pytest.fixture(scope="package")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="needs pip install '.[ray]'")
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
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(engine, "_ANSWER_SECONDS", 4.0)


@pytest.fixture(scope="module")
def undivided(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the pack by two processes."""
    out = tmp_path_factory.mktemp("processes")
    assert call("--data", small, "--out", out, *WORDS, "--workers", 2).exit_code == 0
    return files(out)


@pytest.fixture
def harm(tmp_path: Path, monkeypatch: Patch) -> Harm:
    (tmp_path / "starts").mkdir()
    return Harm(tmp_path / "starts", monkeypatch)
