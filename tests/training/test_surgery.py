"""Weights for other channels, kernels and strides: by hand, and by what the network computes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from segkit.training.surgery import (
    channel_mixing,
    fitted_kernel,
    fitted_upsampling,
    mixed_inputs,
    taken_outputs,
    with_class_channels,
)

THIRD = 1 / 3


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (["T1"], ["T1"], [[1]]),
        (["T1", "T2"], ["T2", "T1"], [[0, 1], [1, 0]]),
        (["T1", "T2"], ["t1 ", "T2"], [[1, 0], [0, 1]]),
        # A new one beside those that are known begins at 0: the network begins as it was.
        (["T1"], ["T1", "FLAIR"], [[1], [0]]),
        # No name agrees: by place where they are as many, else in equal shares.
        (["MR"], ["CT"], [[1]]),
        (["a", "b"], ["c", "d"], [[1, 0], [0, 1]]),
        (["MR"], ["a", "b"], [[0.5], [0.5]]),
        (["a", "b"], ["c", "d", "e"], [[THIRD, THIRD]] * 3),
        (["a", "b", "c"], ["d"], [[1, 1, 1]]),
        # What is lost goes to what is new.
        (["T1", "T2"], ["T1", "FLAIR"], [[1, 0], [0, 1]]),
        (["T1", "T2"], ["FLAIR", "T2", "DWI"], [[0.5, 0], [0, 1], [0.5, 0]]),
        # Fewer channels: what has no place is dropped.
        (["T1", "T2"], ["T2"], [[0, 1]]),
        # Several of one name.
        (["MR"], ["MR", "MR"], [[0.5], [0.5]]),
        (["MR", "MR"], ["MR"], [[1, 1]]),
        (["R", "R"], ["R", "R"], [[1, 0], [0, 1]]),
    ],
)
def test_channels_go_by_name(old, new, expected):
    assert torch.allclose(channel_mixing(old, new), torch.tensor(expected, dtype=torch.float32))


names = st.lists(st.sampled_from("abcde"), min_size=1, max_size=5)


@given(old=names, new=names)
def test_nothing_is_taken_over_twice_and_lost_only_without_a_place(old, new):
    totals = channel_mixing(old, new).sum(0)
    for name, total in zip(old, totals.tolist(), strict=True):
        without_place = name not in new and set(new) <= set(old)
        assert total == pytest.approx(0 if without_place else 1)


@given(old=names, new=names)
def test_where_all_channels_look_alike_the_response_keeps_its_size(old, new):
    mixing = channel_mixing(old, new)
    weight = torch.randn(3, len(old), 3, 3, generator=torch.Generator().manual_seed(0))
    image = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    found = F.conv2d(image.expand(-1, len(new), -1, -1), mixed_inputs(weight, mixing))
    kept = weight[:, mixing.sum(0) > 0]
    expected = F.conv2d(image.expand(-1, kept.shape[1], -1, -1), kept)
    assert torch.allclose(found, expected, atol=1e-5)


def test_classes_of_a_previous_stage_go_by_name_and_else_begin_at_zero():
    image = channel_mixing(["MR"], ["CT"])
    assert with_class_channels(image, [], ["liver", "lesion"]).tolist() == [[1], [0], [0]]
    both = with_class_channels(image, ["lesion", "liver"], ["liver", "spleen"])
    assert both.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_kernels_grow_and_shrink_about_their_centre():
    weight = torch.arange(1.0, 10.0).reshape(1, 1, 1, 3, 3)
    grown = fitted_kernel(weight, (3, 3, 5))
    assert grown.shape == (1, 1, 3, 3, 5)
    assert torch.equal(grown[:, :, 1:2, :, 1:4], weight)
    assert grown.count_nonzero() == 9
    assert torch.equal(fitted_kernel(grown, (1, 3, 3)), weight)
    assert fitted_kernel(weight, (1, 1, 3)).flatten().tolist() == [4, 5, 6]


@pytest.mark.parametrize(("before", "after"), [((1, 3, 3), (3, 3, 3)), ((1, 1, 3), (3, 5, 3))])
def test_a_kernel_that_grows_computes_what_it_did(before, after):
    torch.manual_seed(0)
    image, weight = torch.randn(1, 2, 6, 7, 8), torch.randn(3, 2, *before)
    grown = fitted_kernel(weight, after)
    expected = F.conv3d(image, weight, padding=[n // 2 for n in before])
    assert torch.allclose(F.conv3d(image, grown, padding=[n // 2 for n in after]), expected)


def test_a_planes_kernel_sees_every_slice_of_a_volume_as_it_did():
    torch.manual_seed(0)
    image, weight = torch.randn(1, 2, 4, 6, 5), torch.randn(3, 2, 3, 3)
    volume = F.conv3d(image, fitted_kernel(weight, (3, 3, 3)), padding=1)
    for z in range(4):
        plane = F.conv2d(image[:, :, z], weight, padding=1)
        assert torch.allclose(volume[:, :, z], plane, atol=1e-5)
    assert torch.equal(fitted_kernel(fitted_kernel(weight, (3, 3, 3)), (3, 3)), weight)


def test_a_volumes_kernel_sees_a_plane_as_a_volume_of_equal_slices():
    torch.manual_seed(0)
    plane, weight = torch.randn(1, 2, 6, 5), torch.randn(3, 2, 3, 3, 3)
    volume = plane[:, :, None].expand(-1, -1, 3, -1, -1)
    expected = F.conv3d(volume, weight, padding=(0, 1, 1))[:, :, 0]
    found = F.conv2d(plane, fitted_kernel(weight, (3, 3)), padding=1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_upsamplings_repeat_or_average():
    weight = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2)
    assert fitted_upsampling(weight, (2, 2)).tolist() == [[[[1, 3], [1, 3]]]]
    assert fitted_upsampling(weight, (1, 4)).flatten().tolist() == [1, 1, 3, 3]
    assert fitted_upsampling(weight, (1, 1)).flatten().tolist() == [2]
    assert fitted_upsampling(weight, (1, 3)) is None
    assert fitted_upsampling(weight, (2, 1, 2)).flatten().tolist() == [1, 3, 1, 3]
    volume = torch.tensor([1.0, 3.0]).reshape(1, 1, 2, 1, 1).expand(1, 1, 2, 2, 2)
    assert fitted_upsampling(volume, (2, 2)).tolist() == [[[[2, 2], [2, 2]]]]


def test_outputs_that_are_known_are_taken_and_others_left():
    fresh, weight = torch.zeros(3, 2), torch.tensor([[1.0, 1], [2, 2]])
    taken = taken_outputs(fresh, weight, {2: 0, 0: 1})
    assert taken.tolist() == [[2, 2], [0, 0], [1, 1]]
    assert fresh.count_nonzero() == 0
