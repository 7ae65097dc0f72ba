"""Transforms from outside: batchgenerators', or a user's own, named by import path.

They have batchgenerators' convention: called with ``data`` (b, c, z, y, x) and ``seg`` as numpy
arrays they return a dictionary with both. What comes back is checked, for a mistake in it would
show as a bad score only.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from segkit.config import ExtraTransform
from segkit.dataset.labels import INVALID
from segkit.errors import UserError, nearest
from segkit.training.augment import draw

WHERE = "augment.extra"


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A transform that is ready to be called."""

    config: ExtraTransform
    call: Callable[..., Any]
    largest_label: int
    """Of the indices a label map may hold: that of ignored voxels."""

    def __call__(self, image: torch.Tensor, seg: torch.Tensor, generator: torch.Generator) -> None:
        """Change some samples of a batch in place.

        Whatever random numbers of Python, numpy and torch it takes follow from the generator; their
        state afterwards is what it was.

        Args:
            image: (B, C, *S) float32 on any device; chosen samples go to the CPU and back.
            seg: (B, L, *S) integer label maps.
            generator: Chooses the samples, and seeds.

        Raises:
            UserError: the transform fails, or does not return what it should.
        """
        rows = draw.indices(draw.fires(generator, (len(image),), self.config.p))
        if len(rows):
            self._change(image, seg, rows.to(image.device), generator)

    def try_out(self, channels: int, maps: int, patch_size: tuple[int, ...]) -> None:
        """Call it with a sample of noise, so that mistakes show before training begins.

        Raises:
            UserError: the transform fails, or does not return what it should.
        """
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, channels, *patch_size, generator=generator)
        seg = draw.integers(generator, (1, maps, *patch_size), (INVALID, self.largest_label))
        self._change(image, seg.to(torch.int16), torch.tensor([0]), generator)

    def _change(
        self,
        image: torch.Tensor,
        seg: torch.Tensor,
        rows: torch.Tensor,
        generator: torch.Generator,
    ) -> None:
        data, labels = image[rows].cpu().numpy(), seg[rows].cpu().numpy()
        expected = data.shape, labels.shape
        with _seeded(draw.seed(generator)):
            result = self._result(data, labels)
        new_data, new_labels = self._checked(result, *expected)
        image[rows] = torch.from_numpy(new_data).to(image)
        seg[rows] = torch.from_numpy(new_labels).to(seg)

    def _result(self, data: np.ndarray, labels: np.ndarray) -> Any:
        try:
            return self.call(data=data, seg=labels)
        except Exception as error:
            what = f"the transform {self.config.path} failed: {type(error).__name__}: {error}"
            fix = "correct its arguments, or leave it out; -v shows the traceback"
            raise UserError(what, where=WHERE, fix=fix) from error

    def _checked(
        self, result: Any, shape: tuple[int, ...], seg_shape: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image float32 and labels int16 of what a transform returned."""
        if not isinstance(result, Mapping):
            raise self._wrong(f"returned {type(result).__name__}, not a dictionary")
        arrays = []
        for key, wanted in (("data", shape), ("seg", seg_shape)):
            array = result.get(key)
            if not isinstance(array, np.ndarray):
                kind = "nothing" if array is None else type(array).__name__
                raise self._wrong(f"returned {kind} as {key!r}, not a numpy array")
            if array.shape != wanted:
                raise self._wrong(f"returned {key!r} of shape {array.shape}, not {wanted}")
            arrays.append(array)
        data, labels = arrays
        if data.dtype.kind != "f":
            raise self._wrong(f"returned 'data' of type {data.dtype}, not of floating point")
        if not np.isfinite(data).all():
            raise self._wrong("returned NaN or infinity in 'data'")
        return np.ascontiguousarray(data, np.float32), self._checked_labels(labels)

    def _checked_labels(self, labels: np.ndarray) -> np.ndarray:
        if labels.dtype.kind not in "iuf":
            raise self._wrong(f"returned 'seg' of type {labels.dtype}, not of numbers")
        values, highest = np.unique(labels).tolist(), self.largest_label
        if bad := [v for v in values if not (INVALID <= v <= highest and float(v).is_integer())]:
            shown = ", ".join(f"{value:g}" for value in bad[:5])
            what = f"returned labels that do not exist ({shown}); there are -1 to {highest}"
            raise self._wrong(what)
        return np.ascontiguousarray(labels, np.int16)

    def _wrong(self, what: str) -> UserError:
        fix = "labels must be moved without interpolation between them (order 0), and images keep \
their shape; correct the transform, or leave it out"
        return UserError(f"the transform {self.config.path} {what}", where=WHERE, fix=fix)


def load_extra(config: ExtraTransform, largest_label: int) -> Extra:
    """Import a transform and make it ready.

    Args:
        config: Where it is, and its arguments.
        largest_label: Largest index a label map may hold.

    Raises:
        UserError: it cannot be imported, or not be made with these arguments.
    """
    module_name, _, name = config.path.partition(":")
    found = _attribute(_import(module_name), name)
    try:
        # A function is called with its arguments every time, a class once.
        call = found(**config.arguments) if isinstance(found, type) else found
    except Exception as error:
        what = f"{config.path} cannot be made: {type(error).__name__}: {error}"
        raise UserError(what, where=WHERE, fix="correct its arguments") from error
    if not callable(call):
        what = f"{config.path} is no transform: it cannot be called"
        raise UserError(what, where=WHERE, fix="name a class with __call__, or a function")
    if call is found:
        call = partial(found, **config.arguments)
    return Extra(config=config, call=call, largest_label=largest_label)


def _import(module: str) -> ModuleType:
    fix = "check the spelling; a file is named with its ending, as in transforms.py:Name"
    if module.endswith(".py"):
        return _import_file(Path(module))
    try:
        return importlib.import_module(module)
    except Exception as error:
        what = f"the module {module!r} cannot be imported: {error}"
        raise UserError(what, where=WHERE, fix=fix) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        fix = "check the path; it starts at the folder the command is called in"
        raise UserError(f"there is no file {path}", where=WHERE, fix=fix)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        what = f"{path} cannot be imported: {type(error).__name__}: {error}"
        raise UserError(what, where=WHERE, fix="correct the file") from error
    return module


def _attribute(module: ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        public = [other for other in vars(module) if not other.startswith("_")]
        what = f"{module.__name__} has no {name!r}"
        raise UserError(what, where=WHERE, fix=nearest(name, public))
    return getattr(module, name)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global random numbers that transforms take, and put back their state."""
    python, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Not torch.manual_seed, which seeds GPUs too.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
