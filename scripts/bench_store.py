#!/usr/bin/env python3
"""Storage of preprocessed cases: random patches from memory maps, nnU-Net's blosc2 and others.

scripts/bench_store.py --peer FOLDER

A CT (1 x 400 x 512 x 512, a real one resampled and mirrored to that size, for its noise decides
how it compresses) and an MR of its own size (4 x 155 x 240 x 240). Cold: the system is told to
forget the file before each patch (fsync, then POSIX_FADV_DONTNEED), and it is opened anew.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from benchmarking import Row, Sample, alternate, measured, parse, run_side, save
from scipy import ndimage

from segkit.preprocessing.store import read_soon

PATCH = (128, 128, 128)
CT_SHAPE = (400, 512, 512)
OURS, PEER, HALF = "memory maps", "blosc2", "float16 maps"
WARM, COLD = 24, 8
TIMES = {
    "write": "writing",
    "warm": "a patch of 128^3, warm",
    "cold": "a patch of 128^3, cold",
    "slice_warm": "a slice, warm",
    "slice_cold": "a slice, cold",
}


def main() -> None:
    """Measure every way of storing, on a CT and on an MR."""
    options = parse(__doc__, repeats=3).parse_args()
    if options.side:
        return measure(options.side, Path(os.environ["SEGKIT_BENCH_STORE"]))
    rows, notes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in {"CT": ct, "MR": mr}.items():
            source = Path(folder) / name
            source.mkdir()
            image, seg = make(options.data)
            np.save(source / "image.npy", image)
            np.save(source / "seg.npy", seg)
            found = alternate(sides(options, source), options.repeats)
            shape = "x".join(map(str, image.shape))
            rows += [row(f"{name} {shape}, {what}", key, found) for key, what in TIMES.items()]
            notes += [note(name, side, samples) for side, samples in found.items()]
    save(options, "store", rows, *notes)


def sides(options: argparse.Namespace, source: Path) -> dict[str, Callable[[], Sample]]:
    """Return what measures each way, in the peer's environment."""
    env = {"SEGKIT_BENCH_STORE": str(source)}

    def side(name: str) -> Callable[[], Sample]:
        return lambda: run_side(options, name, env=env)

    return {name: side(name) for name in STORES}


def row(what: str, key: str, found: dict[str, tuple[Sample, ...]]) -> Row:
    """Compare memory maps with nnU-Net's format in one time."""
    of = {
        side: [replace(sample, seconds=sample.result[key], peak_bytes=0) for sample in found[side]]
        for side in (OURS, PEER)
    }
    return Row(what=what, segkit=of[OURS], peer=of[PEER], equal="equal patches")


def note(name: str, side: str, samples: tuple[Sample, ...]) -> str:
    """Say all that was measured of one way."""
    if "missing" in samples[0].result:
        return f"{name}, {side}: {samples[0].result['missing']} is not installed"
    median = {
        key: statistics.median(sample.result[key] for sample in samples)
        for key in (*TIMES, "cpu", "disk")
    }
    times = ", ".join(f"{what} {milliseconds(median[key])}" for key, what in TIMES.items())
    cpu = milliseconds(median["cpu"])
    size = f"{median['disk'] / 2**20:.0f} MiB"
    return f"{name}, {side}: {size}; {times}; a warm patch takes {cpu} of processor time"


def milliseconds(seconds: float) -> str:
    """Write a time."""
    value = 1000 * seconds
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def measure(side: str, source: Path) -> None:
    """Write the case in one way, read random patches, and report the medians."""
    needed = {PEER: "blosc2", "zarr": "zarr"}.get(side)
    with tempfile.TemporaryDirectory(dir=source) as name, measured() as result:
        if needed and importlib.util.find_spec(needed) is None:
            result["missing"] = needed
            return
        image, seg = np.load(source / "image.npy"), np.load(source / "seg.npy")
        folder, store = Path(name), STORES[side]
        begun = time.perf_counter()
        store.write(folder, image, seg)
        flush(folder)
        result["write"] = time.perf_counter() - begun
        files = [path for path in folder.rglob("*") if path.is_file()]
        result["disk"] = sum(path.stat().st_size for path in files)
        check(store, folder, image, exact=side != HALF)
        read_all(store, folder, image.shape[1:], result)


def read_all(store: Store, folder: Path, shape: tuple[int, ...], result: dict[str, Any]) -> None:
    """Measure patches and slices, warm and cold."""
    rng = np.random.default_rng(0)
    for kind, size in (("", PATCH), ("slice_", (1, *shape[1:]))):
        boxes = [box(rng, shape, size) for _ in range(WARM)]
        for part in boxes:
            read(store, folder, part)
        cpu = time.process_time()
        result[f"{kind}warm"] = statistics.median(read(store, folder, part) for part in boxes)
        if not kind:
            result["cpu"] = (time.process_time() - cpu) / len(boxes)
        result[f"{kind}cold"] = statistics.median(
            read(store, folder, part, cold=True) for part in boxes[:COLD]
        )


def box(rng: np.random.Generator, shape: tuple[int, ...], size: tuple[int, ...]) -> Any:
    """Return a random place inside."""
    starts = [int(rng.integers(0, n - m + 1)) for n, m in zip(shape, size, strict=True)]
    return (slice(None), *(slice(a, a + m) for a, m in zip(starts, size, strict=True)))


