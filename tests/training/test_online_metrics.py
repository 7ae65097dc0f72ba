"""Dice from counts, with absent classes left out."""

import numpy as np
import pytest
import torch

from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.training.online_metrics import (
    dice_from_counts,
    exponential_average,
    mean_defined,
    overlap_counts,
)

CLASSES = (LabelClass(name="a", value=1), LabelClass(name="b", value=2))


def one_hot_logits(indices, channels):
    return torch.nn.functional.one_hot(indices, channels).movedim(-1, 1).float()


def test_counts_of_a_small_case():
    seg = torch.tensor([[[0, 1, 1, 2, -1, 3]]], dtype=torch.int16)
    predicted = torch.tensor([[1, 1, 0, 2, 2, 1]])
    schema = LabelSchema(classes=CLASSES)
    counts = overlap_counts(one_hot_logits(predicted, 3), seg, schema)
    assert counts.tolist() == [[1, 1], [1, 0], [1, 0]]
    assert dice_from_counts(counts) == [0.5, 1.0]


def test_counts_of_regions():
    schema = LabelSchema(
        classes=CLASSES,
        regions=(
            Region(name="both", members=(1, 2), paint=1),
            Region(name="b", members=(2,), paint=2),
        ),
    )
    seg = torch.tensor([[[0, 1, 2, -1]]], dtype=torch.int16)
    logits = torch.tensor([[[1.0, 1, -1, 1], [-1, -1, 1, 1]]])
    counts = overlap_counts(logits, seg, schema)
    assert counts.tolist() == [[1, 1], [1, 0], [1, 0]]


def test_counts_of_overlapping_structures():
    schema = LabelSchema(classes=CLASSES, overlapping=True)
    seg = torch.tensor([[[0, 1, 1, -1], [1, 1, 2, 0]]], dtype=torch.int16)
    logits = torch.tensor([[[1.0, 1, -1, 1], [-1, 1, 1, 1]]])
    counts = overlap_counts(logits, seg, schema)
    assert counts.tolist() == [[1, 1], [1, 1], [1, 1]]


def test_a_structure_nobody_annotated_is_undefined():
    schema = LabelSchema(classes=CLASSES, overlapping=True)
    seg = torch.tensor([[[2, 2], [1, 0]]], dtype=torch.int16)
    counts = overlap_counts(torch.ones(1, 2, 2), seg, schema)
    assert dice_from_counts(counts) == [None, pytest.approx(2 / 3)]


def test_absent_classes_are_none_and_poison_nothing():
    assert dice_from_counts(torch.zeros(3, 2)) == [None, None]
    assert dice_from_counts(torch.tensor([[0, 0], [7, 7], [0, 3]])) == [None, 0]
    assert mean_defined([None, 0.5, None, 1.0]) == 0.75
    assert mean_defined([None]) is None
    assert exponential_average(None, None) is None
    assert exponential_average(0.5, None) == 0.5
    assert exponential_average(None, 0.5) == 0.5
    assert exponential_average(0.5, 1.0) == pytest.approx(0.55)


def test_counts_equal_brute_force():
    rng = np.random.default_rng(0)
    schema = LabelSchema(classes=CLASSES)
    seg = rng.integers(-1, 4, size=(2, 1, 6, 7))
    predicted = rng.integers(0, 3, size=(2, 6, 7))
    counts = overlap_counts(
        one_hot_logits(torch.from_numpy(predicted), 3), torch.from_numpy(seg).short(), schema
    )
    valid = (seg[:, 0] >= 0) & (seg[:, 0] < 3)
    for i, c in enumerate((1, 2)):
        p, r = predicted[valid] == c, seg[:, 0][valid] == c
        assert counts[:, i].tolist() == [(p & r).sum(), (p & ~r).sum(), (~p & r).sum()]


def test_counts_of_structures_equal_brute_force():
    rng = np.random.default_rng(1)
    schema = LabelSchema(classes=CLASSES, overlapping=True)
    seg = rng.integers(-1, 3, size=(3, 2, 5, 6, 7))
    logits = rng.normal(size=seg.shape)
    counts = overlap_counts(torch.from_numpy(logits), torch.from_numpy(seg).short(), schema)
    for s in range(2):
        valid = (seg[:, s] == 0) | (seg[:, s] == 1)
        p, r = logits[:, s][valid] > 0, seg[:, s][valid] == 1
        assert counts[:, s].tolist() == [(p & r).sum(), (p & ~r).sum(), (~p & r).sum()]
