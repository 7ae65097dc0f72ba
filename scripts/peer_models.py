"""What the comparison with nnU-Net does inside the peer's environment, where both can be imported.

Every function compares one thing and returns the worst of every measure over all cases.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DATASET = "Dataset900_Compared"
FOLDERS = ("raw", "preprocessed", "results")
_NUMBER = 900
_FIRST, _FULL, _CASCADE = "3d_lowres", "3d_fullres", "3d_cascade_fullres"
_FOLD = "all"
"""Tiny models learn all cases there are: not how well they do elsewhere is compared."""
_EPOCHS = 10
"""Both lower the learning rate after each: a model that ends at a high one is sure of little."""
_RATE = 3e-3
_OWN_RECIPE = (
    f"schedule.epochs={_EPOCHS}",
    "optimizer.name=adamw",
    f"optimizer.learning_rate={_RATE}",
    "augment.mirror=true",
    "precision=fp32",
    "final_validation=false",
)
"""The same for segkit, over its recipe ``debug``."""
_WORST: dict[str, Callable[[Any, Any], Any]] = {
    "cases": max,
    "foreground": min,
    "missing": max,
    "identical": min,
    "dice": min,
    "lowest": min,
    "apart": max,
    "otherwise": max,
}
"""Measure -> which of two is the worse."""


class Maker(Protocol):
    """Writes a raw data set, given its folder and the folder of the real data sets."""

    def __call__(self, folder: Path, data: Path) -> None:
        """Write it."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is trained."""

    what: str
    make: Maker
    planner: str = "ExperimentPlanner"
    plans: str = "nnUNetPlans"
    own_planner: str = "default"
    """The same planner's name in segkit."""
    configuration: str = _FULL
    depth: int = 3
    patch_size: tuple[int, ...] = (24, 24, 24)
    steps: int = 1000
    trainer: str = "nnUNetTrainerAdam"
    """With momentum 0.99 some networks predict nothing yet after so few steps."""
    settings: Mapping[str, Any] = field(default_factory=lambda: {"initial_lr": _RATE})
    """Attributes of the trainer that are set before it begins."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Configurations that are trained one after the other."""
        return (_FIRST, _CASCADE) if self.configuration == _CASCADE else (self.configuration,)

    def trained(self, work: Path, configuration: str) -> Path:
        """Folder where nnU-Net has its model of a configuration."""
        name = f"{self.trainer}__{self.plans}__{configuration}"
        return work / "results" / DATASET / name


def compare_imported(scenario: Scenario, work: Path, data: Path) -> dict[str, Any]:
    """Let nnU-Net train a tiny model, import it, and predict the training images with both."""
    trained = [scenario.trained(work, name) for name in scenario.stages]
    if not (trained[-1] / f"fold_{_FOLD}" / "checkpoint_final.pth").exists():
        _raw(scenario, work, data)
        _train(scenario, work)
    model = work / "model"
    _segkit("import_nnunet", trained[-1], "-o", model, "--overwrite")
    if len(trained) == 1:
        return _compare_predictions(model, trained[-1], work)
    # Of a cascade the second stage refines, on both sides, what nnU-Net's first stage predicts.
    first = _compare_predictions(model / "previous_stage", trained[0], work, "first")
    second = _compare_predictions(model, trained[-1], work, previous=work / "first_peer")
    return {key: _WORST[key](first[key], second[key]) for key in second}


def compare_exported(scenario: Scenario, work: Path, data: Path) -> dict[str, Any]:
    """Let segkit train a tiny model, export it, and predict the training images with both."""
    workspace = work / "segkit_work"
    planner, configuration = scenario.own_planner, scenario.configuration
    model = workspace / DATASET / "models" / f"{planner}_{configuration}_debug"
    raw = work / "raw" / DATASET
    if not (model / f"fold_{_FOLD}" / "final.pt").exists():
        _raw(scenario, work, data)
        where = (raw, "-w", workspace, "--planner", planner)
        _segkit("plan", *where, "-j", 1)
        _shrink_plan(workspace / DATASET / "plans" / f"{planner}.json", scenario)
        _segkit("preprocess", *where, "-j", 1, "-c", configuration)
        how = ("--recipe", "debug", "--device", "cpu", "--fold", _FOLD, "--set", *_OWN_RECIPE)
        each = f"schedule.iterations_per_epoch={scenario.steps // _EPOCHS}"
        _segkit("train", raw, configuration, *where[1:], *how, each)
    _segkit("export_nnunet", model, "-o", work / "exported", "--overwrite")
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
        api.extract_fingerprints([_NUMBER], num_processes=1, check_dataset_integrity=False)
        api.plan_experiments([_NUMBER])
    plans = json.loads((made / "nnUNetPlans.json").read_text())
    names = [name for name in ("2d", "3d_fullres") if name in plans["configurations"]]
    if not all((made / f"nnUNetPlans_{name}").exists() for name in names):
        api.preprocess([_NUMBER], configurations=names, num_processes=[1] * len(names))
    workspace = work / "segkit_work"
    where = ("-w", workspace, "-j", 1, "-c", *names)
    _segkit("plan_and_preprocess", raw, "--plans", made / "nnUNetPlans.json", *where)
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


