"""Preparing a model for convolutions in integers, and what that changes in its predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from segkit import options as opt
from segkit.dataset.cases import Case
from segkit.dataset.labels import LabelSchema
from segkit.errors import UsageError
from segkit.files import check_writable
from segkit.inference.case import CasePredictor
from segkit.inference.engines import INT8, torch_engine, trial_input
from segkit.inference.engines.openvino import check_int8, import_openvino
from segkit.inference.engines.ranges import (
    RANGES_FILE,
    MeasuredRanges,
    RangeObserver,
    save_ranges,
)
from segkit.inference.ensemble_folder import is_ensemble, load_ensemble
from segkit.inference.files import look_for_images
from segkit.inference.model import load_networks
from segkit.networks.unet import fuse_upsamplings
from segkit.precision import choose_precision
from segkit.runtime import log, prepare_torch, progress
from segkit.workflows.common import Outcome
from segkit.workflows.models import Loading, load_models

ENOUGH = 0.99
"""Dice between predictions in integers and torch's, below which it is warned."""
CPU = torch.device("cpu")


def quantize(options: opt.Quantize) -> Outcome[tuple[Path, ...]]:
    """Measure for ``openvino-int8``; see :class:`segkit.options.Quantize`."""
    if options.cases < 1:
        raise UsageError(f"--cases must be at least 1, got {options.cases}", fix="8 is usual")
    import_openvino()
    together = is_ensemble(options.model)
    folders = tuple(load_ensemble(options.model)) if together else (options.model,)
    prepare_torch()
    lines: list[str] = []
    written: list[Path] = []
    for folder in folders:
        check_writable(folder)
        done = _quantize(folder, options)
        lines += done.lines
        written += done.written
    lines.append(f"predict with: segkit predict -m {options.model} ... --engine {INT8}")
    return Outcome(text="\n".join(lines), result=tuple(written))


@dataclass(frozen=True, kw_only=True)
class _Done:
    lines: list[str]
    written: list[Path]


def _quantize(folder: Path, options: opt.Quantize) -> _Done:
    """Measure one model, and compare."""
    loading = Loading(
        device=CPU,
        folds=options.folds,
        checkpoint=options.checkpoint,
        postprocess=False,
        previous_stage=options.previous_stage,
    )
    exact = _alone(folder, loading)
    given = look_for_images(
        options.inputs, exact.model.description, may_lack_channels=exact.may_lack_channels
    )
    whole = [case for case in given.cases if case.id not in given.faults]
    exact.check(whole)
    measured_on, compared_on = _chosen(whole, options.cases)
    written = _measure(exact, measured_on)
    agreement = Agreement(schema=exact.model.description.labels)
    rounded = _alone(folder, replace(loading, engine=INT8))
    for case in progress(compared_on or measured_on, "compare"):
        agreement.add(*(_segmented(work, case) for work in (exact, rounded)))
    others = f"{len(compared_on)} other" if compared_on else f"the same {len(measured_on)}"
    lines = [
        f"measured on {len(measured_on)} image(s): {', '.join(map(str, written))}",
        f"int8 against {_precision(exact)} on {others} image(s): {agreement.describe()}",
    ]
    if agreement.lowest[0] < ENOUGH:
        what = "integers change what %s predicts: compare with evaluate before it is used so"
        log.warning(what, folder)
    return _Done(lines=lines, written=written)


def _alone(folder: Path, loading: Loading) -> CasePredictor:
    """Load one model, not mirrored."""
    work = load_models({folder: 1.0}, loading)
    assert isinstance(work, CasePredictor)
    return work.with_settings(work.settings.step, mirror=False)


def _precision(work: CasePredictor) -> str:
    return choose_precision(work.settings.precision, CPU).name


def _chosen(cases: Sequence[Case], count: int) -> tuple[list[Case], list[Case]]:
    """Return cases to measure on and others to compare on, both spread over all."""
    places = np.unique(np.linspace(0, len(cases) - 1, min(2 * count, len(cases))).round())
    spread = [cases[int(place)] for place in places]
    return spread[::2], spread[1::2]


def _segmented(work: CasePredictor, case: Case) -> np.ndarray:
    """Return schema indices, (1 or S, Z, Y, X)."""
    decided, _ = work.decide(work.predict(work.read(case)), with_probabilities=False)
    return decided.array


def _measure(work: CasePredictor, cases: Sequence[Case]) -> list[Path]:
    """Predict cases with torch, and write what the networks saw; returns the files."""
    observed, observers = _observed(work)
    for case in progress(cases, "measure"):
        observed.predict(observed.read(case))
    written = []
    for fold, weights, observer in observers:
        measured = MeasuredRanges(images=len(cases), ranges=observer.ranges)
        save_ranges(fold, measured, weights)
        written.append(fold / RANGES_FILE)
    return written


def _observed(
    work: CasePredictor,
) -> tuple[CasePredictor, list[tuple[Path, str, RangeObserver]]]:
    """Return the same with networks that are followed: folder, weights and observer of each.

    The previous stage of a cascade is followed too, where the model predicts it itself.
    """
    model, observers, forwards = work.model, [], []
    trial = trial_input(model.network, model.input_channels, model.settings.patch_size)
    precision = choose_precision(work.settings.precision, CPU)
    networks = load_networks(model, list(work.weights), checkpoint=work.checkpoint, device=CPU)
    for (fold, weights), network in zip(work.weights.items(), networks, strict=True):
        check_int8(network)
        fuse_upsamplings(network, for_any_shape=True)
        observers.append((model.folder / f"fold_{fold}", weights, RangeObserver(network)))
        forwards.append(torch_engine(network, trial, precision, {}))
    followed = replace(work, forwards=forwards)
    if isinstance(work.previous, CasePredictor):
        previous, others = _observed(work.previous)
        return replace(followed, previous=previous), observers + others
    return followed, observers


@dataclass(kw_only=True)
class Agreement:
    """How far two series of segmentations are the same."""

    schema: LabelSchema
    voxels: int = 0
    same: int = 0
    both: dict[str, int] = field(default_factory=dict)
    """Class -> voxels that both series gave to it."""
    either: dict[str, int] = field(default_factory=dict)
    """Class -> voxels of it in one series and in the other, added up."""

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Count a pair: schema indices, (1 or S, Z, Y, X) each."""
        self.voxels += one.size
        self.same += int((one == other).sum())
        for name, first, second in self._masks(one, other):
            self.both[name] = self.both.get(name, 0) + int((first & second).sum())
            self.either[name] = self.either.get(name, 0) + int(first.sum() + second.sum())

    def _masks(
        self, one: np.ndarray, other: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for i, entry in enumerate(self.schema.classes):
            if self.schema.overlapping:
                yield entry.name, one[i] == 1, other[i] == 1
            else:
                yield entry.name, one == i + 1, other == i + 1

    @property
    def lowest(self) -> tuple[float, str]:
        """The lowest Dice of a class that was found at all, and which; 1 where none was."""
        found = [(2 * self.both[name] / n, name) for name, n in self.either.items() if n]
        return min(found, default=(1.0, "nothing was found"))

    def describe(self) -> str:
        """Say it in words."""
        dice, name = self.lowest
        return (
            f"{self.same / max(self.voxels, 1):.3%} of the voxels are the same, the lowest Dice "
            f"of a class is {dice:.4f} ({name})"
        )
