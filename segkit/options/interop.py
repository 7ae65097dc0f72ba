"""Options of the commands that exchange models with other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segkit.options.common import Common, flag


@dataclass(frozen=True, kw_only=True)
class ImportNnunet(Common):
    """Turn a model that nnU-Net v2 trained into a model folder of segkit."""

    source: Path = flag(
        help="results folder of nnU-Net (of a trainer, or of a data set), or a zip of one",
        type=Path,
        metavar="RESULTS",
    )
    output: Path = flag(
        "-o", "--output", help="model folder to write", type=Path, required=True, metavar="MODEL"
    )
    configuration: str | None = flag(
        "-c", "--configuration", help="which configuration, of several", metavar="CONFIG"
    )
    trainer: str | None = flag("--trainer", help="which trainer, of several", metavar="NAME")
    plans: str | None = flag("--plans", help="which plans, of several", metavar="NAME")
    overwrite: bool = flag(
        "--overwrite", help="replace a model folder", default=False, action="store_true"
    )


@dataclass(frozen=True, kw_only=True)
class ExportNnunet(Common):
    """Turn a model folder of segkit into one that nnU-Net v2 predicts with."""

    model: Path = flag(help="model folder", type=Path, metavar="MODEL")
    output: Path = flag(
        "-o",
        "--output",
        help="folder to write, for nnUNetv2_predict_from_modelfolder -m",
        type=Path,
        required=True,
        metavar="FOLDER",
    )
    overwrite: bool = flag(
        "--overwrite", help="replace an exported model", default=False, action="store_true"
    )
