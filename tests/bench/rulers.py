"""What loading and inference are measured with: one ruler for this project and for its peers."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from contest import Figures, seconds_since_start

SIZE, PAGE, LATENCIES, WARM = 256, 4096, 8, 4


def rate(
    batches: Iterator[Any], count: int, seconds: float, wait: Callable[[], Any] = int
) -> float:
    """Return the images a second of batches of `count`, over about so many seconds, after some.

    `wait` waits for the device.
    """
    for _ in range(WARM):
        next(batches)
    wait()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        next(batches)
        done += count
    wait()
    return done / (time.perf_counter() - started)


def measure_loading(epoch: Callable[[int], Iterator[Any]], seconds: float) -> Figures:
    """Time whole epochs of a loader for at least so long: "images" a second.

    `epoch` yields an epoch, by its number, as (images, masks): what goes to the device, bytes,
    N x 256 x 256 x 3 and N x 256 x 256, 0 where no eye is. The first epoch warms up and is summed
    in full ("level", "eyes", "pictures"), which shows that all deliver the same pixels; later a
    value of every page is read.
    """
    level, eyes, pictures = 0.0, 0.0, 0
    for images, masks in epoch(0):
        shape = tuple(images.shape[1:]), masks.numel() // len(images), images.itemsize
        if shape != ((SIZE, SIZE, 3), SIZE**2, 1) or masks.itemsize != 1:
            raise SystemExit(f"not bytes of {SIZE} x {SIZE}: {images.shape} {images.dtype}")
        level += float(images.double().mean()) * len(images)
        eyes += float((masks > 0).double().mean()) * len(images)
        pictures += len(images)
    figures = {"level": level / pictures, "eyes": eyes / pictures, "pictures": pictures}
    done, number, started = 0, 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        number += 1
        for batch in epoch(number):
            done += len(batch[0])
            for values in batch:
                float(values.reshape(-1)[::PAGE].sum())
    return figures | {"images": done / (time.perf_counter() - started)}


def measure_inference(
    photos: Sequence[Path],
    segment: Callable[[Sequence[Path]], Any],
    segment_all: Callable[[Sequence[Path]], Any],
    network: Callable[[int], Callable[[], Any]],
) -> Figures:
    """Time a way from photograph to mask file: one by one, all of them, and the network alone.

    `network` returns, for a batch of so many, what runs the network. Figures: "start", seconds from
    starting the process to the first mask; "latency", milliseconds of one photograph; "network_1"
    and "network_16", milliseconds a picture; "images" a second.
    """
    segment(photos[:1])
    figures = {"start": seconds_since_start()}
    for photo in photos[:4]:  # TorchScript and malloc take a few to settle
        segment([photo])
    times = [seconds(segment, [photo]) for photo in (list(photos) * LATENCIES)[:LATENCIES]]
    figures["latency"] = 1e3 * statistics.median(times)
    for batch in (1, 16):
        once = network(batch)
        times = [seconds(once) for _ in range(3 + max(3, 16 // batch))][3:]
        figures[f"network_{batch}"] = 1e3 * statistics.median(times) / batch
    segment_all(photos[:8])
    return figures | {"images": len(photos) / seconds(segment_all, photos)}


def seconds(work: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started
