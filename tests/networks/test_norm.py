"""Instance norm with LeakyReLU on channels-last features: equal to its definition."""

import pytest
import torch
import torch.nn.functional as F

from segkit.networks.blocks import LEAKY_SLOPE, ConvUnit, UnitSettings
from segkit.networks.norm import channels_last_norm, is_channels_last_on_cpu
from segkit.precision import channels_last, channels_last_format

EPS = 1e-5
SHAPES = [(3, 4, 5, 6), (2, 3, 4, 5, 2)]


def drawn(shape, dtype=torch.float64):
    """Return features, weight and bias; the mean is well off 0."""
    torch.manual_seed(0)
    features = 3 * torch.randn(shape, dtype=dtype) + 5
    return features, torch.randn(shape[1], dtype=dtype), torch.randn(shape[1], dtype=dtype)


def written_out(features, weight, bias, slope):
    """Instance norm by its definition, then LeakyReLU."""
    axes = tuple(range(2, features.ndim))
    spread = (1, -1) + (1,) * len(axes)
    mean = features.mean(axes, keepdim=True)
    variance = features.var(axes, correction=0, keepdim=True)
    normal = (features - mean) / (variance + EPS).sqrt()
    return F.leaky_relu(normal * weight.reshape(spread) + bias.reshape(spread), slope)


def norm_of(features, weight, bias, slope):
    return channels_last_norm(channels_last(features), weight, bias, eps=EPS, slope=slope)


@pytest.mark.parametrize("slope", [LEAKY_SLOPE, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_definition(shape, slope):
    found, expected = ([x.requires_grad_() for x in drawn(shape)] for _ in range(2))
    upward = torch.randn(shape, dtype=torch.float64)
    result, by_definition = norm_of(*found, slope), written_out(*expected, slope)
    result.backward(upward)
    by_definition.backward(upward)
    assert torch.allclose(result, by_definition, atol=1e-12)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 40, 40, 40)])
def test_in_place_the_same_is_written_over_the_features(shape, dtype):
    features, weight, bias = drawn(shape, torch.float32)
    features = channels_last(features.to(dtype))
    kept = features.clone().requires_grad_()
    expected = channels_last_norm(kept, weight, bias, eps=EPS, slope=LEAKY_SLOPE)
    with torch.no_grad():
        found = channels_last_norm(
            features, weight, bias, eps=EPS, slope=LEAKY_SLOPE, in_place=True
        )
    assert found is features
    assert torch.equal(found, expected)


def test_many_voxels_are_added_up_as_exactly_as_few():
    # Off their definition by 1e-3 where all voxels are added up one after the other.
    features, weight, bias = drawn((1, 2, 64, 64, 64), torch.float32)
    features.requires_grad_()
    upward = torch.randn(features.shape)
    result = norm_of(features, weight, bias, 1.0)
    result.backward(upward)
    exact, *rest = (x.detach().double() for x in (features, weight, bias))
    exact.requires_grad_()
    by_definition = written_out(exact, *rest, 1.0)
    by_definition.backward(upward.double())
    assert torch.allclose(result.double(), by_definition, atol=5e-5)
    assert torch.allclose(features.grad.double(), exact.grad, atol=5e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_result_and_its_gradient_are_channels_last(shape):
    features, weight, bias = drawn(shape)
    features = channels_last(features).requires_grad_()
    result = channels_last_norm(features, weight, bias, eps=EPS, slope=LEAKY_SLOPE)
    # A gradient in the other layout is brought into this one.
    result.backward(torch.ones(shape, dtype=torch.float64))
    layout = channels_last_format(len(shape))
    assert result.is_contiguous(memory_format=layout)
    assert features.grad.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(("slope", "saved"), [(LEAKY_SLOPE, 2), (1.0, 1)])
def test_the_output_is_kept_for_the_gradient_only_where_it_is_activated(slope, saved):
    features, weight, bias = drawn(SHAPES[0])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        norm_of(features, weight.requires_grad_(), bias, slope)
    assert kept.count(features.shape) == saved


def test_statistics_of_bfloat16_features_are_not_rounded():
    features, weight, bias = drawn((2, 3, 20, 20, 20), torch.float32)
    rounded = features.bfloat16()
    result = norm_of(rounded, weight, bias, LEAKY_SLOPE)
    assert result.dtype == torch.bfloat16
    expected = written_out(rounded.float(), weight, bias, LEAKY_SLOPE)
    # Half a unit in the last place of bfloat16 is 2^-9 of the value.
    assert torch.allclose(result.float(), expected, rtol=2**-8, atol=1e-3)


def test_a_constant_channel_becomes_the_bias():
    features, weight, bias = drawn((2, 3, 4, 4, 4), torch.float32)
    result = norm_of(torch.full_like(features, 7.0), weight, bias, 1.0)
    assert torch.allclose(result, bias.reshape(1, 3, 1, 1, 1).expand_as(result), atol=1e-3)


def test_only_features_in_one_layout_alone_count_as_channels_last():
    assert is_channels_last_on_cpu(channels_last(torch.zeros(2, 3, 4, 4, 4)))
    assert is_channels_last_on_cpu(channels_last(torch.zeros(2, 3, 4, 4)))
    assert not is_channels_last_on_cpu(torch.zeros(2, 3, 4, 4, 4))
    assert not is_channels_last_on_cpu(channels_last(torch.zeros(2, 3, 1, 1, 1)))
    assert not is_channels_last_on_cpu(torch.zeros(2, 3, 4, 4, device="meta"))


@pytest.mark.parametrize("activate", [True, False])
def test_a_unit_gives_the_same_in_both_layouts(activate):
    torch.manual_seed(0)
    ones = (1, 1, 1)
    settings = UnitSettings(activate=activate)
    unit = ConvUnit(2, 4, kernel=(3, 3, 3), stride=ones, settings=settings).double()
    image = torch.randn(2, 2, 5, 6, 7, dtype=torch.float64)
    assert torch.allclose(unit(channels_last(image)), unit(image), atol=1e-12)
