"""The batch size under a time budget."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from segkit.config import OptimizerConfig, load_recipe
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.dataset.splits import Split
from segkit.training import pace
from segkit.training.pace import ENOUGH_STEPS, adapt_optimizer, batch_size_for
from segkit.training.parts import Batch
from segkit.training.task import TrainingTask
from tests.tiny import tiny_configuration, tiny_plan


@pytest.mark.parametrize(
    ("seconds", "per_sample", "planned", "expected"),
    [
        (1200, 0.21, 7, 2),
        (ENOUGH_STEPS * 0.2 * 3.5, 0.2, 7, 3),
        (1e6, 0.2, 7, 7),
        (1, 10.0, 9, 2),
    ],
)
def test_as_large_as_leaves_enough_steps(seconds, per_sample, planned, expected):
    assert batch_size_for(seconds, per_sample, planned=planned) == expected


@pytest.mark.parametrize(
    ("steps", "momentum", "learning_rate"),
    [
        (250_000, 0.99, 0.01),
        (4000, 0.99, 0.01),
        (800, 0.95, 0.01 * 5**0.5),
        (10, 0.9, 0.01 * 10**0.5),
    ],
)
def test_momentum_averages_over_a_small_part_of_the_run(steps, momentum, learning_rate):
    adapted = adapt_optimizer(OptimizerConfig(), steps)
    assert adapted.momentum == pytest.approx(momentum)
    assert adapted.peak_learning_rate == pytest.approx(learning_rate)


def test_what_is_low_enough_or_switched_off_stays():
    low = OptimizerConfig(momentum=0.8)
    assert adapt_optimizer(low, 100) == low
    fixed = OptimizerConfig(adapt_to_short_runs=False)
    assert adapt_optimizer(fixed, 100) == fixed


class Cases:
    """Bright voxels are the class."""

    def image(self, case_id):
        return np.random.default_rng(0).normal(size=(1, 40, 40, 40)).astype(np.float32)

    def seg(self, case_id):
        return (self.image(case_id) > 1).astype(np.int16)

    def locations(self, case_id):
        return {1: np.argwhere(self.seg(case_id)[0])}


def task_of(*settings, patch_size=(32, 32, 32)):
    return TrainingTask(
        plan=tiny_plan(tiny_configuration(stages=2, patch_size=patch_size, batch_size=7)),
        configuration="3d_fullres",
        schema=LabelSchema(classes=(LabelClass(name="a", value=1),)),
        split=Split(train=("x",), val=("x",)),
        fold=0,
        recipe=load_recipe("default", settings),
    )


@pytest.fixture
def timed(monkeypatch):
    """Steps take a second for every 1000 voxels of a batch; returns the patches timed so far."""
    sizes, now = [], [0.0]

    def step(parts, batches, iteration):
        sizes.append(tuple(batches[0].image.shape[2:]))
        now[0] += parts.train_loader.settings.batch_size * math.prod(sizes[-1]) / 1000

    monkeypatch.setattr(pace, "train_step", step)
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        pace,
        "load_batch",
        lambda loader, _: Batch(torch.empty(2, 1, *loader.settings.final_size), 0),
    )
    return sizes


@pytest.mark.parametrize(
    ("seconds", "patches"),
    [
        # Two steps of two whole patches would take 131 s.
        (2600.0, [(16, 16, 16)] * 2),
        (2700.0, [(16, 16, 16)] * 2 + [(32, 32, 32)] * 2),
    ],
)
def test_timing_takes_a_small_share_of_the_budget(timed, seconds, patches):
    each = pace.seconds_per_sample(task_of(), Cases(), torch.device("cpu"), seconds)
    assert each == pytest.approx(32.768)
    assert timed == patches


def test_a_patch_that_cannot_be_smaller_is_timed_once(timed):
    task = task_of(patch_size=(4, 4, 4))
    assert pace.seconds_per_sample(task, Cases(), torch.device("cpu"), 1.0) == pytest.approx(0.064)
    assert timed == [(4, 4, 4)] * 2


def test_the_small_patch_is_one_that_the_trained_network_can_halve(timed):
    strides = "network.strides=[[1,1,1],[2,2,2],[2,2,2],[2,2,2]]"
    lists = ["features_per_stage=[2,2,2,2]", "convs_per_stage=[1,1,1,1]"]
    lists += [f"network.kernel_sizes={[[3, 3, 3]] * 4}", "convs_per_decoder_stage=[1,1,1]"]
    task = task_of(strides, *lists, patch_size=(40, 32, 32))
    pace.seconds_per_sample(task, Cases(), torch.device("cpu"), 1.0)
    assert timed == [(16, 16, 16)] * 2


def test_a_class_is_timed_on_the_patch_it_is_made_for():
    task = task_of("network.class=a:B")
    assert pace.with_small_patch(task) == task


@pytest.mark.parametrize(
    ("seconds", "steps", "warned"), [(60.5 * 65.536, 60, False), (10.5 * 65.536, 10, True)]
)
def test_too_few_steps_are_warned_of_with_a_patch_that_allows_enough(
    timed, caplog, seconds, steps, warned
):
    caplog.set_level("INFO", logger="segkit")
    paced = pace.with_pace(task_of(), Cases(), torch.device("cpu"), seconds)
    assert paced.batch_size == 2
    told = [record.getMessage() for record in caplog.records]
    assert told[:2] == [
        "timing steps, to choose a batch size for the time there is",
        f"batch size 2: about {steps} steps fit into the time",
    ]
    assert ("max_patch_voxels=6881" in caplog.text) == warned


@pytest.mark.parametrize(
    ("size", "settings", "planner", "advice"),
    [
        ((32, 32, 32), (), "default", "plan a smaller network: segkit plan_and_preprocess"),
        ((32, 32, 32), (), "cpu", "give more time\n"),
        # A side that is short already stays as it is.
        ((8, 64, 64), (), "default", "max_patch_voxels=3276"),
        ((32, 32, 32), ("network.class=a:B",), "default", "plan a smaller network"),
    ],
)
def test_no_patch_is_advised_that_sees_nothing(size, settings, planner, advice):
    task = task_of(*settings, patch_size=size)
    task = replace(task, plan=replace(task.plan, planner=planner))
    told = pace._advice(task, 5) + "\n"
    assert told.startswith("in fewer than 50 steps little is learned; give more time")
    assert advice in told
    assert ("max_patch_voxels" in told) == ("max_patch_voxels" in advice)


def test_accumulated_batches_count_as_time(timed):
    task = task_of("accumulate=4", "sampling.batch_size=2")
    paced = pace.with_pace(task, Cases(), torch.device("cpu"), 4000 * 4 * 65.536)
    assert paced.recipe.optimizer.momentum == pytest.approx(0.99)
    paced = pace.with_pace(task, Cases(), torch.device("cpu"), 800 * 4 * 65.536)
    assert paced.recipe.optimizer.momentum == pytest.approx(0.95)
