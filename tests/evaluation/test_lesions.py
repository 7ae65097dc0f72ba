import numpy as np
import pytest

from segkit.evaluation.lesions import lesion_scores, rate_lesions


def score(ref, pred):
    scores = lesion_scores(*(np.array(rows, dtype=bool) for rows in (ref, pred)))
    return tuple(scores[f"lesion_{key}"] for key in ("tp", "fp", "fn"))


def test_one_voxel_of_overlap_finds_a_lesion():
    ref = [[[1, 1, 0, 0, 1, 0, 0]]]
    pred = [[[0, 1, 0, 0, 0, 0, 1]]]
    assert score(ref, pred) == (1, 1, 1)


def test_one_large_prediction_finds_all_it_touches():
    assert score([[[1, 0, 1, 0, 1]]], [[[1, 1, 1, 0, 0]]]) == (2, 0, 1)
    # Two predictions in one lesion find it once, and neither is false.
    assert score([[[1, 1, 1]]], [[[1, 0, 1]]]) == (1, 0, 0)


def test_corners_connect_in_a_plane_and_in_a_volume():
    plane = np.eye(3, dtype=bool)[None]
    assert score(plane, plane) == (1, 0, 0)
    volume = np.zeros((2, 2, 2), dtype=bool)
    volume[0, 0, 0] = volume[1, 1, 1] = True
    assert score(volume, ~volume) == (0, 1, 1)


def test_rates_are_undefined_where_there_is_nothing_to_rate():
    names = ("lesion_precision", "lesion_recall", "lesion_f1")

    def rates(*counts):
        return tuple(rate_lesions(*counts)[name] for name in names)

    assert rates(0, 0, 0) == (None, None, None)
    assert rates(0, 2, 0) == (0, None, 0)
    assert rates(0, 0, 2) == (None, 0, 0)
    assert rates(2, 1, 3) == (2 / 3, 2 / 5, pytest.approx(1 / 2))
