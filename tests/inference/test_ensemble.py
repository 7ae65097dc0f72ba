"""Several models average their probabilities on the image's grid, whatever grid each has."""

import dataclasses

import numpy as np
import pytest
import torch
from test_inference_case import (
    CLASSES,
    REGIONS,
    SHAPE,
    STRUCTURES,
    describe,
    make_case,
    make_plan,
    make_settings,
)

from segkit.dataset.image_io import read_image
from segkit.dataset.label_files import read_label_map
from segkit.errors import UsageError, UserError
from segkit.inference import export
from segkit.inference.case import CasePredictor, Finish, Prediction
from segkit.inference.ensemble import (
    EnsemblePredictor,
    Vote,
    averaged_probabilities,
    votes_to_segmentation,
)
from segkit.inference.export import probabilities
from segkit.inference.model import Model
from segkit.inference.partners import check_partners, check_shares
from segkit.inference.predictor import PredictionSettings
from segkit.preprocessing.pipeline import preprocess_case

GRIDS = [
    {},
    {"transpose": (2, 0, 1), "spacing_mm": (2.0, 1.5, 2.0)},
    {"transpose": (1, 2, 0), "orientation": "RAS", "spacing_mm": (0.9, 0.7, 3.0)},
    {"transpose": (0, 2, 1), "orientation": "LIP", "spacing_mm": (9.0, 0.7, 0.8)},
    {"transpose": (2, 1, 0), "orientation": "ASL", "spacing_mm": (1.0, 0.9, 7.5)},
]
"""Axis orders, orientations and spacings of models, thick and thin, with nearest neighbours."""


def make_vote(case, schema, grid, *, seed, share=1.0, forced=True):
    """Random logits of a model on its own grid, for an image with an empty border."""
    plan = make_plan(**grid)
    prepared = preprocess_case(read_image(case.images), None, plan, "3d_fullres", case=case)
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(schema.num_outputs, *prepared.image.shape[1:]))
    return Vote(
        logits=torch.from_numpy(logits.astype(np.float32)),
        record=prepared.record,
        share=share,
        invalid_zyx=prepared.invalid_zyx if forced else None,
    )


def expected_probabilities(votes, schema):
    parts = [
        probabilities(vote.logits, vote.record, schema, vote.invalid_zyx) * np.float32(vote.share)
        for vote in votes
    ]
    return np.sum(parts, axis=0) / np.float32(sum(vote.share for vote in votes))


def expected_indices(shares, schema):
    """Decide as nnU-Net does: argmax, regions painted one over the other, or each for itself."""
    if schema.overlapping:
        return (shares > 0.5).astype(np.int8)
    if not schema.has_regions:
        return shares.argmax(axis=0)[None]
    painted = np.zeros(shares.shape[1:], dtype=int)
    for share, index in zip(shares, schema.paint_indices, strict=True):
        painted[share > 0.5] = index
    return painted[None]


@pytest.mark.parametrize("content", [CLASSES, REGIONS, STRUCTURES], ids=["cl", "reg", "str"])
@pytest.mark.parametrize("slab_voxels", [1, 1 << 18])
def test_the_mean_of_probabilities_decides(tmp_path, monkeypatch, content, slab_voxels):
    monkeypatch.setitem(export._SLAB_VOXELS, "cpu", slab_voxels)
    schema = describe(tmp_path, content).labels
    case, _ = make_case(tmp_path, schema, "integers")
    shares = (1.0, 2.0, 0.5, 1.0, 3.0)
    pairs = zip(GRIDS, shares, strict=True)
    votes = [
        make_vote(case, schema, grid, seed=i, share=share, forced=i != 1)
        for i, (grid, share) in enumerate(pairs)
    ]
    for chosen in ([votes[0]], votes[:2], votes[2:4], votes):
        expected = expected_probabilities(chosen, schema)
        found = averaged_probabilities(chosen, schema)
        np.testing.assert_allclose(found, expected, atol=2e-6)
        indices = votes_to_segmentation(chosen, schema)
        assert indices.shape == (schema.seg_channels, *SHAPE)
        # Decided as numpy decides the very same probabilities.
        np.testing.assert_array_equal(indices, expected_indices(found, schema))
        sure = votes[0].invalid_zyx if all(v.invalid_zyx is not None for v in chosen) else None
        assert sure is None or not indices[:, sure].any()


