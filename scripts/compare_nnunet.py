#!/usr/bin/env python3
"""Does a model of nnU-Net predict the same in segkit, and a model of segkit in nnU-Net?

scripts/compare_nnunet.py --peer FOLDER [--only NAME ...] [--work KEPT]

import-*: nnU-Net plans, preprocesses and trains a tiny model for some steps, on a few real or made
cases; segkit imports it, and both predict the same images (of a cascade both stages, the second
with what nnU-Net's first one says). export-*: the other way round.
preprocess-*: segkit follows nnU-Net's plans of a real data set; the arrays of both are compared.
Prints one table; exits with 1 where they differ by more than is asked.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarking import measured, parse, run_side
from peer_datasets import Phantom, axons, hippocampus
from peer_models import compare_exported, compare_imported, compare_preprocessed
from peer_training import FOLDERS, Scenario

IDENTICAL, DICE, LOGITS = 0.9995, 0.999, 1e-3
"""At least this share of the voxels, and this Dice of every label, on every case; logits at most so
far apart where nnU-Net adds up tiles in float32, too."""
IMAGES = 1e-4
"""Preprocessed images differ by no more than this share of their range; labels do not differ."""

_RESENC = {
    "planner": "nnUNetPlannerResEncM",
    "plans": "nnUNetResEncUNetMPlans",
    "own_planner": "resenc_m",
}
_FLAT = {"configuration": "2d", "patch_size": (32, 32)}
_REGIONS: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": 2}
_TWO: dict[str, Any] = {
    "channels": ("T1", "rescale_to_0_1"),
    "spacings": ((1.0, 1.0, 1.0), (1.2, 0.9, 0.9)),
}
_THICK = Phantom(
    channels=("CT",),
    shape=(60, 64, 14),
    spacings=((0.8, 0.8, 5.0), (0.7, 0.7, 4.0), (1.0, 1.1, 6.0)),
)

SCENARIOS: dict[str, Scenario] = {
    "plain": Scenario(what="3D, plain, real MR", make=hippocampus),
    "resenc": Scenario(what="3D, residual encoder", make=Phantom(), **_RESENC),
    "flat": Scenario(what="2D on volumes, real MR", make=hippocampus, **_FLAT),
    "png": Scenario(
        what="2D, png with black holes", make=axons, **{**_FLAT, "patch_size": (64, 64)}
    ),
    "regions": Scenario(
        what="3D, regions, mha", make=Phantom(labels=_REGIONS, order=(1, 2), ending=".mha")
    ),
    "ignore": Scenario(
        what="3D, regions, ignore label",
        make=Phantom(labels={**_REGIONS, "ignore": 3}, order=(1, 2), ignored=3),
    ),
    "anisotropic": Scenario(
        what="3D, thick slices along x, CT", make=_THICK, patch_size=(8, 32, 32)
    ),
    "channels": Scenario(what="3D, two channels, one rescaled", make=Phantom(**_TWO)),
    "masked": Scenario(
        what="3D, two channels, black around, one rescaled", make=Phantom(**_TWO, black=True)
    ),
    "cascade": Scenario(
        what="3D, both stages of a cascade",
        make=Phantom(shape=(48, 56, 52)),
        configuration="3d_cascade_fullres",
    ),
    "batchnorm": Scenario(
        what="3D, batch norm", make=Phantom(), trainer="nnUNetTrainerBN", settings={}
    ),
    "nomirror": Scenario(
        what="3D, not mirrored", make=Phantom(), trainer="nnUNetTrainerNoMirroring", settings={}
    ),
}
EXPORTED = ("plain", "resenc", "flat", "regions", "ignore", "anisotropic", "channels")
"""Not what is black around: nnU-Net counts black voxels in the mean and range of an image, and
segkit does not, of which its export warns."""
PREPROCESSED = {
    "Dataset004_Hippocampus": {"most": 10, "smaller_than": 1 << 30},
    "Dataset110_BraTS2015": {"most": 2, "smaller_than": 1 << 30},
    "Dataset123_AxonMyelin": {"most": 2, "smaller_than": 1 << 30},
    "Dataset130_TotalSegCT": {"most": 1, "smaller_than": 2 << 20},
    "Dataset132_SpleenCropMSD": {"most": 1, "smaller_than": 1 << 30},
    "Dataset150_SpinalCordMixed": {"most": 6, "smaller_than": 1 << 30},
    "Dataset151_SpinalCordGM": {"most": 2, "smaller_than": 1 << 30},
    "Dataset161_TissueOverlapCT": {"most": 1, "smaller_than": 1 << 30},
}
"""How many cases of which data sets, and how many bytes their images may have."""
NAMES = (
    *(f"import-{name}" for name in SCENARIOS),
    *(f"export-{name}" for name in EXPORTED),
    *(f"preprocess-{name}" for name in PREPROCESSED),
)


def main() -> None:
    """Compare one thing after the other in the peer's environment; print one table."""
    parser = parse(__doc__, repeats=1)
    parser.add_argument("--work", type=Path, help="keep what is made here, for the next time")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    options = parser.parse_args()
    if options.side:
        with measured() as result:
            result.update(_compare(options.side, options.work, options.data))
        return
    with tempfile.TemporaryDirectory() as scratch:
        work, rows = (options.work or Path(scratch)).resolve(), {}
        for name in options.only:
            rows[name] = _row(name, options, work / name)
            print(_line(name, rows[name]), file=sys.stderr, flush=True)
    print("\n".join([_HEAD, "|---" * 11 + "|", *(_line(*item) for item in rows.items())]))
    sys.exit(any(_failures(name, row) for name, row in rows.items()))


