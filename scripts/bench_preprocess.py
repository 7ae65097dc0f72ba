#!/usr/bin/env python3
"""Preprocessing: a whole data set by command, and one CT in process, against nnU-Net's.

scripts/bench_preprocess.py --peer FOLDER
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from benchmarking import (
    Row,
    Sample,
    alternate,
    measured,
    median_seconds,
    parse,
    program,
    run,
    run_side,
    save,
)
from floors import copy_rate, floor_of_command, floor_of_moving

HIPPOCAMPUS = "Dataset004_Hippocampus"
CT, CASE = "Dataset130_TotalSegCT", "ts_ct_full"
SPACING_MM, NEW_SPACING_MM = (1.5, 1.5, 1.5), (1.0, 1.0, 1.0)
INTENSITIES = {"mean": 90.0, "std": 180.0, "percentile_00_5": -900.0, "percentile_99_5": 1200.0}
WANTED = {"case": 10, "case with labels": None, "cubic resampling": 20, "label resampling": None}
CALLS = {"case": 5, "case with labels": 1, "cubic resampling": 5, "label resampling": 1}
NOTES = (
    "plan_and_preprocess: fresh folders; both measure a fingerprint, plan, and write 2d and "
    "3d_fullres. The peer at its default of 8 processes (4 for 3d_fullres) and without its check "
    "of the data set; segkit (one process a core) checks grids, values and labels on the way",
    f"CT: {CASE} of {CT}, taken to have voxels of {SPACING_MM[0]} mm, to 1 mm; "
    "after one call to warm up; without labels the peer resamples its nonzero mask too, with "
    "labels it samples foreground voxels (segkit when it stores a case); images are compared",
)

Call = Callable[[], np.ndarray]


def main() -> None:
    """Measure the command, then a CT: preprocessing without and with labels, resampling alone."""
    parser = parse(__doc__, repeats=3)
    parser.add_argument("--only", choices=("command", "ct"), help="leave the other part out")
    parser.add_argument("--what", choices=WANTED, help=argparse.SUPPRESS)
    parser.add_argument("--saved", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side == "compare":
        _compare_stores(options.saved)
    elif options.side:
        _measure_side(options)
    else:
        rows = [] if options.only == "ct" else [_command_row(options)]
        if options.only != "command":
            rows += [_ct_row(options, what) for what in WANTED]
        save(options, "preprocess", rows, *NOTES)


def _command_row(options: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        measures = {"segkit": _segkit_command, "peer": _peer_command}
        sides = {name: partial(f, options, Path(folder) / name) for name, f in measures.items()}
        found = alternate(sides, options.repeats)
        equal = run_side(options, "compare", "--saved", folder).result["equal"]
    return Row(
        what="plan_and_preprocess, Hippocampus",
        segkit=found["segkit"],
        peer=found["peer"],
        wanted=6,
        wanted_memory=3,
        equal=equal,
        floor=floor_of_command(program(options, "python"), _files_of(options.data / HIPPOCAMPUS)),
    )


def _files_of(folder: Path) -> list[Path]:
    return [path for kind in ("imagesTr", "labelsTr") for path in sorted((folder / kind).iterdir())]


def _segkit_command(options: argparse.Namespace, folder: Path) -> Sample:
    work = Path(tempfile.mkdtemp(dir=_made(folder)))
    raw = options.data.resolve() / HIPPOCAMPUS
    return run([program(options, "segkit"), "plan_and_preprocess", raw, "-w", work])


def _peer_command(options: argparse.Namespace, folder: Path) -> Sample:
    work = tempfile.mkdtemp(dir=_made(folder))
    env = {f"nnUNet_{name}": work for name in ("preprocessed", "results")}
    env["nnUNet_raw"] = str(options.data.resolve())
    return run([program(options, "nnUNetv2_plan_and_preprocess"), "-d", "4"], env=env)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _compare_stores(folder: Path) -> None:
    """Compare the plans, and every stored case of 3d_fullres, that both sides made."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    from segkit.preprocessing.store import PreprocessedStore

    ours, theirs = (next((folder / name).iterdir()) / HIPPOCAMPUS for name in ("segkit", "peer"))
    plans = [
        json.loads((folder / file).read_text())["configurations"]["3d_fullres"]
        for folder, file in ((ours, "plans/default.json"), (theirs, "nnUNetPlans.json"))
    ]
    same = plans[0]["patch_size"] == plans[1]["patch_size"]
    store = PreprocessedStore(ours / "preprocessed" / "default_3d_fullres")
    peer = nnUNetDatasetBlosc2(str(theirs / "nnUNetPlans_3d_fullres"))
    labels, images = 0, {True: [0.0], False: [0.0]}
    for case in store.case_ids():
        image, seg, *_ = peer.load_case(case)
        labels += int((store.seg(case) != seg[:]).sum())
        images[-1 in store.seg(case)].append(_relative(store.image(case), image[:]))
    equal = (
        f"{len(store.case_ids())} cases, patches {'equal' if same else 'DIFFER'}; in 3d_fullres "
        f"{labels} labels differ, images by {max(images[False]):.1e} of their range, or by "
        f"{max(images[True]):.1e} with invalid voxels, which segkit leaves out of the mean"
    )
    with measured(equal=equal):
        pass


