"""Figures of the live page in headless Chromium, on WebAssembly: `make bench-page`.

A face is drawn, the page segments it as a photo and then as a camera's picture. Bytes are what
comes over the wire from the page's own server, which does not compress.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from infer import server
from preprocess.sample import SampleConfig, draw_face

STEPS = ("read", "find", "cut out", "network", "bring back", "draw")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
]  # fmt: skip


def film(path: Path) -> None:
    """Write a film of 640 x 480 in which a face moves from side to side."""
    face, frames = draw_face(17, SampleConfig(size=480, mask_size=64)).image, []
    for shift in 40 * np.sin(np.linspace(0, 2 * np.pi, 30, endpoint=False)):
        frame = np.full((480, 640, 3), 180, np.uint8)
        frame[:, 80 + int(shift) : 560 + int(shift)] = face
        frames.append(simplejpeg.encode_jpeg(frame, 85))
    path.write_bytes(b"".join(frames))


def times(page: Any) -> list[float]:
    """Return the milliseconds of each step, as the page shows them."""
    return [float(value) for value in re.findall(r"([\d.]+) ms", page.text_content("#times"))]


def visit(browser: Any, url: str, frames: int) -> tuple[dict[str, float], list[list[float]]]:
    """Load the page anew; return single figures, and the steps of each frame."""
    page = browser.new_context(viewport={"width": 1320, "height": 900}).new_page()
    page.set_default_timeout(300_000)
    sizes: list[int] = []
    page.context.on("response", lambda answer: sizes.append(
        0 if answer.from_service_worker else int(answer.headers.get("content-length", 0))
    ))  # fmt: skip
    page.goto(url)
    page.wait_for_selector("#drawn >> text=MB once")
    first, start = sum(sizes), time.perf_counter()
    page.click("#drawn")
    page.wait_for_selector("body[data-state=photo]")
    figures = {
        "page, MB": first / 1e6, "page, runtime and networks, MB": sum(sizes) / 1e6,
        "first mask after the click, s": time.perf_counter() - start,
    }  # fmt: skip
    rows, seen = [], 0
    page.click("#camera")
    page.wait_for_selector("body[data-state=camera]")
    while seen < frames:
        now = int(page.get_attribute("body", "data-frames"))
        if now > seen and now > 5:  # the first frames warm up
            rows.append(times(page))
        seen = now
        page.wait_for_timeout(5)
    page.context.close()
    return figures, rows


def main() -> None:
    """Measure, and print two tables."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=60)
    options, _ = parser.parse_known_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        sys.exit("Error: no Chromium. On Debian or Ubuntu: apt-get install chromium")
    found: list[dict[str, float]] = []
    rows: list[list[float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        server.PageServer(server.DIST) as running,
        sync_playwright() as playwright,
    ):
        threading.Thread(target=running.serve_forever, daemon=True).start()
        video = Path(folder) / "face.mjpeg"
        film(video)
        for _ in range(options.rounds):
            flags = [*FLAGS, f"--use-file-for-fake-video-capture={video}"]
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            figures, frames = visit(browser, running.url, options.frames)
            found.append(figures)
            rows += frames
            browser.close()
        running.shutdown()
    load = os.getloadavg()[0]
    print(f"{options.rounds} rounds, {os.cpu_count()} cores, load average {load:.1f}\n")
    print("| what | median | best |\n| --- | --- | --- |")
    for name in found[0]:
        values = [figures[name] for figures in found]
        print(f"| {name} | {statistics.median(values):,.2f} | {min(values):,.2f} |")
    for name, values in zip(
        (*STEPS, "all"), [*zip(*rows, strict=True), map(sum, rows)], strict=True
    ):
        values = list(values)
        print(f"| {name}, ms a frame | {statistics.median(values):.1f} | {min(values):.1f} |")


if __name__ == "__main__":
    main()
