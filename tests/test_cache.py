"""Memory for decoded samples: how much is granted, and what it holds."""

from pathlib import Path

import numpy as np
import pytest

from preprocess.errors import InputError
from train import cache
from train.cache import SampleCache, available_memory, cache_bytes, open_cache


def test_samples_come_back_as_they_were_put_in() -> None:
    kept = SampleCache(3, 4)
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    kept.put("b", image, np.full((4, 4), 255, np.uint8))
    kept.put("a", image + 1, np.zeros((4, 4, 1), np.uint8))
    image[:] = 0  # the cache has a copy
    assert kept.missing(["a", "b", "c"]) == 1
    assert "c" not in kept
    assert kept.get("b")[0][0, 0].tolist() == [0, 1, 2]
    assert kept.get("a")[0].max() == 48
    assert kept.get("b")[1].shape == (4, 4, 1)
    assert kept.get("b")[1].min() == 255
    assert kept.get("a")[1].max() == 0


def test_auto_takes_a_quarter_of_what_is_free_shared_by_the_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache, "available_memory", lambda: 8e9)
    assert cache_bytes("auto", 1) == 2e9
    assert cache_bytes("auto", 4) == 0.5e9
    assert cache_bytes("off", 1) == 0
    assert cache_bytes("1.5", 1) == 1.5e9
    assert open_cache("auto", 7000, 256, 1) is not None  # 1.8 GB, of which no page is used
    assert open_cache("auto", 8000, 256, 1) is None
    assert open_cache("off", 1, 256, 1) is None


@pytest.mark.parametrize("setting", ["-1", "much", "inf", "nan"])
def test_other_settings_are_refused(setting: str) -> None:
    with pytest.raises(InputError, match=f"--cache: is '{setting}'"):
        cache_bytes(setting, 1)


def test_available_memory_is_at_most_what_the_machine_has() -> None:
    facts = Path("/proc/meminfo")
    if not facts.exists():
        pytest.skip("no /proc/meminfo to compare with")
    total = float(facts.read_text().split()[1]) * 1024
    assert 0 < available_memory() <= total
