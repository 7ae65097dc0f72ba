"""Number format and memory layout of the forward pass."""

import dataclasses

import pytest
import torch

from segkit import precision
from segkit.errors import UserError
from segkit.networks.build import build_network
from segkit.planning.plan import NetworkPlan
from segkit.precision import channels_last, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PLAN = NetworkPlan(
    features_per_stage=(4, 8, 8),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    convs_per_stage=(2, 1, 2),
    convs_per_decoder_stage=(1, 2),
)


def gradients(network, run):
    network.zero_grad()
    sum(output.square().mean() for output in run()).backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", ["plain", "residual_encoder"])
def test_the_layout_changes_no_output_and_no_gradient(kind, channels):
    torch.manual_seed(0)
    plan = dataclasses.replace(PLAN, kind=kind)
    network = build_network(plan, in_channels=channels, out_channels=3, deep_supervision=True)
    image = torch.randn(2, channels, 8, 16, 12)
    precision = choose_precision("fp32", CPU)
    seen = []
    network.encoder.stages[1].register_forward_hook(lambda _, __, result: seen.append(result))
    laid_out = gradients(network, lambda: precision.forward(network, image))
    plain = gradients(network, lambda: network(image))
    assert seen[0].is_contiguous(memory_format=torch.channels_last_3d)
    assert seen[1].is_contiguous()
    for one, other in zip(laid_out, plain, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_bf16_computes_in_it_and_keeps_the_weights():
    network = build_network(PLAN, in_channels=1, out_channels=2, deep_supervision=False)
    logits = choose_precision("bf16", CPU).forward(network, torch.randn(1, 1, 4, 8, 8))
    assert logits.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("shape", [(2, 1, 3, 4), (2, 3, 3, 4), (1, 1, 3, 4, 5), (2, 3, 3, 4, 5)])
def test_channels_last_copies_and_says_so_in_the_strides(shape):
    batch = torch.randn(shape)
    result = channels_last(batch)
    assert torch.equal(result, batch)
    assert result.stride(1) == 1
    assert result.stride(-1) == shape[1]
    assert result.data_ptr() != batch.data_ptr()


def test_names_are_resolved_for_the_device():
    assert choose_precision("auto", CUDA).dtype == torch.float16
    assert choose_precision("auto", CPU).dtype in (torch.float32, torch.bfloat16)
    assert choose_precision("fp32", CUDA).dtype == torch.float32


@pytest.mark.parametrize(
    ("capabilities", "seconds", "expected"),
    [
        ({"avx512_bf16": True}, (1.0, 0.5), torch.bfloat16),
        ({"amx_bf16": True}, (1.0, 0.5), torch.bfloat16),
        ({"avx512_bf16": True}, (1.0, 0.95), torch.float32),
        ({"avx512_bf16": True}, (1.0, 3.0), torch.float32),
        ({"avx2": True}, (1.0, 0.5), torch.float32),
    ],
)
def test_a_cpu_computes_in_what_it_is_faster_in(monkeypatch, capabilities, seconds, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(precision, "convolution_seconds", lambda *dtypes: seconds)
    measure = precision._cpu_is_faster_in_bf16.__wrapped__
    monkeypatch.setattr(precision, "_cpu_is_faster_in_bf16", measure)
    assert choose_precision("auto", CPU).dtype == expected


def test_the_choice_is_measured_once_and_has_a_name():
    assert choose_precision("auto", CPU) == choose_precision("auto", CPU)
    assert choose_precision("auto", CPU).name in ("fp32", "bf16")
    assert choose_precision("auto", CUDA).name == "fp16"
    assert choose_precision("bf16", CPU).exact == choose_precision("fp32", CPU)
    assert all(0 < seconds < 10 for seconds in precision.convolution_seconds(torch.float32))


@pytest.mark.parametrize(("name", "message"), [("fp16", "needs a GPU"), ("fp64", "unknown")])
def test_what_a_cpu_cannot_do_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        choose_precision(name, CPU)
