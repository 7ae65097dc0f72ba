"""Networks from plans: nnU-Net's sizes, shapes, start values, and refusals."""

import dataclasses
import math

import pytest
import torch

from segkit.errors import UserError
from segkit.networks.blocks import ConvUnit, ResidualBlock
from segkit.networks.build import build_network
from segkit.planning.plan import NetworkPlan
from segkit.precision import channels_last

FULL = NetworkPlan(
    features_per_stage=(32, 64, 128, 256, 320, 320),
    strides=((1, 1, 1),) + ((2, 2, 2),) * 5,
    kernel_sizes=((3, 3, 3),) * 6,
    convs_per_stage=(2,) * 6,
    convs_per_decoder_stage=(2,) * 5,
)
FULL_RESIDUAL = dataclasses.replace(
    FULL,
    kind="residual_encoder",
    convs_per_stage=(1, 3, 4, 6, 6, 6),
    convs_per_decoder_stage=(1,) * 5,
)
SMALL_3D = NetworkPlan(
    features_per_stage=(4, 8, 16),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    convs_per_stage=(2, 1, 2),
    convs_per_decoder_stage=(1, 2),
)
SMALL_2D = NetworkPlan(
    features_per_stage=(4, 8),
    strides=((1, 1), (2, 2)),
    kernel_sizes=((3, 3), (3, 3)),
    convs_per_stage=(2, 2),
    convs_per_decoder_stage=(1,),
)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def residual(plan):
    return dataclasses.replace(plan, kind="residual_encoder")


def build(plan, *, deep_supervision=True):
    torch.manual_seed(0)
    return build_network(plan, in_channels=2, out_channels=3, deep_supervision=deep_supervision)


@pytest.mark.parametrize(("plan", "count"), [(FULL, 31_196_399), (FULL_RESIDUAL, 102_350_575)])
def test_parameter_counts_are_nnunets(plan, count):
    with torch.device("meta"):
        network = build_network(plan, in_channels=1, out_channels=3, deep_supervision=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("plan", [SMALL_3D, residual(SMALL_3D)])
def test_deep_supervision_lists_every_resolution_highest_first(plan):
    outputs = build(plan)(torch.randn(2, 2, 8, 16, 12))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 8, 16, 12), (2, 3, 8, 8, 6)]


@pytest.mark.parametrize("plan", [SMALL_2D, residual(SMALL_2D)])
def test_two_stages_give_one_output(plan):
    outputs = build(plan)(torch.randn(2, 2, 16, 12))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 16, 12)]


@pytest.mark.parametrize("plan", [SMALL_2D, residual(SMALL_3D)])
def test_one_tensor_in_eval_mode_and_without_deep_supervision(plan):
    image = torch.randn(1, 2, *(8,) * len(plan.strides[0]))
    network = build(plan)
    first = network(image)[0]
    plain = build(plan, deep_supervision=False)
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(image), first)
    assert torch.equal(plain(image), first)


@pytest.mark.parametrize("plan", [SMALL_3D, residual(SMALL_3D)])
def test_every_parameter_gets_a_gradient(plan):
    network = build(plan)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            torch.nn.init.ones_(module.conv2.norm.weight)
    sum(output.square().mean() for output in network(torch.randn(2, 2, 8, 8, 8))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_in_place_activations_keep_the_gradient_right():
    network = build(residual(SMALL_2D), deep_supervision=False).double()
    image = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: network(x).tanh(), (image,), fast_mode=True)


def test_weights_start_kaiming_normal_and_biases_zero():
    network = build(dataclasses.replace(SMALL_3D, features_per_stage=(16, 32, 64)))
    weight = network.encoder.stages[2].convs[1].conv.weight
    fan_in = 64 * 27
    expected = math.sqrt(2 / (1 + 0.01**2) / fan_in)
    assert weight.std().item() == pytest.approx(expected, rel=0.02)
    biases = [p for name, p in network.named_parameters() if name.endswith("conv.bias")]
    assert biases
    assert all((bias == 0).all() for bias in biases)


def test_residual_blocks_start_as_their_skip():
    block = build(residual(SMALL_3D)).encoder.stages[0].blocks[1]
    features = torch.randn(1, 4, 4, 4, 4)
    expected = torch.nn.functional.leaky_relu(features, 0.01)
    assert torch.equal(block(features), expected)


def test_a_skip_is_projected_only_where_channels_change():
    stage = build(residual(SMALL_3D)).encoder.stages[1]
    names = dict(stage.named_parameters())
    assert "blocks.0.project.conv.weight" in names
    assert "blocks.0.project.conv.bias" not in names
    stage = build(residual(SMALL_3D)).encoder.stages[0]
    assert not any("project" in name for name in dict(stage.named_parameters()))


def test_state_keeps_one_entry_a_parameter():
    network = build(residual(SMALL_3D))
    assert len(network.state_dict()) == len(list(network.parameters()))


