"""What the comparison with nnU-Net does inside the peer's environment, where both can be imported.

Every function compares one thing and returns the worst of every measure over all cases.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from peer_training import (
    DATASET,
    FOLD,
    NUMBER,
    Scenario,
    leave_out_primus,
    run_segkit,
    train_in_peer,
    train_in_segkit,
)

_LARGER_IS_WORSE = ("missing", "apart", "otherwise")


def compare_imported(scenario: Scenario, work: Path, data: Path) -> dict[str, Any]:
    """Let nnU-Net train a tiny model, import it, and predict the training images with both."""
    *before, trained = train_in_peer(scenario, work, data)
    model = work / "model"
    run_segkit("import_nnunet", trained, "-o", model, "--overwrite")
    if not before:
        return _compare_predictions(model, trained, work)
    # Of a cascade the second stage refines, on both sides, what nnU-Net's first stage predicts.
    first = _compare_predictions(model / "previous_stage", before[0], work, "first")
    second = _compare_predictions(model, trained, work, previous=work / "first_peer")
    worse = {key: max if key in _LARGER_IS_WORSE else min for key in second}
    return {key: worse[key](first[key], second[key]) for key in second}


def compare_exported(scenario: Scenario, work: Path, data: Path) -> dict[str, Any]:
    """Let segkit train a tiny model, export it, and predict the training images with both."""
    model = train_in_segkit(scenario, work, data)
    run_segkit("export_nnunet", model, "-o", work / "exported", "--overwrite")
    return _compare_predictions(model, work / "exported", work)


def compare_preprocessed(source: Path, work: Path, limits: Mapping[str, int]) -> dict[str, Any]:
    """Follow nnU-Net's plans of a real data set, and compare the arrays both make of it."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from peer_datasets import some_cases

    raw, made = work / "raw" / DATASET, work / "preprocessed" / DATASET
    if not (made / "nnUNetPlans_2d").exists():
        shutil.rmtree(work, ignore_errors=True)
        some_cases(source, raw, **limits)
        api.extract_fingerprints([NUMBER], num_processes=1, check_dataset_integrity=False)
        api.plan_experiments([NUMBER])
    plans = json.loads((made / "nnUNetPlans.json").read_text())
    names = [name for name in ("2d", "3d_fullres") if name in plans["configurations"]]
    if not all((made / f"nnUNetPlans_{name}").exists() for name in names):
        api.preprocess([NUMBER], configurations=names, num_processes=[1] * len(names))
    workspace = work / "segkit_work"
    where = ("-w", workspace, "-j", 1, "-c", *names)
    run_segkit("plan_and_preprocess", raw, "--plans", made / "nnUNetPlans.json", *where)
    row: dict[str, Any] = {"cases": 0, "identical": 1.0, "apart": 0.0}
    for name in names:
        theirs = nnUNetDatasetBlosc2(str(made / f"nnUNetPlans_{name}"))
        ours = workspace / DATASET / "preprocessed" / f"nnUNetPlans_{name}"
        row["cases"] = len(theirs.identifiers)
        for case in theirs.identifiers:
            image, labels, *_ = theirs.load_case(case)
            identical, apart = _compare_arrays(ours, case, image[:], labels[:], raw)
            row["identical"] = min(row["identical"], identical)
            row["apart"] = max(row["apart"], apart)
    return row


def _compare_arrays(
    ours: Path, case: str, image: np.ndarray, labels: np.ndarray, raw: Path
) -> tuple[float, float]:
    """Return the share of equal labels, and how far images are apart as a share of their range."""
    from segkit.dataset.description import load_description
    from segkit.preprocessing.store import PreprocessedStore

    store, schema = PreprocessedStore(ours), load_description(raw).labels
    values = np.array([*schema.raw_values, *schema.ignore_values, -1])
    mine, seg = store.image(case), values[store.seg(case)]
    if mine.shape != image.shape:
        return 0.0, float("inf")
    apart = np.abs(mine - image).max() / max(float(np.ptp(image)), 1e-8)
    return float((seg == labels).mean()), float(apart)


def _compare_predictions(
    model: Path, trained: Path, work: Path, stage: str = "", previous: Path | None = None
) -> dict[str, Any]:
    """Predict the training images with a model of segkit and its twin of nnU-Net.

    Args:
        model: Of segkit.
        trained: Of nnU-Net.
        work: Holds the images; the label maps are written there.
        stage: Tells the label maps of several models apart.
        previous: Label maps of the stage before.
    """
    images = work / "raw" / DATASET / "imagesTr"
    ours, theirs = (work / f"{stage}_{side}".lstrip("_") for side in ("segkit", "peer"))
    for folder in (ours, theirs):
        shutil.rmtree(folder, ignore_errors=True)
    theirs.mkdir()
    predictor = _peer_predictor(trained)
    before = None if previous is None else str(previous)
    predictor.predict_from_files_sequential(
        str(images), str(theirs), folder_with_segs_from_prev_stage=before
    )
    how = ("--precision", "fp32", "--device", "cpu")
    told = () if previous is None else ("--previous-stage", previous)
    run_segkit("predict", "-m", model, "-i", images, "-o", ours, *how, *told)
    row = _compare_labels(ours, theirs, _values(images.parent))
    return {**row, **_compare_logits(predictor, model, images, previous)}


