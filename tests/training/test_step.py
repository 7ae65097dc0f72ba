"""One step of training: what it sees, what it leaves out, and what it changes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from segkit.config import LossConfig, OptimizerConfig
from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.precision import choose_precision
from segkit.training.averaging import WeightAverage
from segkit.training.losses import SegmentationLoss
from segkit.training.optim import Stepper, build_optimizer
from segkit.training.parts import Batch, TrainingParts
from segkit.training.patches import PatchLoader, PatchSettings
from segkit.training.step import train_step

SCHEMA = LabelSchema(classes=(LabelClass(name="bright", value=1),))
CPU = torch.device("cpu")


def parts_of(network=None, *, batch_dice=False, augment=None, **optimizer):
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    config = OptimizerConfig(momentum=0.0, learning_rate=0.1, **optimizer).settled()
    settings = PatchSettings(
        sampled_size=(4, 4), final_size=(4, 4), batch_size=2, foreground_share=0.5, seed=(0, 0, 0)
    )
    loader = PatchLoader(None, [], settings)
    return TrainingParts(
        network=network,
        stepper=Stepper(network, build_optimizer(network, config), None, scaled=False),
        loss=SegmentationLoss(schema=SCHEMA, config=LossConfig(), batch_dice=batch_dice),
        schema=SCHEMA,
        augment=augment or (lambda image, seg, generator: (image, seg)),
        train_loader=loader,
        validation_loader=loader,
        device=CPU,
        precision=choose_precision("fp32", CPU),
    )


def batch_of(seed, samples=2, cases=()):
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.normal(size=(samples, 1, 4, 4))).float()
    return Batch(image, (image > 0.3).short(), cases)


def weights(parts):
    return torch.cat([p.detach().flatten() for p in parts.network.parameters()]).clone()


def joined(batches):
    return Batch(*(torch.cat(tensors) for tensors in list(zip(*batches, strict=True))[:2]))


def test_accumulated_batches_are_as_good_as_a_large_one():
    batches = [batch_of(seed) for seed in range(3)]
    several, large = parts_of(), parts_of()
    before = weights(large)
    loss = train_step(several, batches, 0)
    assert loss == pytest.approx(train_step(large, [joined(batches)], 0), rel=1e-6)
    assert torch.allclose(weights(several), weights(large), atol=1e-7)
    assert not torch.allclose(weights(large), before, atol=1e-4)


def test_every_batch_has_random_numbers_of_its_own_and_always_the_same():
    drawn = []

    def augment(image, seg, generator):
        drawn.append(torch.rand(1, generator=generator).item())
        return image, seg

    parts = parts_of(augment=augment)
    batches = [batch_of(0), batch_of(1)]
    for step in (0, 1, 0):
        train_step(parts, batches, step)
    assert len({*drawn[:4]}) == 4
    assert drawn[4:] == drawn[:2]


def test_dropout_depends_on_the_number_of_the_batch_alone():
    def losses(disturb):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Dropout(0.5), nn.Conv2d(8, 2, 1))
        parts = parts_of(network)
        found = []
        for step in range(3):
            torch.manual_seed(disturb + step)
            found.append(train_step(parts, [batch_of(0)], step))
        return found

    first = losses(1)
    assert first == losses(100)
    assert len({*first}) == 3


def test_the_average_follows_every_step():
    plain = parts_of()
    parts = replace(plain, average=WeightAverage(plain.network, 0.9))
    assert parts.evaluated is parts.average.network
    train_step(parts, [batch_of(0)], 0)
    train_step(parts, [batch_of(1)], 1)
    assert parts.average.updates == 2
    assert not torch.equal(parts.average.network[0].weight, parts.network[0].weight)


def test_a_batch_whose_loss_is_no_number_is_left_out_and_remembered():
    good, bad = batch_of(0), batch_of(1, cases=("b", "a", "b"))
    bad.image[0, 0, 0, 0] = float("nan")
    parts, alone = parts_of(), parts_of()
    before = weights(parts)
    assert math.isnan(train_step(parts, [bad], 6))
    assert torch.equal(weights(parts), before)
    assert (parts.troubles.useless, parts.troubles.cases) == (1, {"a": 1, "b": 1})
    loss = train_step(parts, [good, bad], 0)
    assert loss == train_step(alone, [good], 0)
    half = before + (weights(alone) - before) / 2
    assert torch.allclose(weights(parts), half, atol=1e-6)


class Overflowing(nn.Module):
    """In half precision it has numbers beyond 65504, which fp16 takes for infinite."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        if torch.is_autocast_enabled("cpu"):
            image = (image.to(torch.float16) * 1e5).float() / 1e5
        return torch.cat([image, -image], dim=1) * self.scale


def test_what_overflows_in_half_precision_is_computed_in_float32():
    exact, reduced = parts_of(Overflowing()), parts_of(Overflowing())
    reduced = replace(reduced, precision=choose_precision("bf16", CPU))
    loss = train_step(exact, [batch_of(0)], 0)
    assert train_step(reduced, [batch_of(0)], 0) == loss
    assert torch.equal(weights(exact), weights(reduced))
    assert (exact.troubles.rescued, reduced.troubles.rescued) == (0, 1)
    assert math.isfinite(loss)


def test_a_step_without_a_finite_gradient_changes_nothing():
    parts = parts_of()
    inner = parts.loss
    parts = replace(parts, loss=lambda outputs, seg: torch.sqrt(0 * inner(outputs, seg)))
    before = weights(parts)
    assert train_step(parts, [batch_of(0)], 0) == 0
    assert torch.equal(weights(parts), before)
    assert parts.troubles.stalled == 1
