"""Options of the commands before training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segkit.options.common import (
    PLANNER_HELP,
    Common,
    Dataset,
    flag,
    min_cases_flag,
    number_or_word,
    plan_flag,
)


@dataclass(frozen=True, kw_only=True)
class Validate(Dataset):
    """Check a dataset: every problem of dataset.json and of all cases, in one run."""

    json: bool = flag("--json", help="print the report as JSON", default=False, action="store_true")
    fix: Path | None = flag(
        "--fix",
        help="write a copy with everything mended that has one certain mend, and check that",
        type=Path,
        metavar="OUT",
    )


@dataclass(frozen=True, kw_only=True)
class Splitting(Dataset):
    """How cases are dealt into folds; without options exactly as nnU-Net does."""

    group_by: str | None = flag(
        "--group-by",
        help="keep cases together that agree in this: a column of the table, a regular expression "
        "on the case's id (its first group, else its match), or images (the same voxels)",
        metavar="COLUMN|REGEX|images",
    )
    stratify: tuple[str, ...] = flag(
        "--stratify",
        help="balance over folds the values of these columns of the table, or labels (which a "
        "case has, and how much of them)",
        default=(),
        nargs="+",
        metavar="COLUMN|labels",
    )
    table: Path | None = flag(
        "--table",
        help="CSV or JSON with a row a case (default: cases.csv of the dataset)",
        type=Path,
        metavar="FILE",
    )
    num_folds: int | None = flag(
        "--num-folds", help="number of folds (default 5)", type=int, metavar="N"
    )
    split_seed: int | None = flag(
        "--split-seed", help="another seed deals other folds (default 12345)", type=int, metavar="N"
    )
    overwrite_splits: bool = flag(
        "--overwrite-splits",
        help="deal other folds although models were trained on those there are",
        default=False,
        action="store_true",
    )


@dataclass(frozen=True, kw_only=True)
class Plan(Splitting):
    """Measure the training images and plan spacing, patch, batch and network; says why."""

    configurations: tuple[str, ...] = flag(
        "-c", "--configurations", help="which to prepare (default: all)", default=(), nargs="+"
    )
    planner: str = flag("--planner", help=PLANNER_HELP, default="default")
    gpu_memory_gb: float | None = flag(
        "--gpu-memory-gb", help="plan for this much GPU memory", type=float, metavar="G"
    )
    spacing: tuple[float | str, ...] = flag(
        "--spacing",
        help="median (the rule, default), isotropic (the finest of the rule's for all axes), "
        "original (cases keep their own), or three numbers: z y x in mm",
        type=number_or_word,
        nargs="+",
        default=("median",),
        metavar="RULE|MM",
    )
    resampling: str = flag(
        "--resampling",
        help="how images come to that spacing: cubic (default) or linear; with _all_axes also "
        "along an axis much coarser than the others, which else takes the nearest neighbour",
        default="cubic",
        choices=("cubic", "linear", "cubic_all_axes", "linear_all_axes"),
    )
    min_cases: int = min_cases_flag()
    source: str | None = flag(
        "--from",
        "--plans",
        help="take spacing, patch, batch, network and normalisation from this plan: a dataset "
        "(its plan of that --planner), a plans/NAME.json, a model folder, or nnU-Net's plans.json",
        metavar="SOURCE",
    )
    intensities: str = flag(
        "--intensities",
        help="with --from: normalise as the source does (default), or by the target's channel "
        "names and intensities",
        default="source",
        choices=("source", "target"),
    )
    plan_name: str | None = flag(
        "--plan-name",
        help="name of the plan, for plans side by side (default: the planner's; with --from "
        "PLAN_from_DATASET)",
        metavar="NAME",
    )
    overwrite: bool = flag(
        "--overwrite", help="replace a plan edited by hand", default=False, action="store_true"
    )


@dataclass(frozen=True, kw_only=True)
class Preprocess(Dataset):
    """Crop, normalise and resample the training cases as planned; redoes only what changed."""

    configurations: tuple[str, ...] = flag(
        "-c", "--configurations", help="which to prepare (default: all)", default=(), nargs="+"
    )
    planner: str = plan_flag()


@dataclass(frozen=True, kw_only=True)
class Overlay(Dataset):
    """Draw every training case, or its prediction: the most labelled slice under its labels."""

    output: Path = flag(
        "-o", "--output", help="folder for CASE.png", type=Path, required=True, metavar="OUT"
    )
    channel: int = flag(
        "--channel", help="which image channel (default 0)", default=0, type=int, metavar="N"
    )
    predictions: Path | None = flag(
        "-p", "--predictions", help="draw these in place of the labels", type=Path, metavar="PRED"
    )


@dataclass(frozen=True, kw_only=True)
class Convert(Common):
    """Make a dataset folder of what you have; DICOM series become NIfTI files."""

    source: Path = flag(
        help="Decathlon task, nnU-Net v1 dataset, folder of images and masks, COCO or manifest "
        "JSON, manifest CSV, or folder of DICOM series",
        type=Path,
        metavar="SOURCE",
    )
    output: Path = flag(
        "-o", "--output", help="the new folder", type=Path, required=True, metavar="OUT"
    )
    kind: str = flag(
        "--from",
        help="what SOURCE is (default: told from what is in it)",
        default="auto",
        choices=("auto", "decathlon", "nnunet_v1", "folders", "coco", "manifest", "dicom"),
    )
    images: Path | None = flag(
        "--images", help="folder of the images, if not in SOURCE", type=Path, metavar="DIR"
    )
    masks: Path | None = flag(
        "--masks", help="folder of the masks, if not in SOURCE", type=Path, metavar="DIR"
    )
    labels: tuple[str, ...] = flag(
        "--labels",
        help="what values of masks mean, e.g. background=0 tumour=255 or tumour=#ff0000 "
        "(default: every value found is a label)",
        default=(),
        nargs="+",
        metavar="NAME=VALUE",
    )
    channels: tuple[str, ...] = flag(
        "--channels",
        help="names of the image channels; CT, rgb_to_0_1, ... choose the normalisation",
        default=(),
        nargs="+",
        metavar="NAME",
    )


@dataclass(frozen=True, kw_only=True)
class PlanAndPreprocess(Plan):
    """Plan, then preprocess."""