def _peer_predictor(trained: Path) -> Any:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    leave_out_primus()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained), (FOLD,))
    return predictor


def _values(raw: Path) -> set[int]:
    """Return the values that a label map predicted for a data set may hold, without background."""
    from segkit.dataset.description import load_description

    labels = load_description(raw).labels
    return {each.paint for each in labels.regions} or {each.value for each in labels.classes}


def _compare_labels(ours: Path, theirs: Path, values: set[int]) -> dict[str, Any]:
    """Compare all label maps in two folders.

    Returns:
        Of the worst case the share of identical voxels, the mean Dice of its labels, and (of the
        worst label) the lowest; how often a label of ``values`` is predicted nowhere in a case.
    """
    from segkit.dataset.image_io import KNOWN_ENDINGS, read_labels

    files = [path for path in sorted(ours.iterdir()) if path.name.endswith(KNOWN_ENDINGS)]
    pairs = [(read_labels(path).array, read_labels(theirs / path.name).array) for path in files]
    dices = [_dices(a, b) for a, b in pairs]
    return {
        "cases": len(pairs),
        "foreground": float(np.mean([(b > 0).mean() for _, b in pairs])),
        "missing": sum(len(values - found.keys()) for found in dices),
        "identical": float(min((a == b).mean() for a, b in pairs)),
        "dice": float(min(np.mean([*found.values()] or [1.0]) for found in dices)),
        "lowest": float(min(min(found.values(), default=1.0) for found in dices)),
    }


def _dices(one: np.ndarray, other: np.ndarray) -> dict[int, float]:
    """Return the Dice of every label that occurs in either."""
    found = {}
    for label in set(np.union1d(one, other).tolist()) - {0}:
        a, b = one == label, other == label
        found[label] = float(2 * (a & b).sum() / (a.sum() + b.sum()))
    return found


def _compare_logits(
    predictor: Any, model: Path, images: Path, previous: Path | None
) -> dict[str, Any]:
    """Compare logits before they are resampled, with the peer adding up tiles in float32.

    Returns:
        How far they are apart at most, and how many voxels are decided otherwise.
    """
    import torch
    from nnunetv2.inference import predict_from_raw_data as peer

    from segkit.dataset.cases import images_to_predict
    from segkit.interop.nnunet.order import value_order
    from segkit.workflows.models import Loading, load_models

    loading = Loading(device=torch.device("cpu"), precision="fp32", previous_stage=previous)
    own: Any = load_models({model: 1.0}, loading).with_settings(0.5, mirror=True)
    labels = own.model.description.labels
    # nnU-Net's outputs are ordered by the values of the labels, segkit's as these are declared.
    order = [*range(labels.num_outputs)]
    if not labels.has_regions:
        order = [0, *(1 + place for place in value_order(labels))]
    row = {"apart": 0.0, "otherwise": 0}
    with _AccumulatingInFloat32(peer):
        for case in images_to_predict((images,), own.model.description):
            ours = own.predict(own.read(case)).logits[order]
            image = _peer_input(predictor, case.images, previous)
            theirs = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image))
            decided = [x > 0 if labels.sigmoid else x.argmax(0) for x in (ours, theirs)]
            row["apart"] = max(row["apart"], float((ours - theirs).abs().max()))
            row["otherwise"] += int((decided[0] != decided[1]).sum())
            print(f"{case.id}: logits up to {float(theirs.abs().max()):.3g}", file=sys.stderr)
    return row


def _peer_input(predictor: Any, images: Sequence[Path], previous: Path | None) -> np.ndarray:
    """Return what nnU-Net gives its network for a case."""
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

    plan, ending = predictor.configuration_manager, predictor.dataset_json["file_ending"]
    name = images[0].name.removesuffix(f"_0000{ending}") + ending
    before = None if previous is None else str(previous / name)
    given = (predictor.plans_manager, plan, predictor.dataset_json)
    preprocess = plan.preprocessor_class(verbose=False).run_case
    image, seg, _ = preprocess([str(path) for path in images], before, *given)
    if previous is None:
        return np.asarray(image)
    classes = predictor.label_manager.foreground_labels
    return np.vstack([image, convert_labelmap_to_one_hot(seg[0], classes, image.dtype)])


class _AccumulatingInFloat32:
    """Let the peer add up tiles in float32.

    In half precision it moves its own logits by 1e-3, and by up to 0.5 in the corners of an image,
    where the smallest weights a float16 has leave whole numbers only.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def __enter__(self) -> None:
        import torch

        self.torch, self.gaussian = self.module.torch, self.module.compute_gaussian

        class Float32Torch:
            half = torch.float32

            def __getattr__(self, name: str) -> Any:
                return getattr(torch, name)

        self.module.torch = Float32Torch()
        self.module.compute_gaussian = partial(self.gaussian, dtype=torch.float32)

    def __exit__(self, *_: object) -> None:
        self.module.torch, self.module.compute_gaussian = self.torch, self.gaussian
