"""Update rules, and what the update step leaves alone."""

import pytest
import torch
from torch import nn

from segkit.config import OptimizerConfig
from segkit.training.optim import Stepper, build_optimizer


def stepper_of(network, **settings):
    config = OptimizerConfig(**settings).settled()
    return Stepper(network, build_optimizer(network, config), config.gradient_clip, scaled=False)


def scalar(value=1.0):
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def test_the_default_is_nnunets_sgd():
    (group,) = build_optimizer(scalar(), OptimizerConfig().settled()).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.99, True)
    assert (group["lr"], group["weight_decay"]) == (0.01, 3e-5)


@pytest.mark.parametrize(
    ("settings", "kind", "weight_decay"),
    [
        ({"name": "adam"}, torch.optim.Adam, 3e-5),
        ({"name": "adamw", "amsgrad": True}, torch.optim.AdamW, 1e-2),
        ({"name": "adamw", "weight_decay": 0.05, "betas": (0.9, 0.98)}, torch.optim.AdamW, 0.05),
    ],
)
def test_others_have_defaults_of_their_own(settings, kind, weight_decay):
    optimizer = build_optimizer(scalar(), OptimizerConfig(**settings).settled())
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-3, weight_decay)
    assert group["amsgrad"] == settings.get("amsgrad", False)
    assert group["betas"] == settings.get("betas", (0.9, 0.999))


@pytest.mark.parametrize(("name", "rate"), [("adan", 3e-3), ("muon", 3e-3)])
def test_those_of_our_own_have_defaults_too(name, rate):
    (group,) = build_optimizer(scalar(), OptimizerConfig(name=name).settled()).param_groups
    assert (group["lr"], group["weight_decay"]) == (rate, 1e-2)


@pytest.mark.parametrize(("clip", "expected"), [(12.0, 12.0), (None, 30.0)])
def test_the_gradient_is_clipped_where_there_is_a_limit(clip, expected):
    network = scalar()
    stepper = stepper_of(
        network, learning_rate=1.0, momentum=0.0, weight_decay=0.0, gradient_clip=clip
    )
    stepper.backward(30 * network.weight.sum())
    stepper.update()
    assert network.weight.item() == pytest.approx(1 - expected, rel=1e-5)


def test_gradients_add_up_until_the_update():
    network = scalar()
    stepper = stepper_of(network, learning_rate=1.0, momentum=0.0, weight_decay=0.0)
    for factor in (1.0, 2.0):
        stepper.backward(factor * network.weight.sum())
    stepper.update()
    assert network.weight.item() == pytest.approx(-2)
    stepper.backward(network.weight.sum())
    stepper.update()
    assert network.weight.item() == pytest.approx(-3)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adan", "muon"])
def test_a_gradient_that_is_no_number_changes_nothing(name, factor):
    network = scalar()
    stepper = stepper_of(network, name=name)
    stepper.backward(factor * network.weight.sum())
    stepper.update()
    assert network.weight.item() == 1
    assert not stepper.optimizer.state
    stepper.backward(network.weight.sum())
    stepper.update()
    assert 0 < network.weight.item() < 1


def test_the_learning_rate_is_set_for_all():
    stepper = stepper_of(scalar())
    stepper.set_learning_rate(0.25)
    assert stepper.learning_rate == 0.25
