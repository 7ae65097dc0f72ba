"""Torch's deterministic mode, for the time of a run."""

import pytest
import torch

from segkit.errors import UserError
from segkit.training.determinism import deterministic_algorithms


def state():
    cudnn = torch.backends.cudnn
    filling = torch.utils.deterministic.fill_uninitialized_memory
    strict = torch.are_deterministic_algorithms_enabled()
    return strict, filling, cudnn.benchmark, cudnn.deterministic


def test_it_is_on_for_the_time_of_a_run_and_put_back():
    before = state()
    with deterministic_algorithms(True, budget_seconds=None):
        assert state() == (True, False, False, True)
    assert state() == before
    with deterministic_algorithms(False, budget_seconds=None):
        assert state() == before


def test_a_network_that_cannot_be_is_refused():
    before = state()
    what = "avg_pool3d_backward_cuda does not have a deterministic implementation\nmore"
    with (
        pytest.raises(UserError, match=r"avg_pool3d(.|\n)*recipe key deterministic(.|\n)*leave it"),
        deterministic_algorithms(True, budget_seconds=None),
    ):
        raise RuntimeError(what)
    assert state() == before
    with (
        pytest.raises(RuntimeError, match="another"),
        deterministic_algorithms(True, budget_seconds=None),
    ):
        raise RuntimeError("another reason")


def test_with_a_time_budget_no_run_can_be_repeated(caplog):
    with deterministic_algorithms(True, budget_seconds=60.0):
        pass
    assert "how many steps fit into a time budget varies" in caplog.text
