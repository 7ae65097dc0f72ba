"""Sliding-window prediction: a preprocessed image in, logits of the same grid out."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from segkit.errors import UserError
from segkit.inference.engines import find_engine
from segkit.inference.engines.forward import Forward
from segkit.inference.flips import Flip, SideSwap, all_flips
from segkit.inference.tiling import Tile, make_tiles, symmetric_padding
from segkit.precision import PrecisionName
from segkit.runtime import log, one_torch_thread, progress
from segkit.types import Shape

BATCH_VOXELS_ON_GPU = 2**21
"""Voxels of patches that go through a network together: what fills a GPU, and hardly more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionSettings:
    """How to predict; the weights are not part of it."""

    step: float = 0.5
    """Largest distance between neighbouring tiles as a share of the patch, in (0, 1]."""
    mirror_axes: tuple[int, ...] = ()
    """Axes of the patch over whose flips (all combinations) logits are averaged."""
    swap: SideSwap | None = None
    """What changes places in flips between left and right."""
    extend: Callable[[Tensor], Tensor] | None = None
    """Makes of a tile (C, Z, Y, X) what the networks take, before it is mirrored; None: they take
    the tile. What all tiles together would need too much memory for, is made here."""
    batch_size: int | None = None
    """Forward passes (tiles and their flips) that go through the network together; None: as many
    as :func:`default_batch_size` allows, at least one."""
    precision: PrecisionName = "fp32"
    """Of the networks, when an engine is started for them."""
    engine: str = "torch"

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            fix = "0.5 is usual; 1 is faster and a little less accurate"
            raise UserError(f"the step must lie in (0, 1], got {self.step}", fix=fix)
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(
                f"the batch size must be at least 1, got {self.batch_size}", fix="use 1 or more"
            )


@torch.inference_mode()
def predict_logits(
    forwards: Sequence[Forward],
    image: np.ndarray | Tensor,
    patch_size: Shape,
    settings: PredictionSettings,
    device: torch.device | str,
    invalid: np.ndarray | None = None,
) -> Tensor:
    """Predict one image tile by tile; overlapping tiles blend with a Gaussian.

    Logits, never probabilities, are averaged: over tiles, over flips, and over the networks
    (folds). A 2D network (patch with two axes) goes slice by slice along the first axis.

    Args:
        forwards: Of one network or more; each turns (B, C, *patch) into (B, out, *patch).
        image: Preprocessed (C, Z, Y, X). Smaller than the patch: zeros are put around it for the
            time of the prediction.
        patch_size: Two or three axes.
        settings: Step, flips and batch.
        device: Where logits are added up. Where its memory does not suffice, batches get smaller;
            if the image and its logits do not fit there besides the networks, they stay in main
            memory, which is slower. Either is logged.
        invalid: (Z, Y, X) bool on the grid of ``image``; tiles that are wholly invalid are not
            predicted and count as zeros. Of an image without any valid voxel one tile is
            predicted.

    Returns:
        (out, Z, Y, X) float32, on ``device`` or in main memory.

    Raises:
        UserError: the device is too small for a single patch, or logits are NaN or infinite.
    """
    assert forwards, "no network to predict with"
    device = torch.device(device)
    patch = (1,) * (3 - len(patch_size)) + tuple(patch_size)
    padding = symmetric_padding(tuple(image.shape[1:]), patch)
    padded = _pad(torch.as_tensor(_writable(image), dtype=torch.float32), padding, 0.0)
    tiles = make_tiles(tuple(padded.shape[1:]), patch, settings.step)
    if invalid is not None:
        mask = _pad(torch.as_tensor(_writable(invalid))[None], padding, True)[0]
        tiles = [tile for tile in tiles if not mask[tile.slices].all()] or tiles[:1]
    slide = functools.partial(
        _slide,
        tiles=tiles,
        flips=all_flips(settings.mirror_axes, len(patch_size), settings.swap),
        extend=settings.extend or _unchanged,
        forward=functools.partial(_forward, forwards, flat=len(patch_size) == 2),
    )
    engine = find_engine(settings.engine, device.type)
    batch_size = settings.batch_size or default_batch_size(patch, device, settings.engine)
    with one_torch_thread() if engine.own_threads else contextlib.nullcontext():
        logits = _with_fallback(slide, padded, device, batch_size)
    inner = [slice(b, n - a) for (b, a), n in zip(padding, padded.shape[1:], strict=True)]
    return logits[(slice(None), *inner)]