def test_equal_probabilities_go_to_the_first_class(tmp_path):
    schema = describe(tmp_path, CLASSES).labels
    case, _ = make_case(tmp_path, schema, "integers")
    vote = make_vote(case, schema, {}, seed=0, forced=False)
    vote.logits[0] = -9
    vote.logits[2] = vote.logits[1]
    indices = votes_to_segmentation([vote, vote], schema)
    assert set(np.unique(indices)) == {0, 1}


def make_model(folder, content, layout="integers", **plan):
    return Model(
        folder=folder,
        settings=make_settings(layout),
        plan=make_plan(**plan),
        description=describe(folder, content),
    )


def make_member(model):
    return CasePredictor(
        model=model, forwards=(), settings=PredictionSettings(), device=torch.device("cpu")
    )


def test_an_ensemble_stands_where_a_model_does(tmp_path):
    models = [make_model(tmp_path / str(i), CLASSES, **grid) for i, grid in enumerate(GRIDS[:2])]
    schema = models[0].description.labels
    case, _ = make_case(tmp_path / "0", schema, "integers")
    finish = Finish(apply=lambda indices, _: np.full_like(indices, 2), hash="h", summary="all 2")
    ensemble = EnsemblePredictor(members=[make_member(m) for m in models], shares=(1.0, 3.0))
    prepared = ensemble.read(case)
    assert [p.image.shape for p in prepared] != [prepared[0].image.shape] * 2
    votes = [make_vote(case, schema, grid, seed=i) for i, grid in enumerate(GRIDS[:2])]
    predictions = [
        Prediction(logits=v.logits, record=v.record, invalid_zyx=v.invalid_zyx) for v in votes
    ]
    ensemble.write(predictions, tmp_path / "a.nii.gz", keep_probabilities=True)
    votes[1] = dataclasses.replace(votes[1], share=3.0)
    found = read_label_map(tmp_path / "a.nii.gz", schema).array
    np.testing.assert_array_equal(found, votes_to_segmentation(votes, schema))
    with np.load(tmp_path / "a.npz") as content:
        np.testing.assert_array_equal(
            content["probabilities"], averaged_probabilities(votes, schema)
        )
    assert [member.share for member in ensemble.source.members] == [1.0, 3.0]
    finished = dataclasses.replace(ensemble, finish=finish)
    finished.write(predictions, tmp_path / "b.nii.gz")
    found = read_label_map(tmp_path / "b.nii.gz", schema).array[0]
    assert set(np.unique(found[~votes[0].invalid_zyx])) == {2}
    assert not found[votes[0].invalid_zyx].any()
    assert finished.source.hash() != ensemble.source.hash()


OTHER_VALUES = {"labels": {"background": 0, "b": 7, "a": 200}}
IGNORING = {"labels": {**CLASSES["labels"], "ignore": 201}}


@pytest.mark.parametrize(
    ("content", "layout", "told"),
    [
        (OTHER_VALUES, "integers", "the labels differ: b 200, a 7 | b 7, a 200"),
        (REGIONS, "integers", "the labels differ"),
        (STRUCTURES, "integers", "structure left 1"),
        (CLASSES, "masks", "the kinds of label files differ"),
    ],
)
def test_models_of_other_tasks_are_refused(tmp_path, content, layout, told):
    first = make_model(tmp_path / "a", CLASSES)
    check_partners([first, make_model(tmp_path / "b", IGNORING)])
    with pytest.raises(UserError) as caught:
        check_partners([first, make_model(tmp_path / "c", content, layout)])
    assert told in str(caught.value)


@pytest.mark.parametrize("shares", [(1.0,), (1.0, 0.0), (1.0, float("nan")), (1.0, -2.0)])
def test_weights_that_do_not_fit(shares):
    with pytest.raises(UsageError):
        check_shares(shares, 2)


def test_weights_are_equal_unless_given():
    assert check_shares((), 3) == (1.0, 1.0, 1.0)
    assert check_shares((2, 1), 2) == (2, 1)
