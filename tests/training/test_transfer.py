"""Weights of one U-Net in another: what fits is found by what it does, and nothing else moves."""

from dataclasses import replace

import pytest
import torch

from segkit.networks.build import build_network
from segkit.planning.plan import NetworkPlan
from segkit.training.surgery import channel_mixing
from segkit.training.tailoring import Source
from segkit.training.transfer import transfer, unused

PLAN = NetworkPlan(
    features_per_stage=(2, 3, 4),
    strides=((1, 1), (2, 2), (2, 2)),
    kernel_sizes=((3, 3),) * 3,
    convs_per_stage=(2, 2, 2),
    convs_per_decoder_stage=(1, 1),
)
DEEPER = replace(
    PLAN,
    features_per_stage=(2, 3, 4, 4),
    strides=((1, 1), (2, 2), (2, 2), (2, 2)),
    kernel_sizes=((3, 3),) * 4,
    convs_per_stage=(2, 2, 2, 2),
    convs_per_decoder_stage=(1, 1, 1),
)
VOLUME = replace(
    PLAN, strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)), kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3))
)


def build(plan, channels=1, outputs=3, seed=0):
    torch.manual_seed(seed)
    network = build_network(
        plan, in_channels=channels, out_channels=outputs, deep_supervision=False
    )
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and (name.endswith("bias") or "norm" in name):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return network


def source_of(network, plan, old=("MR",), new=("MR",), outputs=None, numbers=(3, 3)):
    return Source(
        weights=network.state_dict(),
        network=plan,
        mixing=channel_mixing(old, new),
        outputs={0: 0, 1: 1, 2: 2} if outputs is None else outputs,
        new_outputs=numbers[0],
        old_outputs=numbers[1],
    )


def run(old_plan, new_plan, **options):
    """Transfer between freshly drawn networks; returns both and what became of every tensor."""
    old_channels, new_channels = options.get("old", ("MR",)), options.get("new", ("MR",))
    numbers = options.get("numbers", (3, 3))
    old = build(old_plan, len(old_channels), numbers[1], seed=1)
    new = build(new_plan, len(new_channels), numbers[0], seed=2)
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    fates = {f.tensor: f for f in transfer(new, new_plan, source_of(old, old_plan, **options))}
    assert fates.keys() == before.keys()
    for name, fate in fates.items():
        now = new.state_dict()[name]
        if fate.became == "fresh":
            assert torch.equal(now, before[name]), name
            assert fate.how
        elif fate.became == "loaded":
            assert torch.equal(now.flatten(), old.state_dict()[fate.source].flatten()), name
            assert fate.how == ""
    return old.eval(), new.eval(), fates


def count(fates, became):
    return sum(fate.became == became for fate in fates.values())


@pytest.mark.parametrize("kind", ["plain", "residual_encoder"])
@pytest.mark.parametrize("plan", [PLAN, VOLUME])
def test_the_same_network_is_loaded_whole(plan, kind):
    plan = replace(plan, kind=kind)
    _, _, fates = run(plan, plan)
    assert count(fates, "loaded") == len(fates)


def test_a_second_channel_of_the_same_name_leaves_the_output_as_it_was():
    old, new, fates = run(PLAN, PLAN, new=("MR", "MR"))
    image = torch.randn(1, 1, 8, 8)
    assert torch.allclose(old(image), new(image.expand(-1, 2, -1, -1)), atol=1e-5)
    assert {f.how for f in fates.values() if f.became == "adapted"} == {"input channels"}


@pytest.mark.parametrize("kind", ["plain", "residual_encoder"])
def test_a_channel_that_is_new_leaves_the_output_as_it_was(kind):
    plan = replace(PLAN, kind=kind)
    old, new, _ = run(plan, plan, new=("FLAIR", "MR"))
    image = torch.randn(1, 2, 8, 8)
    assert torch.allclose(old(image[:, 1:]), new(image), atol=1e-5)


