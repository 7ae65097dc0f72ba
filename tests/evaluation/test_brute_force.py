"""Random data sets, evaluated by segkit and by the plain loops of ``brute_force``."""

import json
import math
from dataclasses import dataclass

import brute_force
import nibabel as nib
import numpy as np
import pytest

from segkit.cli.main import main
from segkit.dataset.labels import LabelSchema
from segkit.dataset.structures import encode_structures
from segkit.evaluation.scoring import METRICS, Scoring
from segkit.evaluation.targets import score_case
from segkit.types import Geometry

KINDS = ("labels", "regions", "bitmask", "masks")
CLASSES = {"a": 7, "b": 200, "c": 3}
REGIONS = {"whole": [7, 200, 3], "core": [3, 200], "c": 3}
STRUCTURES = {"a": 1, "b": 8, "c": 2}
"""Bits 0, 3 and 1; bit 2 belongs to nobody."""
NUMBERS = {"a": 1, "b": 2, "c": 3}
"""Among separate masks every place is taken."""
MADE_FROM = {
    "labels": {"labels": {"background": 0, **CLASSES, "ignore": 255}},
    "regions": {
        "labels": {"background": 0, **REGIONS},
        "regions_class_order": [7, 200, 3],
        "ignore_label": [254, 255],
    },
    "bitmask": {
        "labels": {"background": 0, **STRUCTURES, "ignore": 128},
        "label_encoding": "multilabel",
    },
    "masks": {"labels": {"background": 0, **NUMBERS}, "label_encoding": "multilabel"},
}
IGNORED = {"labels": (255, -1), "regions": (254, 255, -1), "bitmask": (128, -1), "masks": (-1,)}


@dataclass
class Drawn:
    """A random case: what is on disk, (1 or 3, Z, Y, X), and what else is known of it."""

    ref: np.ndarray
    pred: np.ndarray
    mask: np.ndarray
    unannotated: tuple
    spacing: tuple


def draw(kind, seed):
    """Draw a case in which classes are often absent, some voxels or all of them ignored."""
    rng = np.random.default_rng(seed)
    shape = (3 if kind == "masks" else 1, *rng.integers(1, 7, size=3))
    values = {"bitmask": [0, 1, 8, 2, 3, 11, 9], "masks": [0, 1]}.get(kind, [0, 7, 200, 3])
    values = np.array(values)[rng.random(len(values)) < 0.7]
    values = np.append(values, 0) if rng.random() < 0.9 or not len(values) else values
    ref, other = (rng.choice(values, size=shape) for _ in range(2))
    pred = np.where(rng.random(shape) < rng.random(), ref, other)
    unknown = rng.random(shape) < rng.choice([0, 0.2, 0.7, 1], p=[0.4, 0.3, 0.25, 0.05])
    ref = np.where(unknown, rng.choice(IGNORED[kind], size=shape), ref)
    pred = np.where(rng.random(shape) < 0.1, -1, pred)
    partly = kind in ("bitmask", "masks") and rng.random() < 0.5
    return Drawn(
        ref=ref.astype(np.int16),
        pred=pred.astype(np.int16),
        mask=rng.random(shape[1:]) < rng.choice([0.6, 1.0]),
        unannotated=tuple(n for n in "abc" if partly and rng.random() < 0.4),
        spacing=tuple(rng.choice([0.5, 1.0, 2.5], size=3).tolist()),
    )


