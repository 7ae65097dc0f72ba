"""Beginning with other weights: by name and shape, output channels by what they predict."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_configuration, tiny_network, tiny_plan

from segkit.config import LossConfig, Recipe
from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.dataset.splits import Split
from segkit.errors import UserError
from segkit.networks.build import build_network
from segkit.networks.unet import HEADS
from segkit.training.pretrained import (
    Origin,
    Pretrained,
    initialize_from,
    matching_outputs,
)
from segkit.training.task import TrainingTask

NETWORK = tiny_network(ndim=2, stages=3, features_per_stage=(2, 3, 4))


def labels(*names, ignore=(), **options):
    classes = tuple(LabelClass(name=name, value=i + 1) for i, name in enumerate(names))
    return LabelSchema(classes=classes, ignore_values=ignore, **options)


def regions(**members):
    names = [LabelClass(name=f"label_{value}", value=value) for value in (1, 2)]
    made = tuple(Region(name=n, members=m, paint=m[-1]) for n, m in members.items())
    return LabelSchema(classes=tuple(names), regions=made)


def network(schema, channels=1, plan=NETWORK, seed=0):
    torch.manual_seed(seed)
    outputs = schema.num_outputs
    return build_network(plan, in_channels=channels, out_channels=outputs, deep_supervision=True)


def task(schema, channels=("MR",), invalid_voxels="masked"):
    configuration = tiny_configuration(ndim=2, batch_dice=True, network=NETWORK)
    plan = tiny_plan(configuration, channels, intensities=())
    return TrainingTask(
        plan=plan,
        configuration="2d",
        schema=schema,
        split=Split(train=("x",), val=("y",)),
        fold=0,
        recipe=Recipe(loss=LossConfig(invalid_voxels=invalid_voxels)),
    )


def pretrained(schema, channels=("MR",), invalid_voxels="masked", **network_options):
    weights = network(schema, len(channels), seed=1, **network_options).state_dict()
    return Pretrained(
        origin=Origin(path="model/fold_0/final.pt", content_hash="0"),
        weights=weights,
        network=network_options.get("plan", NETWORK),
        schema=schema,
        configuration="2d",
        channel_names=channels,
        invalid_voxels=invalid_voxels,
    )


def begin(source, schema, **options):
    """Return the new network's state dict and what was said."""
    made = network(schema, channels=len(options.get("channels", ("MR",))), seed=0)
    begun = initialize_from(made, source, task(schema, **options))
    return made.state_dict(), "\n".join(begun.lines)


def test_the_same_targets_take_everything():
    schema = labels("a", "b")
    source = pretrained(schema)
    state, text = begin(source, schema)
    for name, tensor in source.weights.items():
        assert torch.equal(state[name], tensor), name
    assert "taken over by name: background, a, b" in text
    assert "starting fresh" not in text
    assert text.count("\n") == 8


@pytest.mark.parametrize(("old", "new"), [((3,), ()), ((), (3,))])
def test_an_ignore_label_changes_no_weight_and_is_explained(old, new):
    source = pretrained(labels("a", "b", ignore=old))
    state, text = begin(source, labels("a", "b", ignore=new))
    assert all(torch.equal(state[name], tensor) for name, tensor in source.weights.items())
    before = "an ignore label (value 3)" if old else "none"
    assert f"the pretrained model had {before}, this data set has" in text
    assert "ignored voxels never have an output channel" in text


def heads(weights):
    return {name: tensor for name, tensor in weights.items() if name.startswith(HEADS)}


def test_permuted_targets_are_permuted_at_every_scale():
    source = pretrained(labels("a", "b"))
    state, text = begin(source, labels("b", "a"))
    found = heads(state)
    assert len(found) == 4  # weight and bias at two scales
    for name, tensor in found.items():
        assert torch.equal(tensor, source.weights[name][[0, 2, 1]])
    assert "starting fresh" not in text


def test_the_output_does_not_depend_on_the_order_of_declaration():
    source = pretrained(labels("a", "b"))
    image = torch.randn(1, 1, 8, 8)
    old, new = network(labels("a", "b")), network(labels("b", "a"))
    old.load_state_dict(source.weights)
    initialize_from(new, source, task(labels("b", "a")))
    with torch.no_grad():
        assert torch.allclose(old.eval()(image)[:, [0, 2, 1]], new.eval()(image))


def test_a_new_class_starts_fresh_and_an_old_one_is_dropped():
    source = pretrained(labels("a", "b"))
    schema = labels("b", "c")
    fresh = network(schema, seed=0).state_dict()
    state, text = begin(source, schema)
    for name, tensor in heads(state).items():
        assert torch.equal(tensor[[0, 1]], source.weights[name][[0, 2]])
        assert torch.equal(tensor[2], fresh[name][2])
    assert "starting fresh: c; without a place here: a" in text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (labels("a", "b"), labels("b", "a"), {0: 0, 1: 2, 2: 1}),
        (labels("a"), labels("a", "b"), {0: 0, 1: 1}),
        (labels("a"), labels("b"), {}),
        (regions(whole=(1, 2), core=(2,)), regions(core=(2,)), {0: 1}),
        (labels("a", "b"), labels("a", "b", overlapping=True), {}),
        (regions(whole=(1, 2), core=(2,)), labels("core", "x", overlapping=True), {0: 1}),
        (labels("a", "b", overlapping=True).without(("a",)), labels("b", overlapping=True), {0: 0}),
    ],
)
def test_outputs_match_by_name_and_kind(old, new, expected):
    assert matching_outputs(old, new) == expected


