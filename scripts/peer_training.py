"""How nnU-Net and segkit train the tiny models that are compared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DATASET = "Dataset900_Compared"
FOLDERS = ("raw", "preprocessed", "results")
NUMBER = 900
_FIRST, _FULL, _CASCADE = "3d_lowres", "3d_fullres", "3d_cascade_fullres"
FOLD = "all"
"""Tiny models learn all cases there are: not how well they do elsewhere is compared."""
_EPOCHS = 10
"""Both lower the learning rate after each: a model that ends at a high one is sure of little."""
_RATE = 3e-3
"""Of Adam, the first learning rate."""
_OWN_RECIPE = (
    f"schedule.epochs={_EPOCHS}",
    "optimizer.name=adamw",
    f"optimizer.learning_rate={_RATE}",
    "augment.mirror=true",
    "precision=fp32",
    "final_validation=false",
)
"""The same for segkit, over its recipe ``debug``."""


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


def train_in_peer(scenario: Scenario, work: Path, data: Path) -> tuple[Path, ...]:
    """Let nnU-Net train a tiny model, unless it is there; return the folder of every stage."""
    name = f"{scenario.trainer}__{scenario.plans}"
    trained = [work / "results" / DATASET / f"{name}__{stage}" for stage in scenario.stages]
    if not (trained[-1] / f"fold_{FOLD}" / "checkpoint_final.pth").exists():
        _raw(scenario, work, data)
        _train(scenario, work)
    return tuple(trained)


def train_in_segkit(scenario: Scenario, work: Path, data: Path) -> Path:
    """Let segkit train a tiny model, unless it is there; return its folder."""
    raw, workspace = work / "raw" / DATASET, work / "segkit_work"
    planner, configuration = scenario.own_planner, scenario.configuration
    model = workspace / DATASET / "models" / f"{planner}_{configuration}_debug"
    if not (model / f"fold_{FOLD}" / "final.pt").exists():
        _raw(scenario, work, data)
        where = ("-w", workspace, "--planner", planner)
        run_segkit("plan", raw, *where, "-j", 1)
        _shrink_plan(workspace / DATASET / "plans" / f"{planner}.json", scenario)
        run_segkit("preprocess", raw, *where, "-j", 1, "-c", configuration)
        how = ("--recipe", "debug", "--device", "cpu", "--fold", FOLD, "--set", *_OWN_RECIPE)
        each = f"schedule.iterations_per_epoch={scenario.steps // _EPOCHS}"
        run_segkit("train", raw, configuration, *where, *how, each)
    return model


def run_segkit(*arguments: object) -> None:
    """Run a command of segkit, in a process of its own: the peer forks, and threads do not."""
    command = [sys.executable, "-m", "segkit", *map(str, arguments)]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
        sys.exit(f"{' '.join(command)}\nfailed")


def leave_out_primus() -> None:
    """Spare nnU-Net, which imports all trainers to find one, those that need torchvision."""
    name = "nnunetv2.training.nnUNetTrainer.primus.primus_trainers"
    sys.modules.setdefault(name, types.ModuleType(name))


def _raw(scenario: Scenario, work: Path, data: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    scenario.make(work / "raw" / DATASET, data)


def _train(scenario: Scenario, work: Path) -> None:
    """Let nnU-Net plan and preprocess, make its network tiny, and train it."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([NUMBER], num_processes=1, check_dataset_integrity=True)
    api.plan_experiments([NUMBER], experiment_planner_class_name=scenario.planner)
    file = work / "preprocessed" / DATASET / f"{scenario.plans}.json"
    plans = json.loads(file.read_text())
    _shrink_peer_plans(plans, scenario)
    file.write_text(json.dumps(plans))
    # A cascade's second stage is trained on what is preprocessed for 3d_fullres.
    names = [name.replace(_CASCADE, _FULL) for name in scenario.stages]
    where = {"plans_identifier": scenario.plans, "configurations": names}
    api.preprocess([NUMBER], num_processes=[1] * len(names), **where)
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

    leave_out_primus()
    torch.manual_seed(0)
    np.random.seed(0)
    trainer_class = recursive_find_trainer_class_by_name(scenario.trainer)
    given = ({**plans, "continue_training": False}, name, FOLD, description)
    trainer = trainer_class(*given, device=torch.device("cpu"))
    trainer.num_epochs = _EPOCHS
    trainer.num_iterations_per_epoch = scenario.steps // _EPOCHS
    trainer.num_val_iterations_per_epoch = 1
    for key, value in scenario.settings.items():
        setattr(trainer, key, value)
    return trainer


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