def expected(kind, case, **choices):
    """Score a drawn case by brute force: labels and regions."""
    choices["plane"] = case.mask.shape[0] == 1
    labels, regions = {}, {}
    for name in "abc":
        if kind == "masks":
            sets = select(case, lambda v: v == 1, channel=NUMBERS[name] - 1)
        elif kind == "bitmask":
            bit = STRUCTURES[name]
            sets = select(case, lambda v, bit=bit: v > 0 and v // bit % 2 == 1, IGNORED[kind])
        else:
            sets = select(case, lambda v, value=CLASSES[name]: v == value, IGNORED[kind])
        known = set() if name in case.unannotated else sets[0]
        name = f"label_{CLASSES[name]}" if kind == "regions" and name != "c" else name
        labels[name] = brute_force.measure(known, *sets[1:], case.spacing, **choices)
    for name, members in REGIONS.items() if kind == "regions" else ():
        members = members if isinstance(members, list) else [members]
        sets = select(case, lambda v, members=members: v in members, IGNORED[kind])
        regions[name] = brute_force.measure(*sets, case.spacing, **choices)
    return labels, regions


def select(case, belongs, ignored=(-1,), channel=0):
    """Return the coordinates that are known, true, and found."""
    everywhere = brute_force.coordinates(case.mask.shape)
    ref = {p: int(case.ref[(channel, *p)]) for p in everywhere}
    return (
        {p for p in everywhere if case.mask[p] and ref[p] not in ignored},
        {p for p in everywhere if belongs(ref[p])},
        {p for p in everywhere if belongs(int(case.pred[(channel, *p)]))},
    )


def encode(kind, case, schema):
    """Turn a drawn case into schema indices, as if it had been read."""
    if not schema.overlapping:
        ref, pred = schema.encode(case.ref), schema.encode(case.pred)
    else:
        ref, pred = encode_structures(case.ref, schema), encode_structures(case.pred, schema)
        ref[[name in case.unannotated for name in "abc"]] = schema.ignore_index
    return np.where(case.mask, ref, schema.ignore_index), pred


def agree(found, wanted):
    assert found.keys() == wanted.keys()
    for name, scores in wanted.items():
        assert found[name].keys() == scores.keys()
        for metric, score in scores.items():
            value = found[name][metric]
            same = value is score if None in (value, score) else math.isclose(value, score)
            assert same, (name, metric, value, score)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", range(5))
def test_25_random_cases(kind, block):
    """500 cases in all; surfaces are measured in every fifth."""
    made_from = MADE_FROM[kind]
    schema = LabelSchema.from_description(made_from["labels"], made_from)
    start = 1000 * KINDS.index(kind) + 25 * block
    for seed in range(start, start + 25):
        case = draw(kind, seed)
        surfaces = seed % 5 == 0
        metrics = tuple(m for m in METRICS if surfaces or m not in ("hd95_mm", "assd_mm", "nsd"))
        absent = (None, 1.0, 0.25)[seed % 3]
        labels, regions = score_case(
            *encode(kind, case, schema),
            Geometry(spacing_mm=case.spacing),
            schema,
            Scoring(metrics=metrics, absent_score=absent),
        )
        wanted = expected(kind, case, absent=absent, surfaces=surfaces)
        agree(labels, wanted[0])
        agree(regions, wanted[1])


def write(path, array, spacing):
    """Write (1 or 3, Z, Y, X) as NIfTI; several masks along the last axis."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = array.transpose(3, 2, 1, 0)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    nib.save(nib.Nifti1Image(axes if len(array) > 1 else axes[..., 0], affine), path)


def write_dataset(folder, kind, cases, labels="labelsTr"):
    """Write labels, masks, predictions and dataset.json."""
    for name, case in cases.items():
        write(folder / f"{labels}/{name}.nii.gz", case.ref, case.spacing)
        write(folder / f"masksTr/{name}.nii.gz", case.mask[None].astype(np.uint8), case.spacing)
        write(folder / f"pred/{name}.nii.gz", case.pred, case.spacing)
    content = {
        "channel_names": {"0": "CT"},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        **MADE_FROM[kind],
    }
    if "label_encoding" in content:
        unannotated = {name: list(case.unannotated) for name, case in cases.items()}
        content["unannotated"] = {name: names for name, names in unannotated.items() if names}
    (folder / "dataset.json").write_text(json.dumps(content))


def strict(path):
    """Parse JSON; NaN, infinity and keys that occur twice are refused."""

    def no_constant(name):
        raise AssertionError(name)

    def no_doubles(pairs):
        assert len({key for key, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    text = path.read_text(encoding="utf-8")
    return json.loads(text, parse_constant=no_constant, object_pairs_hook=no_doubles)


def run(folder, labels, *options):
    """Run the command with all metrics; returns summary.json."""
    done = main(
        [
            *("evaluate", "-p", str(folder / "pred"), "-r", str(folder / labels)),
            *("-d", str(folder / "dataset.json"), "-o", str(folder / "out"), "-j", "1", "-q"),
            *("--metrics", *METRICS, *options),
        ]
    )
    assert done == 0
    return strict(folder / "out/summary.json")


def mean(values):
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def check_cases(summary, wanted):
    assert [case["case"] for case in summary["cases"]] == list(wanted)
    for case in summary["cases"]:
        labels, regions = wanted[case["case"]]
        agree(case["labels"], labels)
        agree(case["regions"], regions)


def check_statistics(table, cases):
    """Compare the statistics of every target with what the cases' scores give."""
    for name, metrics in table.items():
        for metric, statistics in metrics.items():
            values = [case[name][metric] for case in cases]
            assert statistics["mean"] == pytest.approx(mean(values)), (name, metric)
            assert statistics["undefined"] == values.count(None)
            assert statistics["n"] + values.count(None) == len(cases)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("absent", [None, 1.0])
def test_the_command_on_files(kind, absent, tmp_path, capsys):
    """The masks are found beside labelsTr; for labels elsewhere they are named."""
    labels, options = "labelsTr", ()
    if absent is not None:
        labels = "labelsTs"
        options = ("--absent-score", str(absent), "--masks", str(tmp_path / "masksTr"))
    cases = {f"case_{seed}": draw(kind, seed) for seed in range(5000, 5020)}
    write_dataset(tmp_path, kind, cases, labels)
    summary = run(tmp_path, labels, *options)
    wanted = {name: expected(kind, case, absent=absent) for name, case in cases.items()}
    check_cases(summary, wanted)
    check_statistics(summary["labels"], [labels for labels, _ in wanted.values()])
    check_statistics(summary["regions"], [regions for _, regions in wanted.values()])
    targets = summary["regions"] or summary["labels"]
    for metric, value in summary["foreground_mean"].items():
        means = [statistics[metric]["mean"] for statistics in targets.values()]
        assert value == pytest.approx(mean(means))
    assert summary["absent_score"] == absent
    assert ("counts as 1" in capsys.readouterr().out) == (absent is not None)
