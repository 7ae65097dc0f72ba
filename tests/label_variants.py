"""Derives datasets with other kinds of labels from one with two classes, 1 and 2."""

import json
import math
import shutil

import nibabel as nib
import numpy as np

IGNORE = 3
PAINTED_SHARE = 0.7
WHOLE, ANTERIOR, POSTERIOR = 1, 2, 4

REGIONS = {"labels": {"background": 0, "whole": [1, 2], "posterior": [2]}, "order": [1, 2]}
VARIANTS = ("plain", "regions", "sparse", "sparse_regions", "structures")


def derive(source, target, variant):
    """Write a copy of the dataset ``source`` whose labels are of another kind; seeded.

    plain: as they are. regions: whole and posterior. sparse: ignore painted over 70 % of the
    slices of every case. sparse_regions: both. structures: bitmasks whole 1, anterior 2,
    posterior 4.
    """
    content = json.loads((source / "dataset.json").read_text())
    shutil.copytree(source / "imagesTr", target / "imagesTr")
    (target / "labelsTr").mkdir()
    for case, path in enumerate(sorted((source / "labelsTr").glob("*.nii.gz"))):
        image = nib.load(path)
        labels = np.asanyarray(image.dataobj).astype(np.uint8)
        if variant.startswith("sparse"):
            labels = painted(labels, np.random.default_rng(case))
        elif variant == "structures":
            labels = bitmask(labels)
        nib.save(nib.Nifti1Image(labels, image.affine), target / "labelsTr" / path.name)
    (target / "dataset.json").write_text(json.dumps(described(content, variant)))


def described(content, variant):
    """Return the dataset.json of a variant."""
    content = dict(content)
    if variant.endswith("regions"):
        content["labels"], content["regions_class_order"] = REGIONS["labels"], REGIONS["order"]
    if variant.startswith("sparse"):
        content["labels"] = {**content["labels"], "ignore": IGNORE}
    if variant == "structures":
        names = {"whole": WHOLE, "anterior": ANTERIOR, "posterior": POSTERIOR}
        content |= {"labels": {"background": 0, **names}, "label_encoding": "multilabel"}
    return content


def painted(labels, rng):
    """Ignore 70 % of the slices along the last axis, chosen at random."""
    count = labels.shape[2]
    chosen = rng.choice(count, math.ceil(PAINTED_SHARE * count), replace=False)
    labels = labels.copy()
    labels[:, :, chosen] = IGNORE
    return labels


def bitmask(labels):
    """Turn the classes 1 and 2 into overlapping structures."""
    return np.select([labels == 1, labels == 2], [WHOLE | ANTERIOR, WHOLE | POSTERIOR]).astype(
        np.uint8
    )
