"""Two settings of the process that cost or save more time than any line of this project.

glibc hands freed memory back to the kernel and then faults it in again, page by page, for every
picture-sized buffer; keeping it made decoding and training 1.2 to 3 times as fast where we
measured. OpenMP threads spin while they wait for work, which starves every other process of the
core; asking them to sleep costs little alone and saves an order of magnitude next to a busy
neighbour. Environment variables of the user's own win over both.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Parameter numbers of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3

_KEEP_BYTES = 1 << 30
_TOP_PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory for reuse; return whether it agreed (False off glibc)."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has no mallopt
        return False
    settings = (
        ("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, _KEEP_BYTES),
        ("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, _KEEP_BYTES),
        ("MALLOC_TOP_PAD_", _M_TOP_PAD, _TOP_PAD_BYTES),
    )
    return all(name in os.environ or mallopt(number, value) for name, number, value in settings)


def tune_process(enabled: bool = True) -> str:
    """Apply both settings to this process and, through the environment, to its children.

    Call it before torch is imported: OpenMP reads its policy once, when it is loaded.

    Returns
    -------
    str
        One line for the log that says what was done.
    """
    if not enabled:
        return "process tuning off"
    policy = os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    late = " (torch was imported before: no effect)" if "torch" in sys.modules else ""
    kept = "kept" if keep_freed_memory() else "left to the system"
    return f"process tuning: freed memory {kept}, OMP_WAIT_POLICY={policy}{late} (off: --no-tune)"