def default_batch_size(patch_size: Shape, device: torch.device, engine: str = "torch") -> int:
    """Return how many patches go through a network together at most."""
    on_cpu = device.type == "cpu"
    voxels = find_engine(engine, "cpu").batch_voxels if on_cpu else BATCH_VOXELS_ON_GPU
    return 1 if voxels is None else max(1, voxels // math.prod(patch_size))


def _unchanged(tile: Tensor) -> Tensor:
    return tile


def _writable(array: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """Copy read-only arrays (memory maps), which torch does not take without a warning."""
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        return np.array(array)
    return array


def _pad(volume: Tensor, padding: Sequence[tuple[int, int]], value: float) -> Tensor:
    """Pad (C, Z, Y, X); torch counts axes from the last."""
    return pad(volume, [n for pair in reversed(padding) for n in pair], value=value)


def _with_fallback(
    slide: Callable[..., Tensor], image: Tensor, device: torch.device, batch_size: int
) -> Tensor:
    """Keep image and logits on the device, or in main memory where single patches fail too."""
    sizes = [batch_size >> halvings for halvings in range(batch_size.bit_length())]
    for place, size in itertools.product((device, torch.device("cpu")), sizes):
        try:
            return _finite(slide(image.to(place), batch_size=size))
        except torch.cuda.OutOfMemoryError:
            # Retried outside, where this exception no longer holds on to the memory.
            pass
        if place == device and size == batch_size:
            what = "%s has too little memory; trying smaller batches, then logits in main memory"
            log.warning(what, device)
        torch.cuda.empty_cache()
    what = f"{device} has too little memory for the network and a single patch"
    fix = "use a larger GPU, or --device cpu"
    raise UserError(what, where=f"device {device}", fix=fix)


def _slide(
    image: Tensor,
    *,
    tiles: Sequence[Tile],
    flips: Sequence[Flip],
    batch_size: int,
    extend: Callable[[Tensor], Tensor],
    forward: Callable[[Tensor], Tensor],
) -> Tensor:
    """Add up the weighted logits of every tile and flip, on the device of ``image``."""
    logits: Tensor | None = None
    passes = list(itertools.product(tiles, flips))
    count = math.ceil(len(passes) / batch_size)
    edges = [len(passes) * i // count for i in range(count + 1)]
    batches = [passes[start:stop] for start, stop in itertools.pairwise(edges)]
    for batch in progress(batches, "  tiles", total=len(batches), closing_line=False):
        views = [flip.mirrored(extend(image[(slice(None), *tile.slices)])) for tile, flip in batch]
        outputs = forward(torch.stack(views)).to(image.device)
        if logits is None:
            logits = image.new_zeros(outputs.shape[1], *image.shape[1:])
        for tile, summed in _summed_flips(batch, outputs):
            target = logits[(slice(None), *tile.slices)]
            target.addcmul_(summed, _weight(tile, image.device), value=1 / len(flips))
    assert logits is not None
    return logits


def _summed_flips(
    batch: Sequence[tuple[Tile, Flip]], outputs: Tensor
) -> Iterable[tuple[Tile, Tensor]]:
    """Flip the outputs of a batch back, and sum those of the same tile."""
    pairs = zip(batch, outputs, strict=True)
    for _, group in itertools.groupby(pairs, key=lambda pair: id(pair[0][0])):
        members = list(group)
        tile, _ = members[0][0]
        yield tile, functools.reduce(torch.add, (flip.undone(o) for (_, flip), o in members))


def _weight(tile: Tile, device: torch.device) -> Tensor:
    """Return the (Z, Y, X) share of a tile in its voxels."""
    z, y, x = (torch.from_numpy(weights).to(device) for weights in tile.weights)
    return z[:, None, None] * y[:, None] * x


def _forward(forwards: Sequence[Forward], batch: Tensor, *, flat: bool) -> Tensor:
    """Average the logits of all networks for one batch (B, C, Z, Y, X); float32.

    ``flat``: the networks are 2D; Z is 1 and taken away for them.
    """
    batch = batch.squeeze(2) if flat else batch
    logits = forwards[0](batch)
    for forward in forwards[1:]:
        logits = logits + forward(batch)
    logits = logits / len(forwards) if len(forwards) > 1 else logits
    return logits.unsqueeze(2) if flat else logits


def _finite(logits: Tensor) -> Tensor:
    if all(bool(channel.isfinite().all()) for channel in logits):
        return logits
    fix = "use --precision fp32; if that does not help, the image or the weights are damaged"
    raise UserError("the network returned NaN or infinite logits", fix=fix)
