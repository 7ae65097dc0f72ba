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
from segkit.errors import UsageError, UserError
from segkit.files import check_writable
from segkit.inference.case import CasePredictor
from segkit.inference.engines import INT8, torch_engine, trial_input
from segkit.inference.engines.openvino import check_int8
from segkit.inference.engines.ranges import (
    MeasuredRanges,
    RangeObserver,
    ranges_file,
    save_ranges,
)
from segkit.inference.ensemble_folder import is_ensemble, load_ensemble
from segkit.inference.files import look_for_images
from segkit.inference.model import load_model, load_networks
from segkit.networks.unet import fuse_upsamplings
from segkit.precision import choose_precision
from segkit.runtime import log, prepare_torch, progress
from segkit.workflows.common import Outcome
from segkit.workflows.interop import with_imported
from segkit.workflows.models import Loading, flags_of_weights, load_models

ENOUGH = 0.99
"""Dice of a class between predictions in integers and torch's, below which it is warned."""
CPU = torch.device("cpu")


def quantize(options: opt.Quantize) -> Outcome[tuple[Path, ...]]:
    """Calibrate a model for ``openvino-int8``; see :class:`segkit.options.Quantize`."""
    if options.cases < 1:
        raise UsageError(f"--cases must be at least 1, got {options.cases}", fix="8 is usual")
    if options.device not in ("auto", "cpu"):
        what = f"integers are for CPUs, not for {options.device}"
        raise UsageError(what, where="--device", fix="leave it out")
    named = with_imported(options.models, (), options.workdir)
    folders = [
        folder
        for each in named
        for folder in (load_ensemble(each) if is_ensemble(each) else (each,))
    ]
    for folder in folders:
        check_int8(segkits=load_model(folder).network.class_ is None)
        check_writable(folder)
    prepare_torch()
    loading = Loading(
        device=CPU,
        folds=options.folds,
        checkpoint=options.checkpoint,
        precision=options.precision,
        postprocess=False,
        previous_stage=options.previous_stage,
    )
    lines: list[str] = []
    written: list[Path] = []
    for folder in folders:
        files, told = _quantize(folder, options, loading)
        written += files
        lines += told
    models = " ".join(map(str, options.models)) + flags_of_weights(loading)
    lines.append(f"predict with: segkit predict -m {models} -i IMAGES -o OUTPUT --engine {INT8}")
    return Outcome(text="\n".join(lines), result=tuple(written))


def _quantize(
    folder: Path, options: opt.Quantize, loading: Loading
) -> tuple[list[Path], list[str]]:
    """Calibrate one model and compare; returns the files, and what is to be told."""
    exact = _alone(folder, loading)
    given = look_for_images(
        options.inputs, exact.model.description, may_lack_channels=exact.may_lack_channels
    )
    whole = [case for case in given.cases if case.id not in given.faults]
    exact.check(whole)
    _tell_few(len(whole), options.cases)
    calibration, others = _chosen(whole, options.cases)
    files = _calibrate(exact, calibration)
    try:
        quantized = _alone(folder, replace(loading, engine=INT8))
    except UserError:
        # Nothing is left behind that no engine takes.
        for path in files:
            path.unlink(missing_ok=True)
        raise
    agreement = Agreement(schema=exact.model.description.labels)
    for case in progress(others or calibration, "compare"):
        agreement.add(_segmented(exact, case), _segmented(quantized, case))
    on = f"{len(others)} other" if others else f"the same {len(calibration)}"
    precision = choose_precision(loading.precision, CPU).name
    dice, name = agreement.lowest
    if dice < ENOUGH:
        what = "%s: Dice of %s between int8 and %s is %.4f; evaluate both on labelled cases first"
        log.warning(what, folder, name, precision, dice)
    return files, [
        f"calibrated on {len(calibration)} image(s): {', '.join(map(str, files))}",
        f"int8 against {precision} on {on} image(s): {agreement.describe()}",
    ]


def _alone(folder: Path, loading: Loading) -> CasePredictor:
    """Load one model, not mirrored."""
    work = load_models({folder: 1.0}, loading)
    assert isinstance(work, CasePredictor)
    return work.with_settings(work.settings.step, mirror=False)


def _tell_few(count: int, wanted: int) -> None:
    if count == 1:
        log.warning("one image is given: it proves little to compare on what was calibrated on")
    elif count < 2 * wanted:
        what = "%d image(s) are given, %d were asked for: --cases to calibrate, others to compare"
        log.warning(what, count, 2 * wanted)


def _chosen(cases: Sequence[Case], count: int) -> tuple[list[Case], list[Case]]:
    """Return calibration cases and others to compare on, both spread over all."""
    places = np.unique(np.linspace(0, len(cases) - 1, min(2 * count, len(cases))).round())
    spread = [cases[int(place)] for place in places]
    return spread[::2], spread[1::2]


def _segmented(work: CasePredictor, case: Case) -> np.ndarray:
    """Return schema indices, (1 or S, Z, Y, X)."""
    decided, _ = work.decide(work.predict(work.read(case)), with_probabilities=False)
    return decided.array


def _calibrate(work: CasePredictor, cases: Sequence[Case]) -> list[Path]:
    """Predict cases with torch, and write between which values features lay; returns the files."""
    observed, observers = _observed(work)
    for case in progress(cases, "calibrate"):
        observed.predict(observed.read(case))
    for path, (weights, observer) in observers.items():
        measured = MeasuredRanges(images=len(cases), ranges=observer.ranges)
        save_ranges(path, measured, weights)
    return list(observers)


def _observed(
    work: CasePredictor,
) -> tuple[CasePredictor, dict[Path, tuple[str, RangeObserver]]]:
    """Return the same with observed networks, and file -> hash of the weights, and observer.

    The previous stage of a cascade is observed too, where the model predicts it itself.
    """
    model, observers, forwards = work.model, {}, []
    trial = trial_input(model.network, model.input_channels, model.settings.patch_size)
    precision = choose_precision(work.settings.precision, CPU)
    networks = load_networks(model, list(work.weights), checkpoint=work.checkpoint, device=CPU)
    for (fold, weights), network in zip(work.weights.items(), networks, strict=True):
        fuse_upsamplings(network, traceable=True)
        path = ranges_file(model.folder / f"fold_{fold}", work.checkpoint)
        observers[path] = weights, RangeObserver(network)
        forwards.append(torch_engine(network, trial, precision, {}))
    observed = replace(work, forwards=forwards)
    if isinstance(work.previous, CasePredictor):
        previous, others = _observed(work.previous)
        return replace(observed, previous=previous), {**others, **observers}
    return observed, observers


@dataclass(kw_only=True)
class Agreement:
    """How far two series of segmentations are the same."""

    schema: LabelSchema
    voxels: int = 0
    same: int = 0
    """Of structures that overlap, voxels are counted once for each."""
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