def _row(name: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    if reason := _unreadable(name, options.data):
        return {"skipped": reason}
    work.mkdir(parents=True, exist_ok=True)
    env = {f"nnUNet_{kind}": str(work / kind) for kind in FOLDERS}
    env |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
    sample = run_side(options, name, "--work", work, env=env)
    return {**sample.result, "seconds": sample.seconds}


def _compare(name: str, work: Path, data: Path) -> dict[str, Any]:
    kind, _, which = name.partition("-")
    if kind == "preprocess":
        return compare_preprocessed(data / which, work, PREPROCESSED[which])
    compare = compare_imported if kind == "import" else compare_exported
    return compare(SCENARIOS[which], work, data)


def _unreadable(name: str, data: Path) -> str | None:
    """Say why nnU-Net cannot read a data set."""
    kind, _, which = name.partition("-")
    if kind != "preprocess":
        return None
    if not (data / which).is_dir():
        return "not here"
    if "labels" not in json.loads((data / which / "dataset.json").read_text()):
        return "structures that overlap, which nnU-Net does not know"
    return None


_HEAD = (
    "| | what | cases | foreground | identical voxels | Dice, mean of labels | lowest label | "
    "logits, images apart | decided otherwise in float32 | seconds | |"
)


def _line(name: str, row: Mapping[str, Any]) -> str:
    kind, _, which = name.partition("-")
    what = which if kind == "preprocess" else SCENARIOS[which].what
    if "skipped" in row:
        return f"| {kind} | {what} | - | - | - | - | - | - | - | - | skipped: {row['skipped']} |"
    cells = [
        kind,
        what,
        str(row["cases"]),
        f"{row['foreground']:.1%}" if "foreground" in row else "-",
        f"{row['identical']:.4%}",
        *(f"{row[key]:.5f}" if key in row else "-" for key in ("dice", "lowest")),
        f"{row['apart']:.1e}",
        str(row.get("otherwise", "-")),
        f"{row['seconds']:.0f}",
        "; ".join(_failures(name, row)) or "as asked",
    ]
    return f"| {' | '.join(cells)} |"


def _failures(name: str, row: Mapping[str, Any]) -> list[str]:
    if "skipped" in row:
        return []
    if name.startswith("preprocess"):
        wanted = {
            "labels differ": row["identical"] == 1,
            f"images more than {IMAGES} of their range apart": row["apart"] <= IMAGES,
        }
    else:
        wanted = {
            f"identical below {IDENTICAL:.2%}": row["identical"] >= IDENTICAL,
            f"Dice of a label below {DICE}": row["lowest"] >= DICE,
            f"logits more than {LOGITS} apart": row["apart"] <= LOGITS,
            "a label predicted nowhere in a case": row["missing"] == 0,
        }
    return [text for text, holds in wanted.items() if not holds]


if __name__ == "__main__":
    main()