def test_upsampled_features_come_before_the_skip():
    network = build(SMALL_2D, deep_supervision=False)
    joined = []
    network.decoder.stages[0].register_forward_pre_hook(lambda _, args: joined.append(args[0]))
    skips = []
    network.encoder.register_forward_hook(lambda _, __, result: skips.extend(result))
    network(torch.randn(1, 2, 8, 8))
    assert torch.equal(joined[0][:, 4:], skips[0])
    assert torch.equal(joined[0][:, :4], network.decoder.upsamplings[0](skips[1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": ((1, 1),)}, "strides: must have 2 entries"),
        ({"convs_per_decoder_stage": (1, 1)}, "convs_per_decoder_stage: must have 1"),
        ({"strides": ((2, 2), (2, 2))}, "first stride must be all ones"),
        ({"kernel_sizes": ((3, 3), (2, 3))}, "must be odd"),
        ({"kernel_sizes": ((3, 3), (3, 3, 3))}, "every entry must have 2 axes"),
        ({"convs_per_stage": (2, 0)}, "convs_per_stage: must be positive, got 0"),
    ],
)
def test_a_plan_that_is_no_unet_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        build(dataclasses.replace(SMALL_2D, **change))


def test_one_stage_is_refused():
    plan = NetworkPlan(
        features_per_stage=(4,),
        strides=((1, 1),),
        kernel_sizes=((3, 3),),
        convs_per_stage=(1,),
        convs_per_decoder_stage=(),
    )
    with pytest.raises(UserError, match="at least 2 stages"):
        build(plan)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("plan", [SMALL_2D, residual(SMALL_3D)])
def test_norm_and_dropout_add_no_parameter(plan, norm):
    changed = build(dataclasses.replace(plan, norm=norm, dropout=0.2))
    expected = {name: tuple(p.shape) for name, p in build(plan).named_parameters()}
    assert {name: tuple(p.shape) for name, p in changed.named_parameters()} == expected


def test_channels_are_dropped_between_convolution_and_norm():
    plan = dataclasses.replace(SMALL_2D, dropout=0.5)
    unit = build(plan).encoder.stages[0].convs[0]
    seen = {}
    unit.conv.register_forward_hook(lambda _, __, result: seen.update(convolved=result.clone()))
    unit.norm.register_forward_pre_hook(lambda _, args: seen.update(dropped=args[0].clone()))
    image = torch.randn(8, 2, 6, 6)
    unit(image)
    kept = seen["dropped"].flatten(2).abs().sum(2) > 0
    assert 0 < kept.float().mean() < 1
    expected = 2 * seen["convolved"] * kept[:, :, None, None]
    assert torch.allclose(seen["dropped"], expected)
    unit.eval()(image)
    assert torch.equal(seen["dropped"], seen["convolved"])


def test_residual_blocks_drop_channels_after_their_first_convolution_alone():
    network = build(dataclasses.replace(residual(SMALL_3D), dropout=0.5))
    with_dropout = {
        name for name, module in network.named_modules() if isinstance(module, torch.nn.Dropout3d)
    }
    assert "encoder.stem.dropout" in with_dropout
    assert "decoder.stages.0.convs.0.dropout" in with_dropout
    blocks = {name for name in with_dropout if ".blocks." in name}
    assert blocks
    assert all(name.endswith("conv1.dropout") for name in blocks)


@pytest.mark.parametrize("plan", [SMALL_2D, residual(SMALL_3D)])
@pytest.mark.parametrize("layout", [channels_last, torch.clone])
def test_batch_norm_normalises_over_the_batch_then_by_what_it_has_seen(plan, layout):
    network = build(dataclasses.replace(plan, norm="batch"))
    unit = network.decoder.stages[-1].convs[0]
    seen = {}
    unit.norm.register_forward_hook(
        lambda _, args, result: seen.update(x=args[0], y=result.clone())
    )
    image = layout(torch.randn(3, 2, *(8,) * len(plan.strides[0])))
    network(image)
    axes = (0, *range(2, image.ndim))
    assert torch.allclose(seen["y"].mean(axes), torch.zeros(4), atol=1e-5)
    assert torch.allclose(seen["y"].std(axes), torch.ones(4), atol=1e-2)
    mean = seen["x"].mean(axes)
    assert torch.allclose(unit.norm.running_mean, 0.1 * mean, atol=1e-5)
    network.eval()
    one = network(image[:1])
    # The others of a batch no longer matter, and neither does the layout.
    assert torch.allclose(network(image)[:1], one, atol=1e-5)
    assert torch.allclose(network(image[:1].contiguous()), one, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("layout", [channels_last, torch.clone])
def test_gradients_of_thin_features_are_right_in_bf16(depth, layout):
    torch.manual_seed(0)
    unit = ConvUnit(8, 16, kernel=(3, 3, 3), stride=(1, 1, 1))
    features = layout(torch.randn(2, 8, depth, 6, 5).bfloat16())
    upward = torch.randn(2, 16, depth, 6, 5)

    def gradient(enabled):
        unit.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            (unit(features if enabled else features.float()) * upward).sum().backward()
        return unit.conv.weight.grad.clone()

    exact, found = gradient(False), gradient(True)
    assert (found - exact).norm() <= 0.03 * exact.norm()
