"""A trained model in memory: the command line and the Python API predict through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch

from segkit.dataset.label_files import values_on_disk
from segkit.errors import UserError
from segkit.inference.arrays import image_of_array
from segkit.inference.files import (
    Writing,
    Written,
    check_output_folder,
    look_for_images,
    predict_cases,
)
from segkit.inference.partners import check_shares
from segkit.options import fold
from segkit.precision import PrecisionName
from segkit.runtime import log, prepare_torch, resolve_device
from segkit.types import Volume
from segkit.workflows.models import Loading, Work, describe_work, load_models

AnyPath: TypeAlias = str | PathLike[str]
FoldName: TypeAlias = str | int


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained model (or several that vote) in memory, for any number of arrays and files.

    Made by :meth:`from_folder`. Several threads may use one; they take turns at the network.
    """

    work: Work

    @classmethod
    def from_folder(
        cls,
        folder: AnyPath | Sequence[AnyPath] | Mapping[AnyPath, float],
        *,
        folds: FoldName | Sequence[FoldName] = (),
        checkpoint: str = "final",
        device: str | torch.device = "auto",
        precision: PrecisionName = "auto",
        engine: str = "auto",
    ) -> Predictor:
        """Read a model folder and bring its networks to the device.

        Args:
            folder: The model folder. Of several, the probabilities are averaged; a mapping says
                how much each counts.
            folds: Folds whose predictions are averaged; empty takes all that are trained.
            checkpoint: ``final``, ``best`` or ``last``.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            precision: ``auto`` (fp16 on CUDA, bf16 on CPUs that are faster in it), ``fp32``,
                ``bf16`` or ``fp16``.
            engine: ``torch``, or on CPUs ``openvino``, or ``openvino-int8`` (after ``quantize``);
                ``auto`` is OpenVINO on x86 CPUs where it is installed, for segkit's own networks of
                up to 30 outputs, else torch.

        Raises:
            UserError: no such model, fold, checkpoint or device, or an engine that does not run it;
                a network that is code of others and not allowed (see :func:`allow_code`).
        """
        names = (folds,) if isinstance(folds, FoldName) else tuple(folds)
        loading = Loading(
            device=resolve_device(str(device)),
            folds=tuple(_fold(name) for name in names),
            checkpoint=checkpoint,
            precision=precision,
            engine=engine,
        )
        # How many threads this program has is for its author to say.
        prepare_torch("ignore")
        return cls.load(_weighed(folder), loading)

    @classmethod
    def load(cls, models: Mapping[Path, float], loading: Loading) -> Predictor:
        """Load models, each with its weight in the vote; see :func:`load_models`."""
        return cls(work=load_models(models, loading))

    def without_postprocessing(self) -> Predictor:
        """Return the same without the rules of the model folder's ``postprocessing.json``."""
        return replace(self, work=replace(self.work, finish=None))

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
        found, shares = self._decide(volume, step, tta, probabilities)
        model = self.work.model
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
        writing = Writing(keep_probabilities=save_probabilities)
        return self.write_files(_paths(inputs), Path(output), writing, step=step, tta=tta).paths

    def write_files(
        self,
        inputs: Sequence[Path],
        output: Path,
        writing: Writing,
        *,
        step: float = 0.5,
        tta: bool = True,
    ) -> Written:
        """Do what :meth:`predict_files` says, with everything the command line can ask for."""
        check_output_folder(output)
        work = self.work.with_settings(step, mirror=tta)
        for line in describe_work(work):
            log.info("%s", line)
        given = look_for_images(
            inputs, work.model.description, may_lack_channels=work.may_lack_channels
        )
        work.check([case for case in given.cases if case.id not in given.faults])
        return predict_cases(work, given, output, writing)

    def _decide(
        self, volume: Volume, step: float, tta: bool, with_probabilities: bool
    ) -> tuple[Volume, np.ndarray | None]:
        work: Any = self.work.with_settings(step, mirror=tta)
        prediction = work.predict(work.prepare(volume))
        decision: tuple[Volume, np.ndarray | None] = work.decide(
            prediction, with_probabilities=with_probabilities
        )
        return decision


def _weighed(given: AnyPath | Sequence[AnyPath] | Mapping[AnyPath, float]) -> dict[Path, float]:
    if isinstance(given, Mapping):
        shares = check_shares(tuple(given.values()), len(given))
        return dict(zip(map(Path, given), shares, strict=True))
    return dict.fromkeys(_paths(given), 1.0)


def _paths(given: AnyPath | Sequence[AnyPath]) -> list[Path]:
    return [Path(path) for path in ((given,) if isinstance(given, (str, PathLike)) else given)]


def _fold(name: FoldName) -> str:
    try:
        return fold(str(name))
    except ValueError as error:
        raise UserError(str(error), where="folds", fix="give numbers from 0, or 'all'") from None
