"""What a run that goes on may change, and what not."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_configuration, tiny_plan

from segkit.config import LossConfig, OptimizerConfig, Recipe, SamplingConfig, ScheduleConfig
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.dataset.splits import Split
from segkit.errors import UserError
from segkit.files import write_json
from segkit.structs import to_mapping
from segkit.training.record import RunRecord, read_record
from segkit.training.run import RunSettings, train_fold
from segkit.training.task import TrainingTask

PLAN = tiny_plan(tiny_configuration(median_shape=(16.0, 16.0, 16.0), batch_dice=True))
BEGUN = Recipe(sampling=SamplingConfig(class_weights={"a": 2.0}, case_weights={"x": 2.0}))


def resume(folder, recipe):
    task = TrainingTask(
        plan=None,
        configuration="3d_fullres",
        schema=LabelSchema(classes=(LabelClass(name="a", value=1),)),
        split=Split(train=("x",), val=("y",)),
        fold=0,
        recipe=recipe,
    )
    run = RunSettings(device=torch.device("cpu"), started=0.0, resume=True)
    train_fold(task, None, folder, run, draw=lambda path: None)


class Cases:
    """Bright voxels are the class; black ones are empty, but for one that is labelled."""

    def __init__(self):
        self.seg_zyx = np.random.default_rng(0).integers(-1, 2, (1, 16, 16, 16)).astype(np.int16)

    def image(self, case_id):
        return np.maximum(self.seg_zyx, 0).astype(np.float32)

    def seg(self, case_id):
        return self.seg_zyx

    def locations(self, case_id):
        return {1: np.argwhere(self.seg_zyx[0] == 1)}


def short_task(**loss):
    schedule = ScheduleConfig(epochs=1, iterations_per_epoch=1, validation_iterations=0)
    return TrainingTask(
        plan=replace(PLAN, force_invalid_to_background=False),
        configuration="3d_fullres",
        schema=LabelSchema(
            classes=(LabelClass(name="a", value=1), LabelClass(name="never", value=2))
        ),
        split=Split(train=("x", "z"), val=("y",)),
        fold=0,
        recipe=Recipe(schedule=schedule, loss=LossConfig(**loss), precision="fp32"),
        frequencies={"background": 0.9, "a": 0.1, "never": 0.0},
        unannotated=("z",),
    )


def test_what_plan_and_data_decide_is_told_and_recorded_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="segkit")
    run = RunSettings(device=torch.device("cpu"), started=0.0)
    task = short_task(class_weights="auto")
    train_fold(task, Cases(), tmp_path, run, draw=lambda path: None)
    told = "\n".join(record.getMessage() for record in caplog.records)
    for line in (
        "loss.invalid_voxels: empty voxels are trained as background",
        "loss.class_weights auto: background 1.53, a 8.82, never 1.53",
        "no training case has any never",
        "no voxel is annotated in z: not drawn",
        "there will be no best.pt",
    ):
        assert told.count(line) == 1, line
    record = read_record(tmp_path)
    weights = record.resolved.loss.class_weights
    assert weights == pytest.approx({"background": 1.53, "a": 8.82, "never": 1.53}, rel=1e-2)
    assert record.resolved.loss.invalid_voxels == "background"
    assert record.resolved.precision == "fp32"
    assert record.requested == task.recipe
    changed = replace(task, frequencies={"background": 0.5, "a": 0.25, "never": 0.25})
    longer = replace(task.recipe, schedule=replace(task.recipe.schedule, epochs=2))
    goes_on = replace(run, resume=True)
    train_fold(replace(changed, recipe=longer), Cases(), tmp_path, goes_on, draw=lambda path: None)
    assert read_record(tmp_path).resolved.loss.class_weights == weights


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"class_weights": {"a": 2.0, "b": 1.0}}, "sampling.class_weights.b"),
        ({"class_weights": {}}, "sampling.class_weights.a"),
        ({"class_weights": None}, "sampling.class_weights"),
        ({"case_weights": {"x": 3.0}}, "sampling.case_weights.x"),
        ({"batch_size": 3}, "sampling.batch_size"),
    ],
)
def test_other_values_are_refused_by_name(tmp_path, changes, named):
    record = RunRecord(requested=BEGUN, resolved=BEGUN, budget_seconds=None)
    write_json(tmp_path / "recipe.json", to_mapping(record))
    (tmp_path / "last.pt").touch()
    sampling = replace(BEGUN.sampling, **changes)
    changed = replace(BEGUN, schedule=ScheduleConfig(epochs=7), sampling=sampling)
    with pytest.raises(UserError, match=f"other values of {named}\n"):
        resume(tmp_path, changed)


def test_an_early_end_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="segkit")
    task = short_task()
    schedule = ScheduleConfig(
        epochs=9, iterations_per_epoch=1, validation_iterations=1, early_stopping=1
    )
    optimizer = OptimizerConfig(learning_rate=1e-20)
    recipe = replace(task.recipe, schedule=schedule, optimizer=optimizer)
    run = RunSettings(device=torch.device("cpu"), started=0.0)
    task = replace(task, recipe=recipe)
    state = train_fold(task, Cases(), tmp_path, run, draw=lambda path: None)
    assert state.epoch < 9
    best = state.epoch - 1
    assert f"ended early: no better for 1 epochs; best.pt is of epoch {best}" in caplog.text
