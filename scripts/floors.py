"""What this machine can do at best, which figures are told next to: operations, bytes, programs."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from benchmarking import median_seconds


def arithmetic_rate(dtype: str) -> float:
    """Return the operations a second that torch reaches on this machine: the roof.

    The faster of a large matrix product and a large convolution, for on some processors the
    library of the one is slower than that of the other.
    """
    import torch

    kind = getattr(torch, dtype)
    size, width, edge = 4096, 128, 32
    matrix = torch.randn(size, size).to(kind)
    product = 2 * size**3 / median_seconds(lambda: matrix @ matrix, 3)
    layer = torch.nn.Conv3d(width, width, 3, padding=1, bias=False)
    layer = layer.to(dtype=kind, memory_format=torch.channels_last_3d)
    image = torch.randn(2, width, edge, edge, edge).to(kind)
    image = image.contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        convolved = median_seconds(lambda: layer(image), 3)
    return max(product, 2 * len(image) * edge**3 * 27 * width**2 / convolved)


@cache
def copy_rate(threads: int | None = None) -> float:
    """Return the bytes a second that are read and written in copying what no cache holds.

    Args:
        threads: That copy; None: one a core.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    try:
        source = torch.ones(1 << 26)
        target = torch.empty_like(source)
        return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), 5)
    finally:
        torch.set_num_threads(before)


def floor_of_moving(moved: int, rate: float) -> str:
    """Tell how long it takes to move so many bytes at a rate (bytes a second)."""
    took = f"{moved / rate * 1e3:.2g} ms at {rate / 1e9:.0f} GB/s"
    return f"{moved / 2**20:.3g} MiB are read and written at least, {took}"


def floor_of_command(python: str | Path, files: Sequence[Path] = ()) -> str:
    """Tell how long Python takes to start, and all cores to decompress the files of a command."""
    start = median_seconds(lambda: subprocess.run([python, "-c", ""], check=True), 7)
    text = f"Python alone starts and ends in {start * 1e3:.0f} ms"
    if not files:
        return text
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        seconds = median_seconds(lambda: list(pool.map(_decompress, files)), 5)
    return f"{text}, and {len(files)} files are read and decompressed in {seconds * 1e3:.0f} ms"


def _decompress(path: Path) -> int:
    return len(gzip.decompress(path.read_bytes()))
