"""What may not change a score: the order of declaration, the values on disk, the painting order."""

import itertools
import json

import numpy as np
import pytest

from segkit.dataset.description import load_description
from segkit.dataset.image_io import write_labels
from segkit.errors import UserError
from segkit.evaluation.scoring import METRICS, Scoring
from segkit.evaluation.summary import evaluate_folders
from segkit.types import Geometry

GEOMETRY = Geometry(spacing_mm=(3.0, 0.7, 1.1))
CLASSES = {"edema": 1, "core": 2, "tip": 3}
REGIONS = {"whole": (1, 2, 3), "inner": (2, 3), "tip": (3,)}


@pytest.fixture
def evaluate(tmp_path):
    """Return a function that writes three random cases under other values and evaluates them."""
    folders = itertools.count()

    def run(labels, values=(0, 1, 2, 3), **keys):
        folder = tmp_path / str(next(folders))
        content = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, **labels},
            "numTraining": 3,
            "file_ending": ".nii.gz",
            **keys,
        }
        rng = np.random.default_rng(0)
        for name, side in itertools.product("xyz", ("pred", "ref")):
            (folder / side).mkdir(parents=True, exist_ok=True)
            # The tip is absent in one case.
            classes = rng.integers(0, 3 if name == "y" else len(values), size=(4, 6, 5))
            raw = np.array(values, dtype=np.uint8)[classes]
            write_labels(folder / side / f"{name}.nii.gz", raw, GEOMETRY)
        (folder / "dataset.json").write_text(json.dumps(content))
        description = load_description(folder)
        scoring = Scoring(metrics=METRICS)
        return evaluate_folders(
            folder / "pred", folder / "ref", description, scoring=scoring, jobs=1
        )

    return run


def flat(summary):
    """Name every number of a summary, whatever its place."""
    numbers = {("mean", metric): value for metric, value in summary.foreground_mean.items()}
    for kind, table in (("label", summary.labels), ("region", summary.regions)):
        for name, metrics in table.items():
            for metric, found in metrics.items():
                for key in ("mean", "std", "median", "n", "undefined"):
                    numbers[kind, name, metric, key] = getattr(found, key)
    for case in summary.cases:
        for name, scores in {**case.labels, **case.regions}.items():
            numbers |= {(case.case, name, metric): score for metric, score in scores.items()}
    for why in summary.explanations:
        numbers |= {("why", why.label, key): getattr(why, key) for key in ("border", "inherited")}
    return numbers


def same(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for key, value in one.items():
        if value is None or other[key] is None:
            assert value is other[key], key
        else:
            assert value == pytest.approx(other[key], rel=1e-12, abs=1e-12), key


@pytest.mark.parametrize("order", list(itertools.permutations(CLASSES))[1:])
def test_order_of_labels(evaluate, order):
    same(evaluate(CLASSES), evaluate({name: CLASSES[name] for name in order}))


@pytest.mark.parametrize("values", [(0, 7, 200, 3), (0, 200, 7, 9), (0, 3, 1, 2)])
def test_values_on_disk(evaluate, values):
    labels = {name: values[index] for name, index in CLASSES.items()}
    same(evaluate(CLASSES), evaluate(labels, values))


def regions(names, values=(0, 1, 2, 3)):
    """Return the regions in an order, each painted with a class that no region inside it has."""
    labels = {name: [values[index] for index in REGIONS[name]] for name in names}
    return labels, [labels[name][0] for name in names]


@pytest.mark.parametrize("order", list(itertools.permutations(REGIONS))[1:])
def test_order_of_regions(evaluate, order):
    labels, paint = regions(REGIONS)
    plain = evaluate(labels, regions_class_order=paint)
    assert plain.explanations
    labels, paint = regions(order)
    if order[0] == "whole" and order[1] == "inner":
        same(plain, evaluate(labels, regions_class_order=paint))
        return
    with pytest.raises(UserError, match="hides it"):
        evaluate(labels, regions_class_order=paint)


def test_values_of_regions(evaluate):
    plain = evaluate(regions(REGIONS)[0], regions_class_order=regions(REGIONS)[1])
    values = (0, 7, 200, 3)
    labels, paint = regions(REGIONS, values)
    other = evaluate(labels, values, regions_class_order=paint)
    assert [*other.labels] == ["label_7", "label_200", "tip"]
    renamed = dict(zip(other.labels, plain.labels, strict=True))
    before = flat(plain)
    for key, value in flat(other).items():
        key = tuple(renamed.get(part, part) for part in key)
        assert before[key] is value is None or value == pytest.approx(before[key], rel=1e-12), key


def test_reversed_painting_order_is_refused_where_it_hides_a_region(evaluate):
    labels, paint = regions(REGIONS)
    with pytest.raises(UserError, match="not one of its classes"):
        evaluate(labels, regions_class_order=paint[::-1])


def test_reversed_painting_order_is_none_of_the_scores_business(evaluate):
    labels, values = {"front": [1, 2, 3], "back": [2, 3, 4]}, (0, 1, 2, 3, 4)
    same(
        evaluate(labels, values, regions_class_order=[2, 3]),
        evaluate(labels, values, regions_class_order=[3, 2]),
    )


@pytest.mark.parametrize("order", list(itertools.permutations(CLASSES))[1:])
def test_order_and_bits_of_structures(evaluate, order):
    # The maps hold all of 0..3: bits 0 and 1, of which the third structure has none.
    numbers = {"edema": 1, "core": 2, "tip": 4}
    multilabel = {"label_encoding": "multilabel"}
    plain = evaluate(numbers, **multilabel)
    same(plain, evaluate({name: numbers[name] for name in order}, **multilabel))
    # Another bit for each: 0..3 are then written as 0, 8, 2 and 10.
    moved = {"edema": 8, "core": 2, "tip": 1}
    same(plain, evaluate(moved, (0, 8, 2, 10), **multilabel))