def test_softmax_and_sigmoid_outputs_are_not_mixed():
    source = pretrained(labels("a", "b"))
    schema = labels("a", "b", overlapping=True)
    fresh = heads(network(schema, seed=0).state_dict())
    state, text = begin(source, schema)
    assert all(torch.equal(state[name], tensor) for name, tensor in fresh.items())
    assert "the pretrained model has a softmax, this one sigmoid outputs" in text


def test_other_input_channels_are_told():
    source = pretrained(labels("a"), channels=("T1", "T2"))
    state, text = begin(source, labels("a"), channels=("T1", "CT", "PET"))
    assert "input channels: T1 as it was, CT shares T2, PET shares T2" in text
    weight = "encoder.stages.0.convs.0.conv.weight"
    assert torch.equal(state[weight][:, 0], source.weights[weight][:, 0])
    assert torch.equal(state[weight][:, 2], source.weights[weight][:, 1] / 2)
    _, text = begin(source, labels("a"), channels=("T1",))
    assert "input channels: T1 as it was; without a place here: T2" in text
    _, text = begin(pretrained(labels("a")), labels("a"), channels=("MR", "CT"))
    assert "input channels: MR as it was, CT begins at 0" in text


def test_other_channel_names_and_invalid_voxels_are_told():
    source = pretrained(labels("a"), invalid_voxels="background")
    _, text = begin(source, labels("a"), channels=("CT",))
    assert "input channels: CT takes the place of MR" in text
    assert "loss.invalid_voxels was 'background', and now is 'masked'" in text
    unknown = replace(source, invalid_voxels=None)
    assert "invalid_voxels" not in begin(unknown, labels("a"))[1]


def test_a_network_that_shares_no_convolution_is_refused():
    wide = replace(NETWORK, features_per_stage=(5, 6, 7))
    source = pretrained(labels("a"), plan=wide)
    with pytest.raises(UserError, match="shares no convolution") as caught:
        begin(source, labels("a"))
    assert "--from model" in caught.value.fix
    with pytest.raises(UserError) as caught:
        begin(replace(source, configuration="3d_fullres"), labels("a"))
    assert caught.value.fix.startswith("train 3d_fullres")


def test_a_poor_fit_says_how_to_mend_it():
    wide = replace(NETWORK, features_per_stage=(2, 6, 7))
    _, text = begin(pretrained(labels("a"), plan=wide), labels("a"))
    assert "much starts fresh; to take over more, train with its plan" in text


def test_the_table_says_what_became_of_every_part_and_a_file_of_every_tensor():
    deeper = replace(
        NETWORK,
        features_per_stage=(2, 3, 4, 4),
        strides=(*NETWORK.strides, (2, 2)),
        kernel_sizes=((3, 3),) * 4,
        convs_per_stage=(1,) * 4,
        convs_per_decoder_stage=(1,) * 3,
    )
    source = pretrained(labels("a"), plan=deeper)
    made = network(labels("a", "b"), channels=2)
    begun = initialize_from(made, source, task(labels("a", "b"), channels=("MR", "CT")))
    table = begun.lines[1].splitlines()
    assert table == [
        "                   loaded  adapted  fresh",
        "  encoder stage 1       3        1      -  input channels",
        "  encoder stage 2       4        -      -",
        "  encoder stage 3       4        -      -",
        "  decoder stage 2       6        -      -",
        "  decoder stage 1       6        -      -",
        "  output layers         -        4      -  outputs by name",
    ]
    tensors = {entry["tensor"]: entry for entry in begun.content["tensors"]}
    assert tensors.keys() == made.state_dict().keys()
    assert tensors["decoder.heads.1.bias"] == {
        "tensor": "decoder.heads.1.bias",
        "became": "adapted",
        "from": "decoder.heads.2.bias",
        "how": "outputs by name",
    }
    assert "encoder.stages.3.convs.0.conv.weight" in begun.content["unused"]


def test_an_output_layer_is_taken_whole_or_not_at_all():
    narrower = replace(NETWORK, features_per_stage=(5, 3, 4))
    source = pretrained(labels("a"), plan=narrower)
    fresh = network(labels("a")).state_dict()
    state, text = begin(source, labels("a"))
    for part in ("weight", "bias"):
        deep, fine = (f"{HEADS}{i}.{part}" for i in (0, 1))
        assert torch.equal(state[deep], source.weights[deep])
        assert torch.equal(state[fine], fresh[fine])
    assert "outputs taken over by name at 1 of 2 scales: background, a" in text


def test_classes_of_a_previous_stage_begin_at_zero_and_the_network_as_it_was():
    schema = labels("a", "b")
    plain = task(schema)
    fine = replace(plain.configured, previous_stage="2d")
    plan = replace(plain.plan, configurations={"2d": plain.configured, "cascade": fine})
    source, made = pretrained(schema), network(schema, channels=3)
    begun = initialize_from(made, source, replace(plain, plan=plan, configuration="cascade"))
    told = "MR as it was, a of the previous stage begins at 0, b of the previous stage begins at 0"
    assert f"input channels: {told}" in begun.lines
    old = network(schema)
    old.load_state_dict(source.weights)
    image = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = old.eval()(image[:, :1])
        assert torch.allclose(made.eval()(image), expected, atol=1e-5)
