"""An independent implementation of the evaluation: sets of voxels and plain loops, no segkit.

A target is three sets of coordinates: where it is known, where it is true, where it is found.
"""

import itertools
import math

COUNTS = ("lesion_tp", "lesion_fp", "lesion_fn")
SHARES = ("dice", "iou", "precision", "recall", "nsd", "lesion_precision", "lesion_recall")
SHARES = (*SHARES, "lesion_f1")


def coordinates(shape):
    return list(itertools.product(*map(range, shape)))


def divide(a, b):
    return a / b if b else None


def measure(known, truth, found, spacing, *, plane=False, absent=None, surfaces=True, tolerance=1):
    """Compute every metric of one target; None where undefined.

    ``plane``: the image has one slice, so that borders are outlines.
    """
    truth, found = truth & known, found & known
    both = len(truth & found)
    scores = {
        "dice": divide(2 * both, len(truth) + len(found)),
        "iou": divide(both, len(truth | found)),
        "precision": divide(both, len(found)),
        "recall": divide(both, len(truth)),
    }
    if surfaces:
        scores |= measure_surfaces(truth, found, spacing, plane, tolerance)
    ml = math.prod(spacing) / 1000
    scores |= {"volume_ref_ml": len(truth) * ml, "volume_pred_ml": len(found) * ml}
    scores |= measure_lesions(truth, found)
    if not known:
        return dict.fromkeys(scores)
    if absent is not None and not truth and not found:
        scores |= {name: absent for name in SHARES if name in scores}
    return scores


def measure_surfaces(truth, found, spacing, plane, tolerance):
    if not (truth and found):
        return {"hd95_mm": None, "assd_mm": None, "nsd": None}
    a, b = border(truth, plane), border(found, plane)
    there = [min(distance(p, q, spacing) for q in b) for p in a]
    back = [min(distance(p, q, spacing) for q in a) for p in b]
    near = sum(d <= tolerance + 1e-5 for d in there + back)
    return {
        "hd95_mm": max(percentile_95(there), percentile_95(back)),
        "assd_mm": sum(there + back) / len(there + back),
        "nsd": near / len(there + back),
    }


def border(voxels, plane):
    """Voxels with a face neighbour outside; a plane has no neighbours along z."""
    steps = [(0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0)]
    steps += [] if plane else [(1, 0, 0), (-1, 0, 0)]
    return [
        (z, y, x)
        for z, y, x in voxels
        if any((z + dz, y + dy, x + dx) not in voxels for dz, dy, dx in steps)
    ]


def distance(p, q, spacing):
    return math.sqrt(sum(((a - b) * s) ** 2 for a, b, s in zip(p, q, spacing, strict=True)))


def percentile_95(values):
    values = sorted(values)
    place = 0.95 * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def measure_lesions(truth, found):
    tp = sum(bool(lesion & found) for lesion in lesions(truth))
    fn = len(lesions(truth)) - tp
    fp = sum(not lesion & truth for lesion in lesions(found))
    return {
        **dict(zip(COUNTS, (tp, fp, fn), strict=True)),
        "lesion_precision": divide(tp, tp + fp),
        "lesion_recall": divide(tp, tp + fn),
        "lesion_f1": divide(2 * tp, 2 * tp + fp + fn),
    }


def lesions(voxels):
    """Split voxels into groups that touch by a face, an edge or a corner."""
    left, groups = set(voxels), []
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            z, y, x = edge.pop()
            group.add((z, y, x))
            around = {
                (z + dz, y + dy, x + dx) for dz, dy, dx in itertools.product((-1, 0, 1), repeat=3)
            }
            edge += around & left
            left -= around
        groups.append(group)
    return groups
