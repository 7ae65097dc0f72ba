"""nnU-Net's checkpoints, read without running code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segkit.errors import UserError

_PLAIN_KINDS = "biufc"
"""Kinds of numpy numbers: booleans, integers, floats, complex."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NnunetCheckpoint:
    """What prediction needs of a ``checkpoint_*.pth``."""

    weights: dict[str, Any]
    trainer: str
    configuration: str
    mirror_axes: tuple[int, ...]
    """Spatial axes that prediction may mirror; empty where training did not."""


def read_checkpoint(path: Path) -> NnunetCheckpoint:
    """Read a checkpoint with ``weights_only=True``; besides tensors, numpy's numbers are let in.

    nnU-Net logs with numpy, so that its checkpoints hold a few of its scalars.

    Raises:
        UserError: missing, damaged, no checkpoint of nnU-Net, or it would need to run code: the
            message names what it asks for.
    """
    content = _load(path)
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        fix = "give a checkpoint_*.pth that nnU-Net v2 wrote"
        raise UserError("no checkpoint of nnU-Net (no network_weights)", where=path, fix=fix)
    settings = content.get("init_args")
    configuration = settings.get("configuration") if isinstance(settings, dict) else None
    trainer, axes = content.get("trainer_name"), content.get("inference_allowed_mirroring_axes")
    axes = () if axes is None else axes
    if not isinstance(trainer, str) or not isinstance(configuration, str):
        fix = "give a checkpoint_*.pth that nnU-Net v2 wrote"
        what = "the checkpoint does not name its trainer and configuration"
        raise UserError(what, where=path, fix=fix)
    if not isinstance(axes, (tuple, list)) or not all(axis in (0, 1, 2) for axis in axes):
        fix = "restore the file from its source"
        raise UserError(f"the mirror axes are {axes!r}", where=path, fix=fix)
    return NnunetCheckpoint(
        weights=weights,
        trainer=trainer,
        configuration=configuration,
        mirror_axes=tuple(int(axis) for axis in axes),
    )


def _load(path: Path) -> Any:
    if not hasattr(torch.serialization, "safe_globals"):
        fix = "pip install 'torch>=2.5'"
        raise UserError("reading nnU-Net's checkpoints needs torch 2.5", where=path, fix=fix)
    try:
        with torch.serialization.safe_globals(_let_in()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError("no such checkpoint", where=path, fix="check the path") from None
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)|class (\S+)", str(error))
        if wanted is None:
            what = "the checkpoint is damaged, or not one of torch"
            raise UserError(what, where=path, fix="restore it from its source") from None
        name = (wanted[1] or wanted[2]).strip(".,<>'")
        what = f"the checkpoint asks for {name}, which could run code; it was not loaded"
        fix = "only tensors, plain values and numpy numbers are read; export the model again with "
        raise UserError(what, where=path, fix=fix + "nnU-Net, and do not trust this file") from None
    except Exception as error:  # a damaged pickle can fail in any way
        what = f"the checkpoint is damaged: {str(error).partition(chr(10))[0] or 'it is empty'}"
        raise UserError(what, where=path, fix="restore it from its source") from None


def _let_in() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Say what a checkpoint may call: numpy's types of numbers, and our own way to make one.

    numpy has had its functions in two modules over time; ours stand in for both.
    """
    types = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFD"}
    scalars = [
        _named(_number, "scalar", module)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    ]
    return [np.dtype, *types, *scalars]


def _number(dtype: Any, content: Any = b"") -> Any:
    """Make a numpy number from its bytes."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in _PLAIN_KINDS:
        raise pickle.UnpicklingError("not a number")
    if not isinstance(content, bytes) or len(content) != dtype.itemsize:
        raise pickle.UnpicklingError("not a number")
    return np.frombuffer(content, dtype)[0]


def _named(function: Callable[..., Any], name: str, module: str) -> Callable[..., Any]:
    """Return the function under another name, by which unpickling finds it."""

    def standing_in(*arguments: Any) -> Any:
        return function(*arguments)

    standing_in.__module__, standing_in.__name__, standing_in.__qualname__ = module, name, name
    return standing_in
