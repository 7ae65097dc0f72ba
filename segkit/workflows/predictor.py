"""A trained model in memory: the command line and the Python API predict through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias, overload

import numpy as np
import torch

from segkit.dataset.cases import Case, images_to_predict
from segkit.dataset.label_files import values_on_disk
from segkit.errors import UserError
from segkit.inference.arrays import image_of_array
from segkit.inference.case import CasePredictor
from segkit.inference.engines import start_engine, trial_input
from segkit.inference.files import check_output_folder, predict_cases
from segkit.inference.model import load_model, load_networks
from segkit.inference.predictor import PredictionSettings
from segkit.options import fold
from segkit.precision import PrecisionName, choose_precision
from segkit.runtime import prepare_torch, resolve_device

AnyPath: TypeAlias = str | PathLike[str]
FoldName: TypeAlias = str | int


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model with its weights in memory, for any number of arrays and files.

    Made by :meth:`from_folder`. Several threads may use one; they take turns at the network.
    """

    work: CasePredictor

    @classmethod
    def from_folder(
        cls,
        folder: AnyPath,
        *,
        folds: FoldName | Sequence[FoldName] = (),
        checkpoint: str = "final",
        device: str | torch.device = "auto",
        precision: PrecisionName = "auto",
        engine: str = "torch",
    ) -> Predictor:
        """Read a model folder and bring its networks to the device.

        Args:
            folder: The model folder.
            folds: Folds whose predictions are averaged; empty takes all that are trained.
            checkpoint: ``final``, ``best`` or ``last``.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            precision: ``auto`` (fp16 on CUDA, bf16 where the CPU has it), ``fp32``, ``bf16`` or
                ``fp16``.
            engine: ``torch``, or ``openvino`` (CPUs only).

        Raises:
            UserError: no such model, fold, checkpoint or device, or an engine that does not run it.
        """
        chosen_device = resolve_device(str(device))
        prepare_torch()
        model = load_model(Path(folder))
        channels, patch_size = len(model.plan.channel_names), model.settings.patch_size
        trial = trial_input(model.configuration.network, channels, patch_size)
        number_format = choose_precision(precision, chosen_device)
        names = (folds,) if isinstance(folds, FoldName) else tuple(folds)
        networks = load_networks(
            model, [_fold(name) for name in names], checkpoint=checkpoint, device=chosen_device
        )
        work = CasePredictor(
            model=model,
            forwards=[start_engine(engine, each, trial, number_format) for each in networks],
            settings=PredictionSettings(precision=precision, engine=engine),
            device=chosen_device,
        )
        return cls(work=work)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What the channels of an image are, in order."""
        return self.work.model.plan.channel_names

    @property
    def label_values(self) -> dict[str, int]:
        """Name of every class or structure -> its value in dataset.json."""
        return {one.name: one.value for one in self.work.model.description.labels.classes}

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the channels of probabilities are, in order."""
        return self.work.model.description.labels.output_names

    @property
    def orientation(self) -> str | None:
        """Code of the directions in which the x, y and z axis of arrays run; None for planes."""
        return self.work.model.plan.orientation

    @overload
    def predict(
        self,
        image: np.ndarray,
        spacing_mm: Sequence[float] | None = None,
        *,
        orientation: str | None = None,
        probabilities: Literal[False] = False,
        step: float = 0.5,
        tta: bool = True,
    ) -> np.ndarray: ...

    @overload
    def predict(
        self,
        image: np.ndarray,
        spacing_mm: Sequence[float] | None = None,
        *,
        orientation: str | None = None,
        probabilities: Literal[True],
        step: float = 0.5,
        tta: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def predict(
        self,
        image: np.ndarray,
        spacing_mm: Sequence[float] | None = None,
        *,
        orientation: str | None = None,
        probabilities: bool = False,
        step: float = 0.5,
        tta: bool = True,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Segment one image, as ``segkit predict`` does with a file.

        Args:
            image: Of any real type, never changed. A volume (C, Z, Y, X), or (Z, Y, X) for a model
                of one channel. 2D models also take a plane: (C, Y, X), or (Y, X) for one channel;
                where they have one channel and were trained on volumes, three axes are a volume.
            spacing_mm: Distances between voxel centres in mm as (z, y, x), of a plane (y, x).
                None is for models trained on planes: pixels are 1 mm.
            orientation: Code of the directions in which the x, y and z axis of the array run, such
                as ``"LPS"``; None: as :attr:`orientation`.
            probabilities: Return them too.
            step: Largest distance between tiles as a share of the patch, in (0, 1].
            tta: Average over mirrored images, where training mirrored.

        Returns:
            The label values that a predicted file would hold, (Z, Y, X), or (Y, X) of a plane.
            Structures that overlap come as the labels trained on: bitmasks of that shape, or
            (D, Z, Y, X) masks of 0 and 1, number n of dataset.json at place n - 1. With
            ``probabilities`` a pair: these, and (out, Z, Y, X) float32, see :attr:`output_names`.

        Raises:
            UserError: shape, channels, type, spacing or values do not fit the model.
        """
        volume = image_of_array(image, self.work.model, spacing_mm, orientation)
        work = self._set(step, tta)
        prediction = work.predict(work.prepare(volume))
        found, shares = work.decide(prediction, with_probabilities=probabilities)
        model = work.model
        labels = values_on_disk(found.array, model.description.labels, model.settings.label_layout)
        planar = volume.geometry.stored_ndim == 2
        labels = labels.squeeze(-3) if planar else labels
        if shares is None:
            return labels
        return labels, shares.squeeze(-3) if planar else shares

    def predict_files(
        self,
        inputs: AnyPath | Sequence[AnyPath],
        output: AnyPath,
        *,
        save_probabilities: bool = False,
        step: float = 0.5,
        tta: bool = True,
    ) -> tuple[Path, ...]:
        """Segment image files: ``segkit predict``.

        Args:
            inputs: A folder, a file or several, named as the training images are.
            output: Folder for the label maps, ``CASE.ext`` with the geometry of the image.
            save_probabilities: Also write ``CASE.npz`` with them.
            step: Largest distance between tiles as a share of the patch, in (0, 1].
            tta: Average over mirrored images, where training mirrored.

        Returns:
            The label files, sorted by case.

        Raises:
            UserError: files that do not fit the model, or an output that would overwrite an input;
                or, after all other cases are done, cases that failed.
        """
        check_output_folder(Path(output))
        given = (inputs,) if isinstance(inputs, (str, PathLike)) else inputs
        cases = images_to_predict([Path(path) for path in given], self.work.model.description)
        work = self._set(step, tta)
        return predict_cases(work, cases, Path(output), keep_probabilities=save_probabilities)

    def predict_cases(self, cases: Sequence[Case], output: Path) -> tuple[Path, ...]:
        """Predict cases of a data set as :meth:`predict_files` does files."""
        return predict_cases(self._set(), cases, output)

    def _set(self, step: float = 0.5, tta: bool = True) -> CasePredictor:
        axes = self.work.model.settings.mirror_axes if tta else ()
        return replace(self.work, settings=replace(self.work.settings, step=step, mirror_axes=axes))


def _fold(name: FoldName) -> str:
    try:
        return fold(str(name))
    except ValueError as error:
        raise UserError(str(error), where="folds", fix="give numbers from 0, or 'all'") from None
