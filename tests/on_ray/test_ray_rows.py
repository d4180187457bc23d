"""Rows of photographs on Ray: those of processes."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import common
import pytest
from common import Patch, fails, files

from infer.cli import main

pytest.importorskip("ray", reason="needs pip install '.[ray]'")
pytest.importorskip("pyarrow", reason="needs pip install '.[parquet]'")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

call = partial(common.call, main)


def test_the_rows_are_those_by_processes(
    cluster: Any, small: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    words = ("--image", small / common.IMAGES, "--no-tune")
    done = call(*words, "--parquet", tmp_path / "here", "--workers", 1)
    assert done.exit_code == 0, done.output
    monkeypatch.setattr(
        "preprocess.engine.in_processes", lambda *_: iter([None])
    )  # must not be asked
    done = call(*words, "--parquet", tmp_path / "there", "--engine", "ray")
    assert done.exit_code == 0, done.output
    assert files(tmp_path / "there", ".parquet") == files(tmp_path / "here", ".parquet") != {}
    done = call(*words, "--parquet", tmp_path / "here", "--engine", "ray")
    assert done.exit_code == 0, "what is done is done, whatever did it"


def test_an_engine_is_for_rows(photo: Path) -> None:
    fails(call("--image", photo, "--engine", "ray"), "--engine: is for --parquet")
