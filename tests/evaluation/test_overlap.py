import numpy as np
import pytest

from segkit.evaluation.overlap import as_classes, confusion_matrix, overlap_scores

LABELS = np.eye(3, dtype=bool)[1:]


def test_confusion_matrix_by_hand():
    ref = np.array([0, 0, 1, 1, 2, 3])  # 3 = ignored
    pred = np.array([0, 1, 1, 2, 0, 2])
    expected = [[1, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert confusion_matrix(ref, pred, 3).tolist() == expected


def test_invalid_voxels_and_a_predicted_ignore_index_are_background():
    ref = np.array([-1, -1, 1], dtype=np.int16)
    pred = np.array([1, -1, 2], dtype=np.int16)  # 2 is no class here
    assert confusion_matrix(ref, pred, 2).tolist() == [[1, 1], [1, 0]]
    assert as_classes(pred, 2).tolist() == [1, 0, 0]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint64])
def test_whatever_is_no_class_is_background(dtype):
    ref = np.array([1, 2, 0, 1, 1, 5, 300, 3]).astype(dtype)  # 3 = ignored
    pred = np.array([6, 300, 3, 2, -7, 1, 2, 1]).astype(dtype)
    assert confusion_matrix(ref, pred, 3).tolist() == [[1, 1, 1], [2, 0, 1], [1, 0, 0]]


def test_many_classes_do_not_overflow():
    indices = np.arange(300, dtype=np.int16)
    assert np.array_equal(confusion_matrix(indices, indices, 300), np.eye(300))


@pytest.mark.parametrize("fill", [0, -1, 2])
def test_without_any_class_only_background_is_counted(fill):
    indices = np.full((2, 2, 2), fill, dtype=np.int16)
    expected = [[0 if fill == 2 else 8, 0], [0, 0]]
    assert confusion_matrix(indices, indices, 2).tolist() == expected


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_a_large_map_is_counted_pair_by_pair(dtype):
    rng = np.random.default_rng(0)
    ref, pred = rng.integers(-1, 5, (2, 30, 70, 50)).astype(dtype)  # 4 = ignored
    ref[rng.random(ref.shape) < 0.7] = pred[rng.random(pred.shape) < 0.7] = 0
    both = zip(ref.flat, pred.flat, strict=True)
    pairs = [(max(r, 0), p if 0 <= p < 4 else 0) for r, p in both if r != 4]
    expected = [[pairs.count((i, j)) for j in range(4)] for i in range(4)]
    assert confusion_matrix(ref, pred, 4).tolist() == expected


def test_scores_by_hand():
    confusion = np.array([[10, 1, 0], [2, 6, 0], [0, 2, 0]])
    first, second = overlap_scores(confusion, LABELS, voxel_ml=0.5)
    assert first == {
        "dice": 12 / 17,
        "iou": 6 / 11,
        "precision": 6 / 9,
        "recall": 6 / 8,
        "volume_ref_ml": 4.0,
        "volume_pred_ml": 4.5,
    }
    # In the reference only: precision has nothing to be a share of.
    assert second["dice"] == second["iou"] == second["recall"] == 0
    assert second["precision"] is None


def test_predicted_only_leaves_recall_undefined():
    confusion = np.array([[5, 3], [0, 0]])
    (scores,) = overlap_scores(confusion, LABELS[:1, :2], voxel_ml=1.0)
    assert (scores["dice"], scores["precision"], scores["recall"]) == (0, 0, None)


def test_absent_in_both_is_undefined_not_one():
    (scores,) = overlap_scores(np.array([[8, 0], [0, 0]]), LABELS[:1, :2], voxel_ml=1.0)
    assert scores == {
        "dice": None,
        "iou": None,
        "precision": None,
        "recall": None,
        "volume_ref_ml": 0.0,
        "volume_pred_ml": 0.0,
    }


def test_a_region_does_not_mind_confusion_among_its_members():
    confusion = np.array([[4, 0, 0], [0, 0, 3], [0, 5, 0]])
    whole = np.array([[False, True, True]])
    (scores,) = overlap_scores(confusion, whole, voxel_ml=1.0)
    assert scores["dice"] == 1
    assert scores["volume_ref_ml"] == 8


def test_no_regions_give_no_scores():
    assert overlap_scores(np.eye(2, dtype=int), np.zeros((0, 2), dtype=bool), 1.0) == []