def _ct_row(options: argparse.Namespace, what: str) -> Row:
    print(what, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        files = {side: Path(folder) / f"{side}.npy" for side in ("segkit", "peer")}
        sides = {
            side: partial(run_side, options, side, "--what", what, "--saved", file)
            for side, file in files.items()
        }
        found = alternate(sides, options.repeats)
        ours, theirs = (np.load(file) for file in files.values())
    differ = int((ours != theirs).sum())
    return Row(
        what=f"CT to 1 mm: {what}",
        segkit=found["segkit"],
        peer=found["peer"],
        wanted=WANTED[what],
        equal=f"{differ} of {ours.size} voxels differ"
        if what == "label resampling"
        else f"within {_relative(ours, theirs):.1e} of the range",
        floor=floor_of_moving(_bytes_moved(what, ours.size), copy_rate()),
    )


def _bytes_moved(what: str, voxels: int) -> int:
    """Count what is read before the CT becomes so many voxels, and what is written."""
    image, labels = 4, 2  # float32 and int16
    kinds = {"case with labels": image + labels, "label resampling": labels}
    share = math.prod(new / old for old, new in zip(SPACING_MM, NEW_SPACING_MM, strict=True))
    return round(kinds.get(what, image) * voxels * (1 + share))


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, as a share of the range."""
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


def _measure_side(options: argparse.Namespace) -> None:
    from segkit.dataset.description import load_description
    from segkit.dataset.image_io import read_image
    from segkit.dataset.label_files import read_label_map

    folder = options.data / CT
    schema = load_description(folder).labels
    image = read_image((folder / "imagesTr" / f"{CASE}_0000.nii.gz",)).array
    labels = read_label_map(folder / "labelsTr" / f"{CASE}.nii.gz", schema).array
    prepare = {"segkit": _segkit, "peer": _peer}[options.side]
    call = prepare(options.what, image, labels)
    with measured() as report:
        np.save(options.saved, call())
        report["seconds"] = median_seconds(call, CALLS[options.what], warm_up=0)


def _new_shape(image: np.ndarray) -> tuple[int, ...]:
    pairs = zip(image.shape[1:], SPACING_MM, NEW_SPACING_MM, strict=True)
    return tuple(round(old / new * size) for size, old, new in pairs)


def _segkit(what: str, image: np.ndarray, labels: np.ndarray) -> Call:
    from segkit.planning.plan import ConfigurationPlan, IntensityStatistics, NetworkPlan, Plan
    from segkit.preprocessing.pipeline import preprocess_case
    from segkit.preprocessing.resample import resample_image, resample_segmentation
    from segkit.types import Geometry, Volume

    grids = SPACING_MM, NEW_SPACING_MM, _new_shape(image)
    if what == "cubic resampling":
        return partial(resample_image, image, *grids)
    if what == "label resampling":
        return partial(resample_segmentation, labels, *grids)
    configuration = ConfigurationPlan(
        spacing_mm=NEW_SPACING_MM,
        patch_size=(128, 128, 128),
        batch_size=2,
        median_shape=(168.0, 152.0, 183.0),
        normalization=("ct",),
        normalize_inside_mask=(False,),
        batch_dice=False,
        network=NetworkPlan(
            features_per_stage=(),
            strides=(),
            kernel_sizes=(),
            convs_per_stage=(),
            convs_per_decoder_stage=(),
        ),
    )
    plan = Plan(
        planner="default",
        dataset=CT,
        channel_names=("CT",),
        transpose_forward=(0, 1, 2),
        orientation=None,
        intensities=(IntensityStatistics(median=0.0, min=-1024.0, max=3000.0, **INTENSITIES),),
        configurations={"3d_fullres": configuration},
    )
    volume = Volume(array=image, geometry=Geometry(spacing_mm=SPACING_MM))
    given = labels if what == "case with labels" else None
    return lambda: preprocess_case(volume, given, plan, "3d_fullres").image


def _peer(what: str, image: np.ndarray, labels: np.ndarray) -> Call:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    resample = partial(
        resample_data_or_seg_to_shape,
        new_shape=_new_shape(image),
        current_spacing=SPACING_MM,
        new_spacing=NEW_SPACING_MM,
        force_separate_z=None,
    )
    if what == "cubic resampling":
        return partial(resample, image, order=3)
    if what == "label resampling":
        return partial(resample, labels, is_seg=True, order=1)
    kwargs = {"order_z": 0, "force_separate_z": None}
    configuration = ConfigurationManager(
        {
            "architecture": {},
            "spacing": list(NEW_SPACING_MM),
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **kwargs},
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **kwargs},
        }
    )
    plans = PlansManager(
        {
            "transpose_forward": [0, 1, 2],
            "foreground_intensity_properties_per_channel": {"0": INTENSITIES},
            "label_manager": "LabelManager",
        }
    )
    seg = labels if what == "case with labels" else None
    dataset = {"labels": {"background": 0, **{f"c{i}": i for i in range(1, labels.max() + 1)}}}
    preprocessor = DefaultPreprocessor(verbose=False)
    return lambda: preprocessor.run_case_npy(
        image, seg, {"spacing": list(SPACING_MM)}, plans, configuration, dataset
    )[0]


if __name__ == "__main__":
    main()
