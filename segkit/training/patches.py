"""Patches from preprocessed cases: where they lie, how they are cut, and read ahead.

Everything random about batch number i is drawn from a generator seeded with (seed, stream, i), so
a run that is resumed sees the batches it would have seen.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase

from segkit.dataset.labels import INVALID
from segkit.preprocessing.locations import Locations
from segkit.preprocessing.store import read_soon
from segkit.training.sampling import (
    FREE,
    Rounds,
    cases_by_target,
    choose_centre,
    draw,
    forced_foreground,
    plan_batches,
)

OPEN_CASES = 32
LabelMaps = Callable[[str], np.ndarray]
"""Case id to (1 or S, Z, Y, X) small integers, possibly a memory map."""
_OpenCase = tuple[np.ndarray, tuple[np.ndarray, ...], Locations]


class PatchSource(Protocol):
    """What the loader needs of a preprocessed case store."""

    def image(self, case_id: str) -> np.ndarray:
        """Return (C, Z, Y, X) float32, possibly a memory map."""

    def seg(self, case_id: str) -> np.ndarray:
        """Return (1 or S, Z, Y, X) small integers, possibly a memory map."""

    def locations(self, case_id: str) -> Locations:
        """Return (n, 3) voxel coordinates by target."""


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """Sizes are in planned axis order; a 2D patch has two axes and is cut from one slice."""

    sampled_size: tuple[int, ...]
    """Cut from the case; at least the final size, so that rotation has something to turn in."""
    final_size: tuple[int, ...]
    """What the network sees."""
    batch_size: int
    foreground_share: float
    """Of the batch, rounded: its last patches are centred on foreground."""
    probabilistic: bool = False
    """Whether each patch is with that chance instead."""
    seed: tuple[int, ...]
    """Seed and stream number, e.g. (seed, fold, 0 for training)."""
    class_weights: Mapping[Any, float] | None = None
    """Relative chance of each target (key of the locations) to be the foreground a patch is
    centred on; None: the same for all."""
    case_weights: tuple[float, ...] | None = None
    """Relative chance of each case to be drawn; None: the same for all."""
    epoch_batches: int | None = None
    """Batches of an epoch that is to show every target of the cases; None for training."""


def patch_bounds(
    shape: Sequence[int], sampled: Sequence[int], final: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Inclusive range of lower corners a sampled patch may take, per axis.

    It may overhang the case by half of what the final patch does not need, and by what it is
    larger than the case.
    """
    shape_, sampled_, final_ = (np.asarray(x) for x in (shape, sampled, final))
    need = np.maximum(sampled_ - final_, sampled_ - shape_)
    half = -(-need // 2)
    return -half, np.maximum(shape_ + half - sampled_, -half)


def cut(array: np.ndarray, lower: Iterable[int], size: Sequence[int], fill: float) -> np.ndarray:
    """Cut (C, *size) starting at ``lower`` (may be negative); what lies outside is ``fill``."""
    result = np.full((array.shape[0], *size), fill, dtype=array.dtype)
    source, goal = [slice(None)], [slice(None)]
    for start, extent, length in zip(lower, size, array.shape[1:], strict=True):
        first, last = max(start, 0), min(start + extent, length)
        if first >= last:
            return result
        source.append(slice(first, last))
        goal.append(slice(first - start, last - start))
    read_soon(array, source[1:])
    result[tuple(goal)] = array[tuple(source)]
    return result


class PatchLoader(SlimDataLoaderBase):
    """Draws batches of patches; batch number ``iteration`` is always the same one."""

    def __init__(
        self,
        source: PatchSource,
        cases: Sequence[str],
        settings: PatchSettings,
        previous: LabelMaps | None = None,
    ) -> None:
        super().__init__(source, settings.batch_size)
        self.source = source
        self.previous = previous
        self.cases = list(cases)
        self.settings = settings
        self.iteration = 0
        self.flat = len(settings.final_size) == 2
        # Memory maps; each holds a file descriptor, so only some stay open.
        self.open_case = functools.lru_cache(maxsize=OPEN_CASES)(self._open)

    @functools.cached_property
    def rounds(self) -> Rounds:
        """What is due in each batch of an epoch; the locations of all cases are read for it."""
        settings = self.settings
        if settings.epoch_batches is None:
            return FREE
        cases = cases_by_target((case, self.source.locations(case)) for case in self.cases)
        batches = plan_batches(
            list(cases),
            batches=settings.epoch_batches,
            batch_size=settings.batch_size,
            forced=forced_foreground(settings.batch_size, settings.foreground_share),
        )
        return Rounds(cases=cases, batches=batches)

    def generate_train_batch(self) -> dict[str, Any]:
        """Return image (B, C, *S) float32, seg (B, 1 or S, *S), the case ids, and advance.

        The label maps of a previous stage follow those of the reference in seg.
        """
        rng = np.random.default_rng([*self.settings.seed, self.iteration])
        samples = self._samples(rng)
        self.iteration += 1
        pairs = [
            self._patch(rng, case, target, foreground=foreground)
            for (case, target), foreground in zip(samples, self._foreground(rng), strict=True)
        ]
        images, segs = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        return {"image": images, "seg": segs, "cases": [case for case, _ in samples]}

    def _samples(self, rng: np.random.Generator) -> list[tuple[str, Any]]:
        """Draw the case of every sample, with the target it is centred on where one is due."""
        settings, rounds = self.settings, self.rounds
        chosen = draw(rng, settings.case_weights, len(self.cases), size=settings.batch_size)
        samples: list[tuple[str, Any]] = [(self.cases[i], None) for i in chosen]
        due = rounds.batches[self.iteration % len(rounds.batches)]
        for sample, target in enumerate(due, start=len(samples) - len(due)):
            cases = rounds.cases[target]
            samples[sample] = cases[rng.integers(len(cases))], target
        return samples

    def _foreground(self, rng: np.random.Generator) -> list[bool]:
        """Say of every sample whether it is centred on foreground."""
        count, share = self.settings.batch_size, self.settings.foreground_share
        if self.settings.probabilistic:
            return (rng.random(count) < share).tolist()
        free = count - forced_foreground(count, share)
        return [sample >= free for sample in range(count)]

    def _patch(
        self, rng: np.random.Generator, case: str, target: Any, *, foreground: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        image, maps, locations = self.open_case(case)
        if target is not None:
            locations, foreground = {target: locations[target]}, True
        slab = (1,) if self.flat else ()
        sampled, final = slab + self.settings.sampled_size, slab + self.settings.final_size
        lowest, highest = patch_bounds(image.shape[1:], sampled, final)
        centre = choose_centre(
            rng, locations, foreground=foreground, weights=self.settings.class_weights
        )
        if centre is None:
            lower = rng.integers(lowest, highest + 1)
        else:
            lower = np.clip(centre - np.asarray(sampled) // 2, lowest, highest)
        patch = cut(image, lower, sampled, 0)
        segs = [cut(labels, lower, sampled, INVALID) for labels in maps]
        seg = segs[0] if len(segs) == 1 else np.concatenate(segs)
        return (patch[:, 0], seg[:, 0]) if self.flat else (patch, seg)

    def _open(self, case: str) -> _OpenCase:
        source, previous = self.source, self.previous
        image, seg = source.image(case), source.seg(case)
        maps = (seg,) if previous is None else (seg, previous(case))
        assert all(labels.shape[1:] == image.shape[1:] for labels in maps), case
        return image, maps, source.locations(case)


def read_ahead(loader: Callable[[], Any], count: int, *, depth: int = 3) -> Iterator[Any]:
    """Yield ``loader()`` ``count`` times, drawn by a thread that keeps ``depth`` results ready.

    An exception in the thread is raised here; leaving the iterator early stops the thread.
    """
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(loader, count, ready, stop), daemon=True)
    thread.start()
    try:
        for _ in range(count):
            item = ready.get()
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        while not ready.empty():
            ready.get_nowait()
        thread.join()


@dataclass(frozen=True)
class _Failure:
    error: BaseException


def _fill(
    loader: Callable[[], Any], count: int, ready: queue.Queue[Any], stop: threading.Event
) -> None:
    for _ in range(count):
        try:
            item = loader()
        except BaseException as error:
            item = _Failure(error)
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                break
            except queue.Full:
                continue
        if stop.is_set() or isinstance(item, _Failure):
            return
