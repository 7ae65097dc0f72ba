"""The moving average of weights, checked by hand."""

import pytest
import torch
from torch import nn

from segkit.training.averaging import WARM_UP, WeightAverage


def network_at(value):
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    with torch.no_grad():
        network[0].weight.fill_(value)
        network[1].running_mean.fill_(10 * value)
        network[1].num_batches_tracked.fill_(int(value))
    return network


def test_every_step_keeps_its_share_and_the_first_nothing():
    average = WeightAverage(network_at(100.0), decay=0.15)
    expected = None
    for step, value in enumerate([1.0, 2.0, 5.0, 7.0]):
        keep = min(0.15, step / (step + WARM_UP))
        expected = value if expected is None else keep * expected + (1 - keep) * value
        average.update(network_at(value))
        linear, norm = average.network
        assert linear.weight.item() == pytest.approx(expected)
        assert norm.running_mean.item() == pytest.approx(10 * expected)
        assert norm.num_batches_tracked.item() == value
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_it_goes_on_where_it_was_saved():
    first = WeightAverage(network_at(1.0), decay=0.9)
    first.update(network_at(2.0))
    second = WeightAverage(network_at(3.0), decay=0.9)
    second.load_state_dict(first.state_dict(), first.network.state_dict())
    for average in (first, second):
        average.update(network_at(4.0))
    assert torch.equal(first.network[0].weight, second.network[0].weight)
    assert second.updates == 2
