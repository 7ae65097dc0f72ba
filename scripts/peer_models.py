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
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DATASET = "Dataset900_Compared"
FOLDERS = ("raw", "preprocessed", "results")
_NUMBER = 900


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
    configuration: str = "3d_fullres"
    stages: int = 3
    patch_size: tuple[int, ...] = (24, 24, 24)
    steps: int = 300
    trainer: str = "nnUNetTrainer"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the trainer that are set before it begins."""


def compare_imported(scenario: Scenario, work: Path, data: Path) -> dict[str, Any]:
    """Let nnU-Net train a tiny model, import it, and predict the training images with both."""
    results = work / "results" / DATASET
    trained = results / f"{scenario.trainer}__{scenario.plans}__{scenario.configuration}"
    if not (trained / "fold_0" / "checkpoint_final.pth").exists():
        _raw(scenario, work, data)
        _train(scenario, work)
    _segkit("import_nnunet", trained, "-o", work / "model", "--overwrite")
    return _compare_predictions(work / "model", trained, work)


def compare_exported(scenario: Scenario, work: Path, data: Path) -> dict[str, Any]:
    """Let segkit train a tiny model, export it, and predict the training images with both."""
    workspace = work / "segkit_work"
    model = workspace / DATASET / "models" / f"default_{scenario.configuration}_debug"
    raw = work / "raw" / DATASET
    if not (model / "fold_0" / "final.pt").exists():
        _raw(scenario, work, data)
        _segkit("plan", raw, "-w", workspace, "-j", 1)
        _shrink_plan(workspace / DATASET / "plans" / "default.json", scenario)
        _segkit("preprocess", raw, "-w", workspace, "-j", 1, "-c", scenario.configuration)
        schedule = ("schedule.epochs=1", f"schedule.iterations_per_epoch={scenario.steps}")
        how = ("--recipe", "debug", "--device", "cpu", "--set", "final_validation=false")
        where = (raw, scenario.configuration, "-w", workspace, "--fold", 0)
        _segkit("train", *where, *how, *schedule, "augment.mirror=true", "precision=fp32")
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
    import torch
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    api.extract_fingerprints([_NUMBER], num_processes=1, check_dataset_integrity=True)
    api.plan_experiments([_NUMBER], experiment_planner_class_name=scenario.planner)
    file = work / "preprocessed" / DATASET / f"{scenario.plans}.json"
    plans = json.loads(file.read_text())
    configuration = plans["configurations"][scenario.configuration]
    _shrink(configuration["architecture"]["arch_kwargs"], scenario, "n_conv_per_stage_decoder")
    configuration["architecture"]["arch_kwargs"]["n_stages"] = scenario.stages
    configuration |= {"patch_size": list(scenario.patch_size), "batch_size": 2}
    file.write_text(json.dumps(plans))
    where = {"plans_identifier": scenario.plans, "configurations": [scenario.configuration]}
    api.preprocess([_NUMBER], num_processes=[1], **where)
    # Only now: nnU-Net's planner fails without augmentation processes, training does not need any.
    os.environ["nnUNet_n_proc_DA"] = "0"
    _leave_out_primus()
    description = json.loads((work / "raw" / DATASET / "dataset.json").read_text())
    torch.manual_seed(0)
    np.random.seed(0)
    plans["continue_training"] = False
    given = (plans, scenario.configuration, 0, description)
    trainer_class = recursive_find_trainer_class_by_name(scenario.trainer)
    trainer = trainer_class(*given, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch = 1, scenario.steps
    trainer.num_val_iterations_per_epoch = 1
    for key, value in scenario.settings.items():
        setattr(trainer, key, value)
    trainer.run_training()


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
            network[key] = value[: scenario.stages - (key == decoder)]
    network["features_per_stage"] = [8 * 2**stage for stage in range(scenario.stages)]


def _compare_predictions(model: Path, trained: Path, work: Path) -> dict[str, Any]:
    """Predict the training images with a model of segkit and its twin of nnU-Net."""
    images = work / "raw" / DATASET / "imagesTr"
    predictor = _peer_predictor(trained)
    for name in ("peer", "segkit"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "peer").mkdir()
    predictor.predict_from_files_sequential(str(images), str(work / "peer"))
    how = ("--precision", "fp32", "--device", "cpu")
    _segkit("predict", "-m", model, "-i", images, "-o", work / "segkit", *how)
    row = _compare_labels(work / "segkit", work / "peer")
    return {**row, **_compare_logits(predictor, model, images)}


def _peer_predictor(trained: Path) -> Any:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    _leave_out_primus()
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained), (0,))
    return predictor


def _segkit(*arguments: object) -> None:
    """Run a command of segkit, in a process of its own: the peer forks, and threads do not."""
    command = [sys.executable, "-m", "segkit", *map(str, arguments)]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        sys.exit(f"{' '.join(command)}\nfailed")


def _compare_labels(ours: Path, theirs: Path) -> dict[str, Any]:
    """Compare all label maps in two folders."""
    from segkit.dataset.image_io import KNOWN_ENDINGS, read_labels

    files = [path for path in sorted(ours.iterdir()) if path.name.endswith(KNOWN_ENDINGS)]
    pairs = [(read_labels(path).array, read_labels(theirs / path.name).array) for path in files]
    return {
        "cases": len(pairs),
        "foreground": float(np.mean([(b > 0).mean() for _, b in pairs])),
        "identical": float(min((a == b).mean() for a, b in pairs)),
        "dice": float(min(_mean_dice(a, b) for a, b in pairs)),
    }


def _mean_dice(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean Dice of all labels that occur."""
    found = []
    for label in set(np.union1d(one, other).tolist()) - {0}:
        a, b = one == label, other == label
        found.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(found)) if found else 1.0


def _compare_logits(predictor: Any, model: Path, images: Path) -> dict[str, Any]:
    """Compare logits before they are resampled, with the peer adding up tiles in float32.

    Returns:
        How far they are apart at most, and how many voxels are decided otherwise.
    """
    import torch
    from nnunetv2.inference import predict_from_raw_data as peer

    from segkit.dataset.cases import images_to_predict
    from segkit.interop.nnunet.order import value_order
    from segkit.workflows.models import Loading, load_models

    loading = Loading(device=torch.device("cpu"), precision="fp32")
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
