"""Options of the commands that predict and judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segkit.options.common import (
    CONFIG_HELP,
    DATASET_HELP,
    Common,
    allow_code_flag,
    checkpoint_flag,
    flag,
    folds_flag,
    inputs_flag,
    plan_flag,
)
from segkit.precision import PrecisionName


@dataclass(frozen=True, kw_only=True)
class Predict(Common):
    """Segment images with a trained model."""

    inputs: tuple[Path, ...] = inputs_flag("folder, file or files")
    output: Path = flag("-o", "--output", help="folder", type=Path, required=True, metavar="OUT")
    models: tuple[Path, ...] = flag(
        "-m",
        "--models",
        help="model folder, or results of nnU-Net v2 (folder or zip); of several, the "
        "probabilities are averaged",
        nargs="+",
        default=(),
        type=Path,
        metavar="MODEL",
    )
    dataset: str | None = flag("-d", "--dataset", help=DATASET_HELP, metavar="DATASET")
    configurations: tuple[str, ...] = flag(
        "-c",
        "--configurations",
        help=f"{CONFIG_HELP}; of several, the probabilities are averaged (default for -d: what "
        "find_best chose)",
        nargs="+",
        default=(),
        metavar="CONFIG",
    )
    planner: str = plan_flag()
    recipe: str | None = flag("--recipe", help="recipe the model was trained with", metavar="NAME")
    folds: tuple[str, ...] = folds_flag("folds to average")
    checkpoint: str = checkpoint_flag()
    no_tta: bool = flag(
        "--no-tta", help="do not average over mirrored images", default=False, action="store_true"
    )
    step: float = flag(
        "--step", help="tile step as a share of the patch (default 0.5)", default=0.5, type=float
    )
    precision: PrecisionName = flag(
        "--precision",
        help="auto (fp16 on CUDA, bf16 on CPUs that are faster in it), fp32, bf16 or fp16",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    engine: str = flag(
        "--engine",
        help="what runs the network: torch, openvino (faster on CPUs; pip install "
        "'segkit[openvino]'), openvino-int8 (faster still, a little less exact; after segkit "
        "quantize) or auto (openvino on x86 CPUs where it is installed, else torch; default)",
        default="auto",
        choices=("auto", "torch", "openvino", "openvino-int8"),
    )
    weights: tuple[float, ...] = flag(
        "--weights",
        help="how much each of several models counts (default: all the same)",
        nargs="+",
        default=(),
        type=float,
        metavar="W",
    )
    previous_stage: Path | None = flag(
        "--previous-stage",
        help="folder of segmentations for a cascade to refine, CASE.ext as predictions are written "
        "(default: the model's own previous stage predicts them)",
        type=Path,
        metavar="DIR",
    )
    allow_code: tuple[str, ...] = allow_code_flag()
    save_probabilities: bool = flag(
        "--save-probabilities",
        help="also write CASE.npz with the probabilities",
        default=False,
        action="store_true",
    )
    dicom_seg: bool = flag(
        "--dicom-seg",
        help="also write CASE.dcm, a DICOM Segmentation; for DICOM series (pip install "
        "'segkit[dicom]')",
        default=False,
        action="store_true",
    )
    no_postprocessing: bool = flag(
        "--no-postprocessing",
        help="leave out the rules in the model folder's postprocessing.json",
        default=False,
        action="store_true",
    )
    keep_done: bool = flag(
        "--continue",
        help="keep what the same models have predicted from the same images before",
        default=False,
        action="store_true",
    )
    num_parts: int = flag(
        "--num-parts",
        help="share the cases out among N runs of this command, such as one a GPU",
        default=1,
        type=int,
        metavar="N",
    )
    part_id: int = flag(
        "--part-id", help="which part this run predicts, from 0", default=0, type=int, metavar="I"
    )


@dataclass(frozen=True, kw_only=True)
class Quantize(Common):
    """Calibrate a model for predict --engine openvino-int8, which is faster on CPUs.

    Notes on some images between which values a network's features lie, writes that into the
    model folder, and compares predictions in 8-bit integers with those of torch on others.
    """

    models: tuple[Path, ...] = flag(
        "-m",
        "--models",
        help="model folder, or several; or results of nnU-Net v2 (folder or zip)",
        nargs="+",
        type=Path,
        required=True,
        metavar="MODEL",
    )
    inputs: tuple[Path, ...] = inputs_flag(
        "folder, file or files: images like those that are to be predicted"
    )
    cases: int = flag(
        "--cases",
        help="calibrate on so many images, and compare on as many others (default 8)",
        default=8,
        type=int,
        metavar="N",
    )
    folds: tuple[str, ...] = folds_flag()
    checkpoint: str = checkpoint_flag()
    precision: PrecisionName = flag(
        "--precision",
        help="of torch, to calibrate and compare with: auto, fp32 or bf16",
        default="auto",
        choices=("auto", "fp32", "bf16"),
    )
    previous_stage: Path | None = flag(
        "--previous-stage",
        help="of a cascade: folder of segmentations to refine (default: the model's own previous "
        "stage, which is calibrated too)",
        type=Path,
        metavar="DIR",
    )


@dataclass(frozen=True, kw_only=True)
class Ensemble(Common):
    """Average predictions of several models, from the probabilities that were saved with them.

    Without files in between: segkit predict -m MODEL MODEL.
    """

    inputs: tuple[Path, ...] = inputs_flag(
        "folders written by predict --save-probabilities", "PRED"
    )
    output: Path = flag("-o", "--output", help="folder", type=Path, required=True, metavar="OUT")
    weights: tuple[float, ...] = flag(
        "--weights",
        help="how much each folder counts (default: all the same)",
        nargs="+",
        default=(),
        type=float,
        metavar="W",
    )
    description: Path | None = flag(
        "-d",
        "--dataset-json",
        help="dataset.json, where the folders do not say what was predicted",
        type=Path,
        metavar="DATASET_JSON",
    )
    save_probabilities: bool = flag(
        "--save-probabilities",
        help="also write CASE.npz with the averaged probabilities",
        default=False,
        action="store_true",
    )


@dataclass(frozen=True, kw_only=True)
class Postprocess(Common):
    """Apply post-processing rules to predictions, or (--fit) find rules that help.

    Models found by find_best or run apply their own when they predict.
    """

    input: Path | None = flag("-i", "--input", help="folder of predictions", type=Path)
    output: Path = flag(
        "-o",
        "--output",
        help="folder for what comes out; with --fit the JSON file of the rules",
        type=Path,
        required=True,
        metavar="OUT",
    )
    rules: Path | None = flag(
        "--rules", help="JSON file of rules, or a model folder", type=Path, metavar="FILE"
    )
    fit: bool = flag(
        "--fit",
        help="find rules on predictions of cases the model was not trained on; each is judged on "
        "cases it was not chosen on",
        default=False,
        action="store_true",
    )
    predictions: tuple[Path, ...] = flag(
        "-p",
        "--predictions",
        help="with --fit: folder, or several (MODEL/fold_*/validation), each of them a fold",
        nargs="+",
        default=(),
        type=Path,
        metavar="PRED",
    )
    references: Path | None = flag(
        "-r", "--references", help="with --fit: folder", type=Path, metavar="REF"
    )
    description: Path | None = flag(
        "-d",
        "--dataset-json",
        help="dataset.json or model folder (without --fit the rules know it)",
        type=Path,
        metavar="DATASET_JSON",
    )
    masks: Path | None = flag(
        "--masks",
        help="with --fit: folder of CASE.ext; only where they are not 0 counts",
        type=Path,
        metavar="DIR",
    )


@dataclass(frozen=True, kw_only=True)
class Evaluate(Common):
    """Compare predicted with reference label maps; prints a table, writes summary and report."""

    predictions: Path = flag(
        "-p", "--predictions", help="folder", type=Path, required=True, metavar="PRED"
    )
    references: Path = flag(
        "-r", "--references", help="folder", type=Path, required=True, metavar="REF"
    )
    description: Path | None = flag(
        "-d",
        "--dataset-json",
        help="dataset.json of the dataset; that of a model evaluates only what the model predicts",
        type=Path,
        metavar="DATASET_JSON",
    )
    labels: tuple[str, ...] = flag(
        "--labels",
        help="in place of a dataset.json: the values to judge, e.g. 1 2 or liver=1 tumour=2; all "
        "others count as background",
        default=(),
        nargs="+",
        metavar="[NAME=]VALUE",
    )
    ignore_label: int | None = flag(
        "--ignore-label",
        help="with --labels: value of voxels that nobody annotated",
        type=int,
        metavar="VALUE",
    )
    output: Path | None = flag(
        "-o", "--output", help="folder for the reports (default PRED)", type=Path, metavar="OUT"
    )
    metrics: tuple[str, ...] = flag(
        "--metrics",
        help="dice iou precision recall hd95_mm assd_mm nsd volume_ref_ml volume_pred_ml lesion_tp "
        "lesion_fp lesion_fn lesion_precision lesion_recall lesion_f1 (default: all but distances "
        "and lesions)",
        default=(),
        nargs="+",
    )
    nsd_tolerance_mm: float = flag(
        "--nsd-tolerance-mm", help="tolerance of nsd (default 1)", default=1.0, type=float
    )
    absent_score: float | None = flag(
        "--absent-score",
        help="score (0 to 1) of a target that is in neither reference nor prediction, e.g. 1 for "
        "correctly empty (default: n/a, left out of the means)",
        type=float,
        metavar="X",
    )
    masks: Path | None = flag(
        "--masks",
        help="folder of CASE.ext; only where they are not 0 is evaluated (default: masksTr of the "
        "dataset, where PRED is compared with its labelsTr)",
        type=Path,
        metavar="DIR",
    )
