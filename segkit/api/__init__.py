"""The commands as functions: their options, and results in place of text.

Options are those of the command (the fields of its class in ``segkit.options``), checked and
converted as the command line does. Nothing is printed: messages go to the logger ``segkit``.
Nothing heavy is imported until a function is called.
"""

from segkit.api.after_training import crossval, ensemble, find_best, postprocess, quantize
from segkit.api.data import convert, overlay, preview
from segkit.api.interop import export_nnunet, import_nnunet
from segkit.api.stages import (
    evaluate,
    plan,
    plan_and_preprocess,
    predict,
    preprocess,
    run,
    train,
    validate,
)

__all__ = [
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
