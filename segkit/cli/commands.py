"""The table of commands: name, options, and the workflow that does the work."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from types import FunctionType
from typing import Any

from segkit import options

COMMANDS: dict[str, tuple[type[options.Common], str]] = {
    "validate": (options.Validate, "validation"),
    "convert": (options.Convert, "conversion"),
    "overlay": (options.Overlay, "overlay"),
    "plan": (options.Plan, "prepare"),
    "preprocess": (options.Preprocess, "prepare"),
    "plan_and_preprocess": (options.PlanAndPreprocess, "prepare"),
    "preview": (options.Preview, "preview"),
    "train": (options.Train, "training"),
    "crossval": (options.Crossval, "crossval"),
    "find_best": (options.FindBest, "selection"),
    "predict": (options.Predict, "prediction"),
    "quantize": (options.Quantize, "quantization"),
    "postprocess": (options.Postprocess, "postprocess"),
    "ensemble": (options.Ensemble, "ensemble"),
    "evaluate": (options.Evaluate, "evaluation"),
    "run": (options.Run, "run"),
    "import_nnunet": (options.ImportNnunet, "interop"),
    "export_nnunet": (options.ExportNnunet, "interop"),
    "demo": (options.Demo, "run"),
    "doctor": (options.Doctor, "doctor"),
}
"""Options, and the module of ``segkit.workflows`` whose function of that name does the work."""


def add_arguments(parser: argparse.ArgumentParser, command: type[options.Common]) -> None:
    """Give the parser one argument for every field that describes a flag."""
    own = [f for f in dataclasses.fields(command) if f.metadata]
    for field in sorted(own, key=lambda f: bool(f.metadata["names"])):
        details: dict[str, Any] = dict(field.metadata)
        names = details.pop("names")
        if isinstance(details.get("type"), FunctionType):
            details["type"] = _telling(details["type"])
        if names:
            # What is not given keeps the dataclass's own default.
            suppressed = argparse.SUPPRESS
            parser.add_argument(*names, dest=field.name, default=suppressed, **details)
        else:
            parser.add_argument(field.name, **details)


def _telling(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse say what the reader of an option says; of a ``ValueError`` it says nothing."""

    def read_and_tell(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_and_tell