def _raw(scenario: Scenario, work: Path, data: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    scenario.make(work / "raw" / DATASET, data)


def _train(scenario: Scenario, work: Path) -> None:
    """Let nnU-Net plan and preprocess, make its network tiny, and train it."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([_NUMBER], num_processes=1, check_dataset_integrity=True)
    api.plan_experiments([_NUMBER], experiment_planner_class_name=scenario.planner)
    file = work / "preprocessed" / DATASET / f"{scenario.plans}.json"
    plans = json.loads(file.read_text())
    _shrink_peer_plans(plans, scenario)
    file.write_text(json.dumps(plans))
    # A cascade's second stage is trained on what is preprocessed for 3d_fullres.
    names = [name.replace(_CASCADE, _FULL) for name in scenario.stages]
    where = {"plans_identifier": scenario.plans, "configurations": names}
    api.preprocess([_NUMBER], num_processes=[1] * len(names), **where)
    # Only now: nnU-Net's planner fails without augmentation processes, training does not need any.
    os.environ["nnUNet_n_proc_DA"] = "0"
    description = json.loads((work / "raw" / DATASET / "dataset.json").read_text())
    for name in scenario.stages:
        trainer = _peer_trainer(scenario, plans, name, description)
        trainer.run_training()
        if name == _FIRST:  # writes what the next stage learns from
            trainer.perform_actual_validation()


def _shrink_peer_plans(plans: dict[str, Any], scenario: Scenario) -> None:
    """Make the network tiny; a cascade, which no data so small has, is put beside."""
    every = plans["configurations"]
    configuration = every[_FULL if scenario.configuration == _CASCADE else scenario.configuration]
    arguments = configuration["architecture"]["arch_kwargs"]
    _shrink(arguments, scenario, "n_conv_per_stage_decoder")
    arguments["n_stages"] = scenario.depth
    configuration |= {"patch_size": list(scenario.patch_size), "batch_size": 2}
    if scenario.configuration == _CASCADE:
        every[_FIRST] = {
            "inherits_from": _FULL,
            "data_identifier": f"{scenario.plans}_{_FIRST}",
            "spacing": [2 * spacing for spacing in configuration["spacing"]],
            "next_stage": _CASCADE,
        }
        every[_CASCADE] = {"inherits_from": _FULL, "previous_stage": _FIRST}


def _peer_trainer(scenario: Scenario, plans: Any, name: str, description: Any) -> Any:
    """Return a trainer of nnU-Net for few steps."""
    import torch
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    _leave_out_primus()
    torch.manual_seed(0)
    np.random.seed(0)
    trainer_class = recursive_find_trainer_class_by_name(scenario.trainer)
    given = ({**plans, "continue_training": False}, name, _FOLD, description)
    trainer = trainer_class(*given, device=torch.device("cpu"))
    trainer.num_epochs = _EPOCHS
    trainer.num_iterations_per_epoch = scenario.steps // _EPOCHS
    trainer.num_val_iterations_per_epoch = 1
    for key, value in scenario.settings.items():
        setattr(trainer, key, value)
    return trainer


def _leave_out_primus() -> None:
    """Spare nnU-Net, which imports all trainers to find one, those that need torchvision."""
    name = "nnunetv2.training.nnUNetTrainer.primus.primus_trainers"
    sys.modules.setdefault(name, types.ModuleType(name))


def _shrink_plan(file: Path, scenario: Scenario) -> None:
    """Make the network of a plan of segkit tiny."""
    plan = json.loads(file.read_text())
    configuration = plan["configurations"][scenario.configuration]
    _shrink(configuration["network"], scenario, "convs_per_decoder_stage")
    configuration |= {"patch_size": list(scenario.patch_size), "batch_size": 2}
    file.write_text(json.dumps(plan))


def _shrink(network: dict[str, Any], scenario: Scenario, decoder: str) -> None:
    """Keep the first stages, with few features."""
    for key, value in network.items():
        if isinstance(value, list):
            network[key] = value[: scenario.depth - (key == decoder)]
    network["features_per_stage"] = [8 * 2**stage for stage in range(scenario.depth)]


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
    _segkit("predict", "-m", model, "-i", images, "-o", ours, *how, *told)
    row = _compare_labels(ours, theirs, _values(images.parent))
    return {**row, **_compare_logits(predictor, model, images, previous)}


def _peer_predictor(trained: Path) -> Any:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    _leave_out_primus()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained), (_FOLD,))
    return predictor


def _segkit(*arguments: object) -> None:
    """Run a command of segkit, in a process of its own: the peer forks, and threads do not."""
    command = [sys.executable, "-m", "segkit", *map(str, arguments)]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        sys.exit(f"{' '.join(command)}\nfailed")


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
    plan, labels = predictor.configuration_manager, own.model.description.labels
    # nnU-Net's outputs are ordered by the values of the labels, segkit's as these are declared.
    order = [*range(labels.num_outputs)]
    if not labels.has_regions:
        order = [0, *(1 + place for place in value_order(labels))]
    row = {"apart": 0.0, "otherwise": 0}
    with _AccumulatingInFloat32(peer):
        for case in images_to_predict((images,), own.model.description):
            ours = own.predict(own.read(case)).logits[order]
            files = [str(path) for path in case.images]
            preprocess = plan.preprocessor_class(verbose=False).run_case
            given = (predictor.plans_manager, plan, predictor.dataset_json)
            image = torch.from_numpy(np.asarray(preprocess(files, None, *given)[0]))
            theirs = predictor.predict_logits_from_preprocessed_data(image)
            decided = [x > 0 if labels.sigmoid else x.argmax(0) for x in (ours, theirs)]
            row["apart"] = max(row["apart"], float((ours - theirs).abs().max()))
            row["otherwise"] += int((decided[0] != decided[1]).sum())
            print(f"{case.id}: logits up to {float(theirs.abs().max()):.3g}", file=sys.stderr)
    return row


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
