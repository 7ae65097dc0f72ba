"""Compiled steps: when they are wanted, and that failing costs nothing but a line."""

import functools
import logging

import pytest
import torch
from torch import nn

from segkit.precision import choose_precision
from segkit.training.compiling import wants_compiling, with_compiled
from segkit.training.optim import Stepper
from segkit.training.parts import TrainingParts

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("mode", "device", "steps", "seconds", "expected"),
    [
        ("on", "cpu", 1, 1.0, True),
        ("off", "cuda", 10**6, None, False),
        ("auto", "cpu", 10**6, None, False),
        ("auto", "cuda", 10**6, None, True),
        ("auto", "cuda", 100, None, False),
        ("auto", "cuda", 10**6, 60.0, False),
        ("auto", "cuda", 100, 3600.0, True),
    ],
)
def test_auto_is_for_long_runs_on_gpus(monkeypatch, mode, device, steps, seconds, expected):
    monkeypatch.setattr("sys.platform", "linux")
    assert wants_compiling(mode, torch.device(device), steps, seconds) == expected


def test_auto_is_for_linux(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    assert not wants_compiling("auto", torch.device("cuda"), 10**6, None)


def parts_of(network):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return TrainingParts(
        network=network,
        stepper=Stepper(network, optimizer, None, scaled=False),
        loss=None,
        schema=None,
        augment=None,
        train_loader=None,
        validation_loader=None,
        device=CPU,
        precision=choose_precision("fp32", CPU),
    )


class Network(nn.Module):
    """Unlike a sequence it has no length."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)

    def forward(self, image):
        return self.norm(self.conv(image))


def network():
    torch.manual_seed(0)
    return Network()


def test_the_compiled_network_shares_the_weights_and_nothing_else_changes(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="segkit")
    eager = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", eager)
    parts = with_compiled(parts_of(network()), (2, 1, 4, 4))
    assert [record.getMessage()[:9] for record in caplog.records] == ["compiling", "compiled "]
    untouched = network().state_dict()
    for name, value in parts.network.state_dict().items():
        assert torch.equal(value, untouched[name]), name
    assert all(parameter.grad is None for parameter in parts.network.parameters())
    image = torch.randn(2, 1, 4, 4)
    expected = parts_of(network()).forward(image)
    assert torch.allclose(parts.forward(image), expected)
    with torch.no_grad():
        parts.network.conv.weight.zero_()
        parts.network.conv.bias.zero_()
    assert torch.allclose(parts.forward(image), torch.zeros(()))


def test_failing_is_told_in_one_line_and_costs_nothing(monkeypatch, caplog):
    def broken(network, **settings):
        def forward(image):
            logging.getLogger("torch").error("pages of warnings")
            network(image).mean().backward()
            raise ValueError("no compiler\nand pages of why")

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    before = parts_of(network())
    parts = with_compiled(before, (2, 1, 4, 4))
    assert parts is before
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "compiling failed, training goes on without: no compiler"
    untouched = network().state_dict()
    for name, value in parts.network.state_dict().items():
        assert torch.equal(value, untouched[name]), name
    assert all(parameter.grad is None for parameter in parts.network.parameters())
    logging.getLogger("torch").error("told again")
    assert "told again" in caplog.text
