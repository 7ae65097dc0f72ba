"""The options of every command, typed once: the command line and the Python API share them.

A field is a flag: its metadata is what ``argparse`` is told. Nothing heavy is imported here.
"""

from segkit.options.after_training import Crossval, FindBest
from segkit.options.common import Common, Dataset, duration, fold
from segkit.options.data import (
    Convert,
    Overlay,
    Plan,
    PlanAndPreprocess,
    Preprocess,
    Splitting,
    Validate,
)
from segkit.options.interop import ExportNnunet, ImportNnunet
from segkit.options.machine import Doctor
from segkit.options.make import make_options
from segkit.options.prediction import Ensemble, Evaluate, Postprocess, Predict, Quantize
from segkit.options.training import Demo, Preview, Run, Train, TrainingChoice

__all__ = [
    "Common",
    "Convert",
    "Crossval",
    "Dataset",
    "Demo",
    "Doctor",
    "Ensemble",
    "Evaluate",
    "ExportNnunet",
    "FindBest",
    "ImportNnunet",
    "Overlay",
    "Plan",
    "PlanAndPreprocess",
    "Postprocess",
    "Predict",
    "Preprocess",
    "Preview",
    "Quantize",
    "Run",
    "Splitting",
    "Train",
    "TrainingChoice",
    "Validate",
    "duration",
    "fold",
    "make_options",
]