def test_channels_that_change_places_change_places():
    old, new, _ = run(PLAN, PLAN, old=("T1", "T2"), new=("T2", "T1"))
    image = torch.randn(1, 2, 8, 8)
    assert torch.allclose(old(image), new(image.flip(1)), atol=1e-5)


def test_outputs_go_by_name_at_every_scale():
    old, new, fates = run(PLAN, PLAN, outputs={0: 0, 2: 1}, numbers=(4, 3))
    image = torch.randn(1, 1, 8, 8)
    assert torch.allclose(old(image)[:, [0, 1]], new(image)[:, [0, 2]], atol=1e-5)
    heads = [fate for fate in fates.values() if fate.group == "output layers"]
    assert [fate.how for fate in heads] == ["outputs by name"] * 4


def test_kernels_that_grow_leave_the_output_as_it_was():
    grown = replace(VOLUME, kernel_sizes=((3, 3, 3),) * 3)
    old, new, fates = run(VOLUME, grown)
    image = torch.randn(1, 1, 4, 8, 8)
    assert torch.allclose(old(image), new(image), atol=1e-5)
    assert fates["encoder.stages.0.convs.0.conv.weight"].how == "kernel 1x3x3 -> 3x3x3"
    assert count(fates, "fresh") == 0


def test_a_volume_sees_every_slice_as_the_planes_network_did():
    flat = replace(PLAN, strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)), kernel_sizes=((3, 3, 3),) * 3)
    old, new, fates = run(PLAN, flat)
    # Instance norm looks at all slices together, so that they are all the same here.
    plane = torch.randn(1, 1, 8, 8)
    volume = new(plane[:, :, None].expand(-1, -1, 4, -1, -1))
    for z in range(4):
        assert torch.allclose(volume[:, :, z], old(plane), atol=1e-4)
    assert count(fates, "fresh") == 0


def test_a_planes_network_takes_the_sum_of_a_volumes_slices():
    old, new, fates = run(VOLUME, PLAN)
    weights = old.state_dict(), new.state_dict()
    name = "encoder.stages.1.convs.0.conv.weight"
    assert torch.allclose(weights[1][name], weights[0][name].sum(2))
    assert count(fates, "fresh") == 0


def test_other_strides_repeat_or_average_the_upsampling():
    isotropic = replace(VOLUME, strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)))
    old, new, fates = run(VOLUME, isotropic)
    name = "decoder.upsamplings.1.weight"
    assert fates[name].how == "kernel 1x2x2 -> 2x2x2"
    for z in range(2):
        assert torch.equal(new.state_dict()[name][:, :, z], old.state_dict()[name][:, :, 0])


def test_a_deeper_network_is_matched_from_the_highest_resolution():
    _, _, fates = run(PLAN, DEEPER)
    # Below what was the bottleneck the same kernels go on, where they fit.
    assert fates["encoder.stages.3.convs.0.conv.weight"].became == "fresh"
    below = fates["encoder.stages.3.convs.1.conv.weight"]
    assert below.source == "encoder.stages.2.convs.1.conv.weight"
    for s in range(3):
        name = f"encoder.stages.{s}.convs.1.conv.weight"
        assert fates[name].source == name
    # Decoders are numbered from the deepest, but matched by resolution.
    assert fates["decoder.stages.2.convs.0.conv.weight"].source == (
        "decoder.stages.1.convs.0.conv.weight"
    )
    assert fates["decoder.upsamplings.1.weight"].source == "decoder.upsamplings.0.weight"
    assert fates["decoder.heads.2.weight"].source == "decoder.heads.1.weight"
    # No norm or bias without the kernel it belongs to.
    assert fates["decoder.stages.0.convs.0.conv.weight"].became == "fresh"
    assert fates["decoder.stages.0.convs.0.norm.weight"].became == "fresh"


