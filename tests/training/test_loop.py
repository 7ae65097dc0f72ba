"""The loop on a tiny network: it learns, it resumes exactly, it keeps to its time."""

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from segkit.config import LossConfig, OptimizerConfig, Recipe, ScheduleConfig
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.errors import UserError
from segkit.precision import choose_precision
from segkit.preprocessing.locations import find_locations
from segkit.runtime import StopRequested, deferred_interrupts
from segkit.training.clock import Clock
from segkit.training.hooks import checkpoint_content, restore
from segkit.training.loop import TrainingRun, train
from segkit.training.losses import SegmentationLoss
from segkit.training.optim import Stepper, build_optimizer
from segkit.training.parts import TrainingParts
from segkit.training.patches import PatchLoader, PatchSettings
from segkit.training.state import TrainingState

SCHEMA = LabelSchema(
    classes=(LabelClass(name="bright", value=1), LabelClass(name="never", value=2))
)
RECIPE = Recipe(
    schedule=ScheduleConfig(epochs=3, iterations_per_epoch=4),
    optimizer=OptimizerConfig(momentum=0.9),
)
CPU = torch.device("cpu")


class Cases:
    """One case: the bright voxels are class 1."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.bright = rng.random((1, 8, 8, 8)) < 0.4

    def image(self, case_id):
        return self.bright.astype(np.float32)

    def seg(self, case_id):
        return self.bright.astype(np.int16)

    def locations(self, case_id):
        return {1: np.argwhere(self.bright[0])}


def plain_augment(image, seg, generator):
    """Draws from the generator, so that resuming depends on it."""
    return image + 0.1 * torch.randn(image.shape, generator=generator), seg


def build(loss=None, augment=plain_augment, optimizer=RECIPE.optimizer):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.ReLU(), nn.Conv3d(4, 3, 1))

    def loader(stream, epoch_batches=None):
        settings = PatchSettings(
            sampled_size=(4, 4, 4),
            final_size=(4, 4, 4),
            batch_size=2,
            foreground_share=0.5,
            seed=(0, 0, stream),
            epoch_batches=epoch_batches,
        )
        return PatchLoader(Cases(), ["a"], settings)

    return TrainingParts(
        network=network,
        stepper=Stepper(network, build_optimizer(network, optimizer.settled()), 12.0, scaled=False),
        loss=loss or SegmentationLoss(schema=SCHEMA, config=LossConfig(), batch_dice=True),
        schema=SCHEMA,
        augment=augment,
        train_loader=loader(0),
        validation_loader=loader(1, epoch_batches=2),
        device=CPU,
        precision=choose_precision("fp32", CPU),
    )


def clock(total=12, budget=None):
    return Clock(total_iterations=total, budget_seconds=budget, started=time.monotonic(), spent=0.0)


def run_of(parts, state=None, recipe=RECIPE, **limits):
    return TrainingRun(
        parts=parts, recipe=recipe, state=state or TrainingState(), clock=clock(**limits)
    )


def test_it_learns_and_leaves_the_absent_class_out():
    records = []
    recipe = Recipe(
        schedule=ScheduleConfig(epochs=3, iterations_per_epoch=60),
        optimizer=OptimizerConfig(momentum=0.9),
    )
    run = run_of(build(), recipe=recipe, total=180)
    train(run, [lambda state, record: records.append(record)])
    assert [record.epoch for record in records] == [1, 2, 3]
    assert records[-1].train_loss < records[0].train_loss
    assert records[-1].dice["bright"] > 0.95
    assert records[-1].dice["never"] is None
    assert records[-1].mean_dice == records[-1].dice["bright"]
    assert (run.state.iteration, run.state.epoch) == (180, 3)


class Known(nn.Module):
    """Answers every voxel with the class its intensity shows, and never learns."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        one_hot = nn.functional.one_hot(image[:, 0].long(), self.channels)
        return one_hot.movedim(-1, 1) * self.scale


class Many:
    """Three cases with ten of the classes each, a voxel a class; the image shows the class."""

    names = ("a", "b", "c")
    schema = LabelSchema(classes=tuple(LabelClass(name=f"c{i}", value=i) for i in range(1, 32)))

    def seg(self, case_id):
        seg = np.zeros((1, 6, 6, 6), np.int16)
        first = 10 * self.names.index(case_id) + 1
        seg.flat[7:207:20] = range(first, first + 10)
        return seg

    def image(self, case_id):
        return self.seg(case_id).astype(np.float32)

    def locations(self, case_id):
        return find_locations(self.seg(case_id), self.schema)


class Empty(Many):
    """The same without any foreground."""

    def seg(self, case_id):
        return np.zeros((1, 6, 6, 6), np.int16)


class Black(Many):
    """The same where all background is invalid, and looks like the first class."""

    def seg(self, case_id):
        seg = super().seg(case_id)
        return np.where(seg == 0, -1, seg).astype(np.int16)

    def image(self, case_id):
        return np.abs(self.seg(case_id)).astype(np.float32)


