"""Activations computed twice: the same outputs, gradients and statistics, in less memory."""

from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from segkit.networks.build import build_network
from segkit.planning.plan import NetworkPlan
from segkit.precision import channels_last

PLAN = NetworkPlan(
    features_per_stage=(4, 8, 8),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    convs_per_stage=(2, 1, 2),
    convs_per_decoder_stage=(1, 2),
)
PLANE = NetworkPlan(
    features_per_stage=(4, 8),
    strides=((1, 1), (2, 2)),
    kernel_sizes=((3, 3), (3, 3)),
    convs_per_stage=(2, 2),
    convs_per_decoder_stage=(1,),
)


def step(plan, image, checkpointing, dtype=torch.float32):
    """Two training steps; returns logits, gradients and the state."""
    torch.manual_seed(0)
    network = build_network(
        plan, in_channels=2, out_channels=3, deep_supervision=True, checkpointing=checkpointing
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    torch.manual_seed(1)
    for _ in range(2):
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
            outputs = network(image)
        sum(output.float().square().mean() for output in outputs).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return outputs, gradients, network.state_dict()


@pytest.mark.parametrize("layout", [channels_last, torch.clone])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("plan", "shape"),
    [
        (PLAN, (2, 2, 4, 8, 12)),
        (replace(PLAN, kind="residual_encoder", norm="batch"), (2, 2, 4, 8, 12)),
        (replace(PLAN, norm="batch", dropout=0.3), (2, 2, 4, 8, 12)),
        (replace(PLANE, kind="residual_encoder", dropout=0.3), (2, 2, 8, 12)),
    ],
)
def test_nothing_differs_by_a_bit(plan, shape, dtype, layout):
    image = layout(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    kept, again = (step(plan, image, checkpointing, dtype) for checkpointing in (False, True))
    for one, other in zip(kept[0], again[0], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(kept[1:], again[1:], strict=True):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), name


def test_running_statistics_are_updated_once_a_step():
    plan = replace(PLANE, norm="batch")
    state = step(plan, torch.randn(2, 2, 8, 8), checkpointing=True)[2]
    counts = {int(x) for name, x in state.items() if name.endswith("num_batches_tracked")}
    assert counts == {2}


def peak_bytes(checkpointing):
    """Most bytes that tensors took at a time in one training step."""
    plan = replace(PLANE, convs_per_stage=(6, 2), convs_per_decoder_stage=(6,))
    network = build_network(
        plan, in_channels=1, out_channels=2, deep_supervision=True, checkpointing=checkpointing
    )
    image = torch.randn(1, 1, 64, 64)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        network(image)[0].square().mean().backward()
    changes = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(changes))


def test_less_memory_is_used():
    assert peak_bytes(checkpointing=True) < 0.75 * peak_bytes(checkpointing=False)