def test_a_shallower_network_is_loaded_whole_and_the_rest_is_named():
    old = build(DEEPER, seed=1)
    source = source_of(old, DEEPER)
    fates = transfer(build(PLAN), PLAN, source)
    assert {fate.became for fate in fates} == {"loaded"}
    left = unused(fates, source)
    assert len(left) == len(old.state_dict()) - len(fates)
    assert "encoder.stages.3.convs.0.conv.weight" in left
    assert "decoder.heads.0.weight" in left


def test_plain_and_residual_encoders_share_what_fits():
    residual = replace(PLAN, kind="residual_encoder", convs_per_stage=(1, 1, 1))
    _, _, fates = run(PLAN, residual)
    pairs = {
        "encoder.stem.conv.weight": "encoder.stages.0.convs.0.conv.weight",
        "encoder.stages.0.blocks.0.conv1.conv.weight": "encoder.stages.0.convs.1.conv.weight",
        "encoder.stages.1.blocks.0.conv1.conv.weight": "encoder.stages.1.convs.0.conv.weight",
        "encoder.stages.1.blocks.0.conv2.norm.bias": "encoder.stages.1.convs.1.norm.bias",
        "decoder.upsamplings.0.weight": "decoder.upsamplings.0.weight",
    }
    for name, source in pairs.items():
        assert (fates[name].became, fates[name].source) == ("loaded", source)
    assert fates["encoder.stages.1.blocks.0.project.conv.weight"].became == "fresh"
    # The first stage of the plain encoder has no third convolution.
    assert fates["encoder.stages.0.blocks.0.conv2.conv.weight"].how == "not in the old network"


def test_running_statistics_come_from_batch_norm_alone():
    batch = replace(PLAN, norm="batch")
    _, _, fates = run(PLAN, batch)
    fresh = {name.rpartition(".")[2] for name, f in fates.items() if f.became == "fresh"}
    assert fresh == {"running_mean", "running_var", "num_batches_tracked"}
    _, _, fates = run(batch, batch)
    assert count(fates, "loaded") == len(fates)


def test_widths_that_differ_start_fresh_with_the_shapes_named():
    wide = replace(PLAN, features_per_stage=(2, 3, 5))
    _, _, fates = run(PLAN, wide)
    assert fates["encoder.stages.2.convs.0.conv.weight"].how == "shape 4x3x3x3 -> 5x3x3x3"
    assert fates["encoder.stages.2.convs.0.norm.weight"].became == "fresh"
    assert fates["encoder.stages.1.convs.0.norm.weight"].became == "loaded"


OWN = replace(PLAN, class_="users.nets:Net", arguments={})


def test_networks_that_are_classes_go_by_the_names_of_their_tensors():
    def made(channels, outputs, kernel=3, seed=0):
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Conv2d(channels, 4, kernel),
            torch.nn.BatchNorm2d(4),
            torch.nn.Conv2d(4, outputs, 1),
        )

    old, new = made(1, 3, seed=1), made(2, 4, 5)
    source = source_of(old, OWN, new=("MR", "CT"), outputs={0: 0, 3: 1}, numbers=(4, 3))
    fates = {fate.tensor: fate for fate in transfer(new, OWN, source)}
    assert fates["0.weight"].how == "input channels, kernel 3x3 -> 5x5"
    assert fates["0.bias"].became == fates["1.running_mean"].became == "loaded"
    assert fates["2.weight"].how == fates["2.bias"].how == "outputs by name"
    state = new.state_dict()
    assert torch.equal(state["0.weight"][:, 0, 1:4, 1:4], old.state_dict()["0.weight"][:, 0])
    assert state["0.weight"][:, 1].count_nonzero() == 0
    assert torch.equal(state["2.bias"][[0, 3]], old.state_dict()["2.bias"][[0, 1]])


def test_a_class_and_a_unet_share_nothing_but_names():
    fates = transfer(build(PLAN), PLAN, source_of(torch.nn.Conv2d(1, 2, 3), OWN))
    assert {fate.became for fate in fates} == {"fresh"}
