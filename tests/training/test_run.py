"""What a run that goes on may change, and what not."""

from dataclasses import replace

import pytest
import torch

from segkit.config import Recipe, SamplingConfig, ScheduleConfig
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.dataset.splits import Split
from segkit.errors import UserError
from segkit.files import write_json
from segkit.structs import to_mapping
from segkit.training.run import RunRecord, RunSettings, train_fold
from segkit.training.setup import TrainingTask

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
