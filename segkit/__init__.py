"""segkit: segmentation models that plan, train, predict and evaluate themselves."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkit.api import (
        convert,
        crossval,
        ensemble,
        evaluate,
        export_nnunet,
        find_best,
        import_nnunet,
        overlay,
        plan,
        plan_and_preprocess,
        postprocess,
        predict,
        preprocess,
        preview,
        quantize,
        run,
        train,
        validate,
    )
    from segkit.errors import UserError
    from segkit.networks.own import allow_code
    from segkit.workflows.predictor import Predictor

__version__ = "0.1.0"
__all__ = [
    "Predictor",
    "UserError",
    "__version__",
    "allow_code",
    "convert",
    "crossval",
    "ensemble",
    "evaluate",
    "export_nnunet",
    "find_best",
    "import_nnunet",
    "overlay",
    "plan",
    "plan_and_preprocess",
    "postprocess",
    "predict",
    "preprocess",
    "preview",
    "quantize",
    "run",
    "train",
    "validate",
]

if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    # GNU's OpenMP reads this when torch is first imported. Threads that wait for one another spin
    # 150 times as long by default, on cores that other programs may need: beside one other busy
    # program a training step on 2 cores took 910 ms instead of 83. On idle cores it makes no odds;
    # half as long there costs up to 5%.
    os.environ["GOMP_SPINCOUNT"] = "2000"

_HOMES = {
    "Predictor": "segkit.workflows.predictor",
    "UserError": "segkit.errors",
    "allow_code": "segkit.networks.own",
}
"""Modules of public names that are not in ``segkit.api``."""


def __getattr__(name: str) -> Any:
    """Import what is public when it is first used, so that importing segkit takes no time."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "segkit.api")), name)


def __dir__() -> list[str]:
    return list(__all__)
