import pytest
import torch
import torch.nn.functional as F

from segkit.networks.pool import average_pool
from segkit.precision import channels_last


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_equals_torch_with_gradients_in_either_layout(stride, dtype):
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn((2, 3, 5, 6, 7), generator=generator).to(dtype)
    weights = torch.randn((2, 3, 5, 6, 7), generator=generator)
    expected_input = plain.float().clone().requires_grad_()
    expected = F.avg_pool3d(expected_input, stride, stride)
    weights = weights[tuple(slice(size) for size in expected.shape)]
    (expected * weights).sum().backward()
    features = channels_last(plain).detach().requires_grad_()
    found = average_pool(features, stride)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    (found.float() * weights).sum().backward()
    tolerance = {"rtol": 0, "atol": 1e-6 if dtype == torch.float32 else 2e-2}
    torch.testing.assert_close(found.float(), expected, **tolerance)
    torch.testing.assert_close(features.grad.float(), expected_input.grad, **tolerance)


def test_plain_features_are_pooled_by_torch_and_ones_change_nothing():
    plane = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert average_pool(plane, (2, 2)).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert average_pool(plane, (1, 1)) is plane
    two = channels_last(plane.repeat(1, 2, 1, 1))
    assert average_pool(two, (2, 2))[0, 1].tolist() == [[2.5, 4.5], [10.5, 12.5]]