def records_of(source, batches, state=None, invalid_voxels=None, **limits):
    """Three epochs that are validated on ``source``."""
    settings = PatchSettings(
        sampled_size=(2, 2, 2),
        final_size=(2, 2, 2),
        batch_size=2,
        foreground_share=0.33,
        seed=(0, 0, 1),
        epoch_batches=batches,
    )
    parts = replace(
        build(augment=lambda image, seg, generator: (image, seg)),
        network=Known(source.schema.num_outputs),
        schema=source.schema,
        invalid_voxels=invalid_voxels,
        loss=lambda outputs, seg: outputs.mean(),
        validation_loader=PatchLoader(source, source.names, settings),
    )
    records = []
    train(run_of(parts, state, **limits), [lambda state, record: records.append(record)])
    return records


@pytest.mark.parametrize("batches", [1, 4, 20])
def test_every_class_is_validated_in_every_epoch(batches):
    records = records_of(Many(), batches)
    assert len(records) == 3
    for record in records:
        assert [name for name, dice in record.dice.items() if dice is None] == ["c31"]
        assert record.mean_dice == record.ema_dice == pytest.approx(1)


def test_classes_that_time_ran_out_for_are_undefined():
    (record,) = records_of(Many(), 20, budget=1e-9)
    # One batch of two patches, and the classes come in turn.
    assert record.dice["c1"] == record.dice["c2"] == record.mean_dice == 1
    assert record.dice["c29"] is None
    assert record.ema_dice is None, "other classes than in other epochs: no step of the trend"


def test_epochs_without_any_class_leave_the_average_alone():
    records = records_of(Empty(), 2, state=TrainingState(ema_dice=0.7))
    assert {dice for record in records for dice in record.dice.values()} == {None}
    assert {record.mean_dice for record in records} == {None}
    assert {record.ema_dice for record in records} == {0.7}
    assert None not in {record.validation_loss for record in records}


def test_validation_can_be_left_out():
    for record in records_of(Many(), 0):
        assert record.validation_loss is record.mean_dice is record.ema_dice is None


@pytest.mark.parametrize("stop_at", [1, 4, 6, 11])
def test_a_resumed_run_equals_an_uninterrupted_one(stop_at):
    whole = run_of(build())
    train(whole)

    class Interrupt(Exception):
        pass

    taken = []

    def augment(image, seg, generator):
        taken.append(1)
        if len(taken) > stop_at:
            raise Interrupt
        return plain_augment(image, seg, generator)

    first = run_of(build(augment=augment))
    with pytest.raises(Interrupt):
        train(first)
    content = checkpoint_content(first.parts, first.state)
    parts = build()
    torch.manual_seed(99)
    state = restore(parts, content)
    assert state.iteration == stop_at
    train(run_of(parts, state))
    for ours, theirs in zip(
        parts.network.parameters(), whole.parts.network.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert state.ema_dice == whole.state.ema_dice
    assert (state.epoch, state.iteration) == (3, 12)


def test_a_signal_takes_effect_between_two_steps():
    parts = build()
    inner = parts.loss

    def loss(outputs, seg):
        os.kill(os.getpid(), signal.SIGTERM)
        return inner(outputs, seg)

    with deferred_interrupts() as check:
        run = replace(run_of(build(loss=loss)), check_interrupts=check)
        with pytest.raises(StopRequested):
            train(run)
    assert run.state.iteration == len(run.state.epoch_losses) == 1


def test_a_time_budget_is_kept_and_sets_the_learning_rate():
    def slow(image, seg, generator):
        time.sleep(0.02)
        return image, seg

    records = []
    run = run_of(build(augment=slow), budget=3.0)
    train(run, [lambda state, record: records.append(record)])
    assert 1.0 < run.clock.seconds() < 3.0
    rates = [record.learning_rate for record in records]
    assert rates == sorted(rates, reverse=True)
    assert run.state.epoch == len(records) > 3


def test_a_budget_already_spent_takes_one_step():
    run = run_of(build(), budget=1e-9)
    train(run)
    assert (run.state.iteration, run.state.epoch) == (1, 1)


def test_a_loss_that_is_no_number_stops_the_run():
    def loss(outputs, seg):
        return outputs.sum() * float("nan")

    with pytest.raises(UserError, match="no longer a number") as caught:
        train(run_of(build(loss=loss)))
    assert "best.pt" not in str(caught.value)
    with pytest.raises(UserError, match=r"best\.pt holds the best weights so far"):
        train(run_of(build(loss=loss), TrainingState(best_dice=0.5)))


def test_the_dice_counts_invalid_voxels_where_they_are_trained():
    masked = records_of(Black(), 20, invalid_voxels="masked")[0].dice
    trained = records_of(Black(), 20, invalid_voxels="background")[0].dice
    assert masked["c1"] == masked["c2"] == trained["c2"] == 1
    assert trained["c1"] < 0.5


def test_a_run_ends_once_nothing_has_become_better_for_long_enough():
    """Nothing is ever learned, so the first epoch stays the best one."""
    schedule = ScheduleConfig(epochs=9, iterations_per_epoch=1, early_stopping=3)
    parts = build(augment=lambda image, seg, generator: (image, seg))
    parts = replace(parts, network=Known(3), loss=lambda outputs, seg: outputs.mean())
    run = run_of(parts, recipe=Recipe(schedule=schedule), total=9)
    train(run)
    assert (run.state.epoch, run.state.best_epoch) == (4, 1)
    train(run)
    assert run.state.epoch == 4
    longer = replace(run.recipe, schedule=replace(schedule, early_stopping=5))
    train(replace(run, recipe=longer))
    assert run.state.epoch == 6
