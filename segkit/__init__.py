"""segkit: segmentation models that plan, train, predict and evaluate themselves."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.errors import UserError
    from segkit.workflows.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "UserError", "__version__"]

_HOMES = {"Predictor": "workflows.predictor", "UserError": "errors"}
"""Module of every public name; imported when the name is first used, so that segkit is not slow."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
