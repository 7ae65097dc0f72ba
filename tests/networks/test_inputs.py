"""Which channels a network takes, and what the classes of a previous stage look like."""

import pytest
import torch

from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.networks.inputs import add_class_channels, class_channels

CLASSES = tuple(LabelClass(name=name, value=10 * i) for i, name in enumerate("abc", start=1))
LABELS = LabelSchema(classes=CLASSES, ignore_values=(99,))
REGIONS = LabelSchema(
    classes=CLASSES,
    regions=(
        Region(name="whole", members=(10, 20, 30), paint=10),
        Region(name="core", members=(20, 30), paint=20),
    ),
)
STRUCTURES = LabelSchema(classes=CLASSES, overlapping=True)


@pytest.mark.parametrize("schema", [LABELS, REGIONS])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.float32])
def test_every_class_has_a_channel(schema, dtype):
    labels = torch.tensor([[[-1, 0, 1, 2, 3, 4]]], dtype=dtype)  # invalid, background, ..., ignore
    expected = torch.tensor([[[0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]])
    assert torch.equal(class_channels(labels, schema), expected.bool())


def test_every_structure_has_a_channel():
    labels = torch.tensor([[[-1, 0, 1, 2], [1, 1, 0, 0], [0, 0, 0, 0]]], dtype=torch.int8)
    expected = torch.tensor([[[0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]])
    assert torch.equal(class_channels(labels, STRUCTURES), expected.bool())


def test_channels_follow_those_of_the_image():
    image = torch.randn(2, 3, 4, 5, 6)
    labels = torch.randint(-1, 4, (2, 1, 4, 5, 6))
    joined = add_class_channels(image, labels, LABELS)
    assert joined.shape == (2, 6, 4, 5, 6)
    assert joined.dtype == torch.float32
    assert torch.equal(joined[:, :3], image)
    assert torch.equal(joined[:, 4], (labels[:, 0] == 2).float())