def read(store: Store, folder: Path, part: Any, *, cold: bool = False) -> float:
    """Open the case and copy a patch of image and labels; returns the time."""
    if cold:
        flush(folder, forget=True)
    begun = time.perf_counter()
    for array in store.open(folder):
        store.prepare(array, part[1:])
        np.array(array[part])
    return time.perf_counter() - begun


def check(store: Store, folder: Path, image: np.ndarray, *, exact: bool) -> None:
    """Refuse a store that gives back other numbers."""
    part = (slice(None), slice(7, 40), slice(3, 100), slice(50, 90))
    found = np.asarray(store.open(folder)[0][part], dtype=np.float32)
    if not np.allclose(found, image[part], rtol=0 if exact else 1e-3, atol=0 if exact else 1e-3):
        sys.exit("the patch differs from what was stored")


def flush(folder: Path, *, forget: bool = False) -> None:
    """Bring all files to the disk, and let the system forget them where asked."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            if forget:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def write_maps(folder: Path, image: np.ndarray, seg: np.ndarray) -> None:
    """Write plain ``.npy`` files, as segkit does."""
    np.save(folder / "case.npy", image)
    np.save(folder / "case_seg.npy", seg)


def write_halves(folder: Path, image: np.ndarray, seg: np.ndarray) -> None:
    """Write images of two bytes a voxel."""
    write_maps(folder, image.astype(np.float16), seg)


def open_maps(folder: Path) -> tuple[Any, ...]:
    """Map both files."""
    return tuple(np.load(folder / f"case{end}.npy", mmap_mode="r") for end in ("", "_seg"))


def write_blosc2(folder: Path, image: np.ndarray, seg: np.ndarray) -> None:
    """Write with nnU-Net's data set class, in the chunks it chooses for the patch."""
    from nnunetv2.training.dataloading import nnunet_dataset

    choose = nnunet_dataset.comp_blosc2_params
    blocks, chunks = choose(image.shape, PATCH, image.itemsize)
    blocks_seg, chunks_seg = choose(seg.shape, PATCH, seg.itemsize)
    more = {"chunks_seg": chunks_seg, "blocks_seg": blocks_seg}
    save_case = nnunet_dataset.nnUNetDatasetBlosc2.save_case
    save_case(image, seg, {}, str(folder / "case"), chunks=chunks, blocks=blocks, **more)


def open_blosc2(folder: Path) -> tuple[Any, ...]:
    """Open as nnU-Net does."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    return nnUNetDatasetBlosc2(str(folder), ["case"]).load_case("case")[:2]


def write_zarr(folder: Path, image: np.ndarray, seg: np.ndarray) -> None:
    """Write chunks of 64^3 with zarr's own compression."""
    import zarr

    for name, array in (("image", image), ("seg", seg)):
        zarr.create_array(folder / name, data=array, chunks=(1, 64, 64, 64))


def open_zarr(folder: Path) -> tuple[Any, ...]:
    """Open both arrays."""
    import zarr

    return tuple(zarr.open_array(folder / name, mode="r") for name in ("image", "seg"))


@dataclass(frozen=True, kw_only=True)
class Store:
    """One way of storing a case."""

    write: Callable[[Path, np.ndarray, np.ndarray], None] = write_maps
    open: Callable[[Path], tuple[Any, ...]] = open_maps
    prepare: Callable[[Any, Any], None] = lambda array, box: None
    """Called before a box of an array is read."""


STORES = {
    OURS: Store(prepare=read_soon),
    PEER: Store(write=write_blosc2, open=open_blosc2),
    "memory maps, rows not announced": Store(),
    HALF: Store(write=write_halves),
    "zarr": Store(write=write_zarr, open=open_zarr),
}


def ct(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a CT and its labels: resampled by 1.5, mirrored to size, z-scored."""
    source = data / "Dataset130_TotalSegCT"
    pair = (
        source / "imagesTr" / "ts_ct_full_0000.nii.gz",
        source / "labelsTr" / "ts_ct_full.nii.gz",
    )
    image, seg = (np.asanyarray(nib.load(path).dataobj).T for path in pair)
    image = ndimage.zoom(image.astype(np.float32), 1.5, order=3)
    seg = ndimage.zoom(seg.astype(np.int16), 1.5, order=0)
    widths = [(0, n - m) for n, m in zip(CT_SHAPE, image.shape, strict=True)]
    image, seg = (np.pad(array, widths, mode="symmetric")[None] for array in (image, seg))
    return (image - image.mean()) / image.std(), seg


def mr(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return two patients' channels as those of one, z-scored inside the brain, and labels."""
    source = data / "Dataset110_BraTS2015"
    files = sorted((source / "imagesTr").glob("*.nii.gz"))[:4]
    image = np.stack([np.asanyarray(nib.load(path).dataobj).T for path in files])
    image = image.astype(np.float32)
    for channel in image:
        brain = channel != 0
        channel[brain] = (channel[brain] - channel[brain].mean()) / channel[brain].std()
    label = sorted((source / "labelsTr").glob("*.nii.gz"))[0]
    return image, np.asanyarray(nib.load(label).dataobj).T[None].astype(np.int16)


if __name__ == "__main__":
    main()
