"""The batch is lowered until it fits; a step that fails plays the device that is too small."""

import logging

import numpy as np
import pytest
import torch

from segkit.config import Recipe, SamplingConfig
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.dataset.splits import Split
from segkit.errors import UserError
from segkit.planning.plan import ConfigurationPlan, IntensityStatistics, NetworkPlan, Plan
from segkit.training import fitting
from segkit.training.fitting import fitting_task
from segkit.training.pace import with_pace
from segkit.training.task import TrainingTask

CPU = torch.device("cpu")


class Cases:
    """Noise, half of it the class."""

    def image(self, case_id):
        return np.random.default_rng(0).normal(size=(1, 12, 12, 12)).astype(np.float32)

    def seg(self, case_id):
        return (self.image(case_id) > 0).astype(np.int16)

    def locations(self, case_id):
        return {1: np.argwhere(self.seg(case_id)[0] == 1)}


def make_task(batch_size=8, given=None):
    network = NetworkPlan(
        features_per_stage=(2, 4),
        strides=((1, 1, 1), (2, 2, 2)),
        kernel_sizes=((3, 3, 3), (3, 3, 3)),
        convs_per_stage=(1, 1),
        convs_per_decoder_stage=(1,),
    )
    configuration = ConfigurationPlan(
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=(8, 8, 8),
        batch_size=batch_size,
        median_shape=(12.0, 12.0, 12.0),
        normalization=("zscore",),
        normalize_inside_mask=(False,),
        batch_dice=True,
        network=network,
    )
    plan = Plan(
        planner="default",
        dataset="Dataset001_Toy",
        channel_names=("MR",),
        transpose_forward=(0, 1, 2),
        orientation=None,
        intensities=(
            IntensityStatistics(
                **dict.fromkeys(IntensityStatistics.__dataclass_fields__, 0.0),
            ),
        ),
        configurations={"3d_fullres": configuration},
    )
    return TrainingTask(
        plan=plan,
        configuration="3d_fullres",
        schema=LabelSchema(classes=(LabelClass(name="a", value=1),)),
        split=Split(train=("x",), val=("y",)),
        fold=0,
        recipe=Recipe(sampling=SamplingConfig(batch_size=given)),
    )


@pytest.fixture
def room(monkeypatch):
    """Let only so many patches fit; returns the sizes that were tried."""
    tried, real = [], fitting.train_step

    def set_room(patches):
        def step(parts, batches, iteration):
            size = len(batches[0].image)
            tried.append((size, iteration))
            if size > patches:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return real(parts, batches, iteration)

        monkeypatch.setattr(fitting, "train_step", step)
        return tried

    return set_room


@pytest.mark.parametrize(
    ("planned", "patches", "tried"),
    [
        (8, 8, [8]),
        (8, 5, [8, 6, 4]),
        (8, 1, [8, 6, 4, 3, 2, 1]),
        (2, 1, [2, 1]),
        (1, 1, [1]),
    ],
)
def test_the_batch_is_lowered_by_quarters(room, planned, patches, tried):
    sizes = room(patches)
    task = make_task(planned)
    fitted = fitting_task(task, Cases(), CPU)
    assert [size for size, iteration in sizes if iteration == 0] == tried
    assert sizes[-1] == (tried[-1], 1)
    assert fitted.batch_size == tried[-1]
    assert (fitted is task) == (len(tried) == 1)


def test_it_is_told_once(room, caplog):
    room(5)
    with caplog.at_level(logging.INFO, logger="segkit"):
        fitting_task(make_task(), Cases(), CPU)
    (record,) = caplog.records
    assert "batch size 4: the planned 8 do not fit" in record.getMessage()


def test_a_patch_that_does_not_fit_is_refused(room):
    room(0)
    with pytest.raises(UserError, match="not even one patch") as caught:
        fitting_task(make_task(), Cases(), CPU)
    assert "--gpu-memory-gb" in caught.value.fix


@pytest.mark.parametrize(("given", "expected"), [(None, 4), (8, 8)])
def test_runs_on_a_gpu_try_the_planned_batch_but_not_one_given(monkeypatch, given, expected):
    asked = []

    def lowered(task, source, device):
        asked.append(device.type)
        return fitting.with_batch_size(task, 4)

    monkeypatch.setattr("segkit.training.pace.fitting_task", lowered)
    paced = with_pace(make_task(given=given), Cases(), torch.device("cuda"), None)
    assert paced.batch_size == expected
    assert asked == ([] if given else ["cuda"])
    asked.clear()
    assert with_pace(make_task(), Cases(), CPU, None).batch_size == 8
    assert asked == []
