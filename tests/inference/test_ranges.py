"""Which convolutions are computed in integers, what they are given, and where that is kept."""

import pytest
import torch
from tiny import tiny_network

from segkit.inference.engines.ranges import (
    MeasuredRanges,
    NotCalibrated,
    RangeObserver,
    load_ranges,
    quantizable,
    ranges_file,
    save_ranges,
)
from segkit.networks.build import build_network
from segkit.networks.unet import fuse_upsamplings

FUSED = [
    "encoder.stages.1.convs.0.conv",
    "decoder.upsamplings.0.skip",
]


def network(**changes):
    torch.manual_seed(0)
    made = build_network(
        tiny_network(**changes), in_channels=1, out_channels=2, deep_supervision=False
    ).eval()
    fuse_upsamplings(made, traceable=True)
    return made


def test_the_first_transposed_ones_and_those_of_single_voxels_are_left_out():
    assert list(quantizable(network())) == FUSED
    residual = quantizable(network(kind="residual_encoder"))
    # The stem sees the image; projections and heads are 1x1.
    assert list(residual) == [
        "encoder.stages.0.blocks.0.conv1.conv",
        "encoder.stages.0.blocks.0.conv2.conv",
        "encoder.stages.1.blocks.0.conv1.conv",
        "encoder.stages.1.blocks.0.conv2.conv",
        *FUSED[1:],
    ]


@torch.inference_mode()
def test_ranges_are_the_extremes_of_all_inputs():
    made = network()
    seen = []
    made.encoder.stages[0].register_forward_hook(
        lambda module, given, out: seen.append(out.clone())
    )
    observer = RangeObserver(made)
    assert observer.ranges == {}
    for scale in (1.0, 3.0, 2.0):
        made(scale * torch.randn(2, 1, 8, 8, 8) ** 3)
    together = torch.cat(seen)
    low, high = float(together.min()), float(together.max())
    # The skip goes down and across.
    assert observer.ranges == dict.fromkeys(FUSED, (low, high))


@torch.inference_mode()
def test_few_outliers_do_not_count():
    made = network()
    observer = RangeObserver(made)
    features = torch.randn(2, 2, 64, 64, 64)
    features[0, 0, 0, 0, :8] = torch.tensor([1e6, -1e6] * 4)
    spread = features.flatten().sort().values
    made.encoder.stages[1](features)
    # 10 of a million at either end.
    low, high = observer.ranges[FUSED[0]]
    assert (low, high) == (spread[9], spread[-10])


@torch.inference_mode()
def test_zero_lies_within_every_range():
    made = network()
    for module in made.modules():
        if isinstance(module, torch.nn.InstanceNorm3d):
            module.bias.fill_(100)
    observer = RangeObserver(made)
    made(torch.randn(1, 1, 8, 8, 8))
    assert observer.ranges[FUSED[0]][0] == 0 < 90 < observer.ranges[FUSED[0]][1]


def test_what_is_written_is_read_again_for_the_same_weights_only(tmp_path):
    path = ranges_file(tmp_path, "final")
    with pytest.raises(NotCalibrated, match="not prepared for int8"):
        load_ranges(path, "abc")
    ranges = {"one": (-0.5, 2.0), "two": (0.0, 1.0)}
    save_ranges(path, MeasuredRanges(images=3, ranges=ranges), "abc")
    assert load_ranges(path, "abc") == ranges
    with pytest.raises(NotCalibrated, match="measured with other weights"):
        load_ranges(path, "abd")


@pytest.mark.parametrize(
    ("old", "new"),
    [('"format_version": 2', '"format_version": 1'), ("2.0", '"two"'), ("-0.5", "0.5"), ("{", "")],
)
def test_damaged_ranges_are_measured_again(tmp_path, old, new):
    path = ranges_file(tmp_path, "best")
    save_ranges(path, MeasuredRanges(images=3, ranges={"one": (-0.5, 2.0)}), "abc")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(NotCalibrated, match="damaged"):
        load_ranges(path, "abc")
