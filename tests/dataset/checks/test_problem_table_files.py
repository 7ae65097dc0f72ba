"""Every problem of files, geometry and voxels: what is done to a good data set, what is told."""

import gzip
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from tiny_dataset import (
    SHAPE,
    describe,
    labels_of,
    noise,
    put_image,
    put_label_folder,
    put_labels,
    put_mask,
    write_dataset,
    write_itk,
)

from segkit.dataset.cases import images_to_predict, training_cases
from segkit.dataset.description import load_description
from segkit.dataset.label_files import read_annotation
from segkit.dataset.problems import CODES
from segkit.dataset.validation import validate_dataset
from segkit.errors import UserError

ONE = labels_of(1)
BOTH = labels_of(1, 2)
TWO_MASKS = np.stack([labels_of(1), labels_of(0, 1)])
BITS = {"background": 0, **{f"s{value}": value for value in (1, 2, 4, 8)}}
NUMBERS = {"background": 0, **{f"s{value}": value for value in (1, 2, 3, 4)}}
MULTILABEL = {"label_encoding": "multilabel"}
ENTRY = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
MIRRORED = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
FLIPPED = (-1, 0, 0, 0, 1, 0, 0, 0, 1)


def rename_case(folder, case, name):
    """Give a case another name, in both folders."""
    image, label = folder / "imagesTr" / f"{case}_0000.nii.gz", folder / "labelsTr"
    image.rename(image.with_name(f"{name}_0000.nii.gz"))
    (label / f"{case}.nii.gz").rename(label / f"{name}.nii.gz")


def rename(folder, name, other):
    (folder / name).rename(folder / other)


def explicit(folder, **changes):
    describe(folder, numTraining=1, dataset={"first": ENTRY | changes})


def copy_image(folder, case, other):
    """Store a case's voxels again as another case's, compressed differently."""
    image = nib.load(folder / "imagesTr" / f"{case}_0000.nii.gz")
    path = folder / "imagesTr" / f"{other}_0000.nii"
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine), path)
    path.with_suffix(".nii.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    path.unlink()


def contradict(folder, case):
    """Shift the sform of an image by 3 mm; the qform stays."""
    path = folder / "imagesTr" / f"{case}_0000.nii.gz"
    image = nib.load(path)
    data, affine = np.asanyarray(image.dataobj), image.affine.copy()
    changed = nib.Nifti1Image(data, affine)
    changed.set_qform(affine, 1)
    affine[0, 3] += 3
    changed.set_sform(affine, 1)
    nib.save(changed, path)


def restore(folder, name, code):
    """Store a file again in another orientation, at the same place, through nibabel."""
    image = nib.load(folder / name)
    here = nib.orientations.io_orientation(image.affine)
    there = nib.orientations.axcodes2ornt(tuple(code))
    turned = image.as_reoriented(nib.orientations.ornt_transform(here, there))
    voxels = np.asanyarray(turned.dataobj).copy()
    nib.save(nib.Nifti1Image(voxels, turned.affine), folder / name)


def structures(folder, *, masks=(), folders=(), **changes):
    """Declare overlapping structures; some cases are stored as masks or as folders."""
    describe(folder, **MULTILABEL, **changes)
    for case in masks:
        put_labels(folder, case, TWO_MASKS)
    for case in folders:
        put_label_folder(folder, case, liver=TWO_MASKS[0], tumour=TWO_MASKS[1])


def splits(folder, *folds):
    content = [{"train": train, "val": val} for train, val in folds]
    (folder / "splits_final.json").write_text(json.dumps(content))


def colour(folder):
    """Turn all into PNG, the images in colour."""
    for path in [*folder.glob("*Tr/*.nii.gz")]:
        path.unlink()
    describe(folder, file_ending=".png", labels={"background": 0, "liver": 1}, numTraining=1)
    picture = np.random.default_rng(0).integers(1, 255, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "imagesTr" / "a_0000.png")
    Image.fromarray((picture[..., 0] > 99).astype(np.uint8)).save(folder / "labelsTr" / "a.png")


def plane(folder, case, kind="image"):
    put = put_image if kind == "image" else put_labels
    put(folder, case, noise((5, 6)) if kind == "image" else BOTH[0])


def darken(folder):
    image = noise()
    image[0] = 0
    put_image(folder, "a", image)
    put_labels(folder, "a", BOTH)


def everywhere(folder, array):
    for case in "abc":
        put_labels(folder, case, array)


def with_value(value, array=BOTH, dtype=np.float32):
    changed = array.astype(dtype)
    changed.flat[-1] = value
    return changed


TABLE = [
    # code, severity, text, what is done to a good data set, other codes that come with it
    ("SK-F001", "error", "labelsTr: the folder is", lambda d: rename(d, "labelsTr", "labels"), ""),
    ("SK-F002", "error", "no file ends with .nrrd; there are .nii.gz",
     lambda d: describe(d, file_ending=".nrrd"), ""),
    ("SK-F003", "error", "rename it to a_0000.nii.gz",
     lambda d: rename(d, "imagesTr/a_0000.nii.gz", "imagesTr/a.nii.gz"), "SK-F007"),
    ("SK-F004", "error", "channel 1 (PET) is missing",
     lambda d: describe(d, channel_names={"0": "CT", "1": "PET"}), ""),
    ("SK-F004", "error", "dataset.json, key dataset: images lists 1 path, channel_names 2",
     lambda d: describe(d, channel_names={"0": "CT", "1": "PET"}, dataset={"first": ENTRY}), ""),
    ("SK-F005", "error", "images lists 2 paths, channel_names 1 | list one path a channel",
     lambda d: explicit(d, images=ENTRY["images"] * 2), ""),
    ("SK-F005", "error", "declares no channel 1", lambda d: put_image(d, "a", noise(), 1), ""),
    ("SK-F006", "error", "the images have no label file",
     lambda d: (d / "labelsTr/a.nii.gz").unlink(), ""),
    ("SK-F006", "error", "rename a_0000.nii.gz to a.nii.gz; labels have no channel number",
     lambda d: rename(d, "labelsTr/a.nii.gz", "labelsTr/a_0000.nii.gz"), ""),
    ("SK-F006", "error", "rename A.nii.gz to a.nii.gz; upper and lower case",
     lambda d: rename(d, "labelsTr/a.nii.gz", "labelsTr/A.nii.gz"), ""),
    ("SK-F006", "error", r"accents are stored differently: 'e\u0301', which should be '\xe9'",
     lambda d: (rename_case(d, "a", "\u00e9"),
                rename(d, "labelsTr/\u00e9.nii.gz", "labelsTr/e\u0301.nii.gz")), ""),
    ("SK-F006", "error", "twice: rename a_0000_0000.nii.gz to a_0000.nii.gz",
     lambda d: rename(d, "imagesTr/a_0000.nii.gz", "imagesTr/a_0000_0000.nii.gz"), "SK-F018"),
    ("SK-F006", "error", 'write "label_encoding": "multilabel"',
     lambda d: put_label_folder(d, "a", liver=ONE, tumour=ONE), ""),
    ("SK-F006", "error", "convert a.nii to a.nii.gz",
     lambda d: rename(d, "labelsTr/a.nii.gz", "labelsTr/a.nii"), "SK-F009"),
    ("SK-F007", "warning", "the label file has no image", lambda d: put_labels(d, "d", BOTH), ""),
    ("SK-F008", "warning", "numTraining is 5; 3 cases", lambda d: describe(d, numTraining=5), ""),
    ("SK-F009", "warning", "1 files do not end with .nii.gz, such as notes.txt",
     lambda d: (d / "imagesTr/notes.txt").write_text("x"), ""),
    ("SK-F009", "warning", "rename them to end with .nii.gz",
     lambda d: write_itk(d / "labelsTr/d.nii.gz", BOTH).rename(d / "labelsTr/d.NII.GZ"), ""),
    ("SK-F010", "error", "the file is empty (0 bytes)",
     lambda d: (d / "imagesTr/a_0000.nii.gz").write_bytes(b""), ""),
    ("SK-F010", "error", "not a readable NIfTI file",
     lambda d: (d / "labelsTr/a.nii.gz").write_bytes(b"broken"), ""),
    ("SK-F010", "error", "the file is truncated",
     lambda d: os.truncate(put_image(d, "a", noise((20, 20, 20))), 20000), ""),
    ("SK-F010", "error", "not a readable NIfTI file",
     lambda d: put_mask(d, "a", ONE).write_bytes(b"broken"), ""),
    ("SK-F010", "error", "a link to a file that does not exist",
     lambda d: (d / "imagesTr/d_0000.nii.gz").symlink_to("nowhere"), ""),
    ("SK-F010", "error", "the file holds no voxels",
     lambda d: nib.save(nib.Nifti1Image(np.zeros((0, 5, 4), np.uint8), np.eye(4)),
                        d / "labelsTr/a.nii.gz"), ""),
    ("SK-F010", "error", "the path cannot be looked at: File name too long",
     lambda d: explicit(d, label="a/" * 3000), ""),
    ("SK-F011", "error", "nowhere.nii.gz: the file does not exist",
     lambda d: explicit(d, label="nowhere.nii.gz"), ""),
    ("SK-F011", "error", "mask.nii.gz: the file does not exist",
     lambda d: explicit(d, mask="mask.nii.gz"), ""),
    ("SK-F011", "error", "this is a folder, not a file",
     lambda d: explicit(d, label="labelsTr"), ""),
    ("SK-F012", "error", "the case has 3 channels; dataset.json declares 1", colour, ""),
    ("SK-F012", "error", "the file holds 3 masks; labels declares 2",
     lambda d: (structures(d), put_labels(d, "a", np.stack([ONE, ONE, ONE]))), ""),
    ("SK-F012", "error", "the file holds 2 channels; dataset.json declares 3",
     lambda d: (describe(d, channel_names={"0": "x", "1": "y", "2": "z"}),
                [put_image(d, case, noise((2, *SHAPE))) for case in "abc"]), ""),
    ("SK-F015", "error", "a file whose name begins with a dot is not read",
     lambda d: rename_case(d, "a", ".a"), ""),
    ("SK-F015", "error", "the case name 'x/a' cannot be used: it would lead into another folder",
     lambda d: describe(d, dataset={"x/a": {"images": ["imagesTr/a_0000.nii.gz"],
                                             "label": "labelsTr/a.nii.gz"}}), ""),
    ("SK-F015", "error", "up to 200 can be used", lambda d: rename_case(d, "a", "a" * 201), ""),
    ("SK-F015", "error", "not valid UTF-8", lambda d: rename_case(d, "a", "a\udcff"), ""),
    ("SK-F016", "warning", "take the case name '-a' for an option",
     lambda d: rename_case(d, "a", "-a"), ""),
    ("SK-F016", "warning", "for example to a_b", lambda d: rename_case(d, "a", "a:b"), ""),
    ("SK-F016", "warning", "holds '\\n'", lambda d: rename_case(d, "a", "a\nb"), ""),
    ("SK-F016", "warning", "'a ' ends with ' '", lambda d: rename_case(d, "a", "a "), ""),
    ("SK-F016", "warning", "Windows keeps the case name 'aux'",
     lambda d: rename_case(d, "a", "aux"), ""),
    ("SK-F017", "warning", "'B' and 'b' differ only", lambda d: rename_case(d, "a", "B"), ""),
    ("SK-F018", "warning", "the channel number stands twice in a_0000_0000",
     lambda d: rename_case(d, "a", "a_0000"), ""),
    ("SK-F019", "error", "'b_seg' would overwrite the preprocessed files of 'b'",
     lambda d: rename_case(d, "a", "b_seg"), ""),
    ("SK-F020", "warning", "the mask has no image", lambda d: put_mask(d, "d", ONE), ""),
    ("SK-F020", "warning", "rename it to a.nii.gz", lambda d: put_mask(d, "a_0000", ONE), ""),
    ("SK-F020", "warning", "rename it to a.nii.gz; upper and lower case make a difference",
     lambda d: put_mask(d, "A", ONE), ""),
    ("SK-F021", "error", "the labels of a are also in the folder",
     lambda d: (structures(d, folders="a"), put_labels(d, "a", BOTH)), "SK-F024"),
    ("SK-F022", "error", "rename Tumour to tumour",
     lambda d: (structures(d), put_label_folder(d, "a", liver=ONE, Tumour=ONE)),
     "SK-F023 SK-F024"),
    ("SK-F022", "error", 'or name it under "unannotated"',
     lambda d: (structures(d), put_label_folder(d, "a", liver=ONE)), "SK-F024"),
    ("SK-F022", "error", "there is no file of any structure",
     lambda d: (structures(d, unannotated={"a": ["liver", "tumour"]}),
                put_label_folder(d, "a", spleen=ONE)), "SK-F023"),
    ("SK-F023", "warning", "1 files are named after no structure: spleen",
     lambda d: (structures(d, folders="abc"), put_label_folder(d, "a", spleen=ONE)), ""),
    ("SK-F024", "warning", "masks in one file: a; one integer a voxel: b; a folder of masks: c | "
     "predictions are written like the labels of a, the first case",
     lambda d: structures(d, masks="a", folders="c"), ""),
    ("SK-F025", "error", "there is no case 'case_b' | did you mean 'case_a'?",
     lambda d: (rename_case(d, "a", "case_a"),
                structures(d, unannotated={"case_b": ["liver"]})), ""),
    ("SK-F026", "error", "63 structures do not fit into one integer a voxel (at most 62) | store "
     "one mask a structure, in one file or in a folder; is each voxel of one class only, then",
     lambda d: structures(d, labels={"background": 0, **{f"s{i}": i for i in range(1, 64)}}), ""),
    ("SK-F026", "error", "the ignore value 3 is also the bitmask of a combination of structures",
     lambda d: structures(d, ignore_label=3), ""),
    ("SK-F027", "warning", "1 masks are not named in the explicit case list, such as a.nii.gz",
     lambda d: (explicit(d), put_mask(d, "a", ONE)), ""),
    ("SK-F028", "error", "the files of 'liver': liver.nii, liver.nii.gz | keep one",
     lambda d: (structures(d, folders="abc"), write_itk(d / "labelsTr/a/liver.nii", ONE)), ""),
    ("SK-F029", "error", "splits_final.json: fold 0: in train and in val: b",
     lambda d: splits(d, (["a", "b"], ["b"]), (["zebra"], [])), "SK-F030"),
    ("SK-F029", "error", "fold 1: train or val is missing, empty or malformed",
     lambda d: splits(d, (["a", "b"], ["c"]), (["a"], [])), ""),
    ("SK-F029", "error", "expected a list of folds", splits, ""),
    ("SK-F029", "error", "not valid JSON",
     lambda d: (d / "splits_final.json").write_text("[{"), ""),
    ("SK-F030", "error", "unknown cases: y, z (2 in all)",
     lambda d: splits(d, (["a", "b"], ["c"]), (["a"], ["z"]), (["y"], [])), "SK-F029"),
    ("SK-F031", "warning", "cases in no fold: c (1 in all)", lambda d: splits(d, (["a"], ["b"])),
     ""),
    ("SK-F032", "warning", "1 cases validate more than one fold: c",
     lambda d: splits(d, (["a"], ["b", "c"]), (["b"], ["a", "c"])), ""),
    ("SK-G001", "error", "shape (3, 5, 6) (z, y, x) differs from (4, 5, 6)",
     lambda d: put_labels(d, "a", BOTH[:3]), ""),
    ("SK-G001", "error", "the axes are in another order",
     lambda d: put_labels(d, "a", BOTH.T.copy()), ""),
    ("SK-G001", "error", "shape (3, 5, 6)", lambda d: put_mask(d, "a", BOTH[:3]), ""),
    ("SK-G001", "error", "a_0001.nii.gz: shape (3, 5, 6)",
     lambda d: (describe(d, channel_names={"0": "T1", "1": "T2"}),
                [put_image(d, case, noise(seed=7), 1) for case in "bc"],
                put_image(d, "a", noise()[:3], 1)), "SK-V010"),
    ("SK-G001", "error", "tumour.nii.gz: shape (3, 5, 6)",
     lambda d: (structures(d, folders="abc"), put_label_folder(d, "a", tumour=ONE[:3])), ""),
    ("SK-G002", "error", "by more than 0.001 of itself",
     lambda d: put_labels(d, "a", BOTH, spacing=(1.0, 1.0, 3.0)), ""),
    ("SK-G003", "warning", "the origin lies 5 voxels from that of a_0000.nii.gz (tolerance 0.01)",
     lambda d: put_labels(d, "a", BOTH, origin=(5.0, 0.0, 0.0)), ""),
    ("SK-G003", "warning", "(tolerance 0.01); the two do not overlap in space at all",
     lambda d: put_labels(d, "a", BOTH, origin=(6.1, 0.0, 0.0)), ""),
    ("SK-G004", "warning", "tolerance 0.001)",
     lambda d: put_labels(d, "a", BOTH, direction=MIRRORED), ""),
    ("SK-G005", "warning", "cases are stored in 2 orientations (LPS 2, RAS 1)",
     lambda d: (put_labels(d, "a", BOTH, direction=MIRRORED),
                put_image(d, "a", noise(), direction=MIRRORED)), ""),
    ("SK-G006", "error", "4D: the case has 2 volumes; dataset.json declares 1",
     lambda d: put_image(d, "a", noise((2, *SHAPE))), ""),
    ("SK-G006", "error", 'are they masks of structures, then write "label_encoding"',
     lambda d: put_labels(d, "a", TWO_MASKS), ""),
    ("SK-G006", "error", "a ROI mask has one channel; this file holds 2 | store one mask a case; "
     "masks of structures belong into labelsTr", lambda d: put_mask(d, "a", TWO_MASKS), ""),
    ("SK-G006", "error", "a plane (2D), while a_0000.nii.gz is a volume (3D)",
     lambda d: plane(d, "a", "labels"), ""),
    ("SK-G006", "error", "a single slice stored in 3D", lambda d: put_labels(d, "a", BOTH[:1]), ""),
    ("SK-G006", "error", "2 cases are 3D and 1 are 2D: a",
     lambda d: (plane(d, "a"), plane(d, "a", "labels")), ""),
    ("SK-G007", "warning", "one voxel up to 3 voxels apart (tolerance 0.1); the sform is used",
     lambda d: contradict(d, "a"), "SK-G003"),
    ("SK-G008", "error", "labelsTr/a.nii.gz: stored as RPS, while a_0000.nii.gz is stored as LPS; "
     "both cover the same points in space | reorient the file onto the image",
     lambda d: put_labels(d, "a", BOTH[..., ::-1], origin=(5, 0, 0), direction=FLIPPED), ""),
    ("SK-G008", "error", "labelsTr/a.nii.gz: stored as SAL, while a_0000.nii.gz is stored as LPS",
     lambda d: restore(d, "labelsTr/a.nii.gz", "SAL"), ""),
    ("SK-G008", "error", "masksTr/a.nii.gz: stored as LAS",
     lambda d: (put_mask(d, "a", ONE), restore(d, "masksTr/a.nii.gz", "LAS")), ""),
    ("SK-G008", "error", "tumour.nii.gz: stored as PLS",
     lambda d: (structures(d, folders="abc"), restore(d, "labelsTr/a/tumour.nii.gz", "PLS")), ""),
    ("SK-G008", "error", "labelsTr/a.nii.gz: stored as PLS",
     lambda d: (structures(d, masks="abc"), restore(d, "labelsTr/a.nii.gz", "PLS")), ""),
    ("SK-G008", "error", "a_0001.nii.gz: stored as IRA",
     lambda d: (describe(d, channel_names={"0": "T1", "1": "T2"}),
                [put_image(d, case, noise(seed=ord(case)), 1) for case in "abc"],
                restore(d, "imagesTr/a_0001.nii.gz", "IRA")), ""),
    ("SK-V001", "error", "1 of 120 voxels are NaN or infinite",
     lambda d: put_image(d, "a", with_value(np.nan, noise())), ""),
    ("SK-V001", "error", "1 label voxels are NaN or infinite",
     lambda d: put_labels(d, "a", with_value(np.inf)), ""),
    ("SK-V002", "error", "fractional values: 0.5 (1 voxels)",
     lambda d: put_labels(d, "a", with_value(0.5)), ""),
    ("SK-V003", "error", "undeclared values: 7 (1 voxels)",
     lambda d: put_labels(d, "a", with_value(7)), ""),
    ("SK-V003", "error", 'if 255 marks voxels that nobody annotated, add "ignore_label": 255',
     lambda d: put_labels(d, "a", with_value(255)), ""),
    ("SK-V003", "error", "saved as 0 and 255: replace 255 by 1",
     lambda d: (describe(d, labels={"background": 0, "liver": 1}), everywhere(d, ONE * 255)),
     "SK-V006"),
    ("SK-V003", "error", "undeclared values: 9 (1 voxels), 15 (1 voxels) | are these bitmasks of "
     'structures that overlap? then add "label_encoding": "multilabel" in dataset.json; else',
     lambda d: (describe(d, labels=BITS), everywhere(d, labels_of(1, 2, 4, 8, 9, 15))), ""),
    ("SK-V003", "error", "16 (1 voxels) | declare them under labels, or correct the file",
     lambda d: (describe(d, labels=BITS), everywhere(d, labels_of(1, 2, 4, 8, 9, 16))), ""),
    ("SK-V003", "error", "undeclared bits: 4 (2 voxels), 8 (1 voxels) | declare every bit under "
     "labels, or correct the file; declared bits: 1 liver, 2 tumour",
     lambda d: (structures(d), put_labels(d, "a", labels_of(3, 5, 15))), ""),
    ("SK-V003", "error", "undeclared bits: 1048576 (1 voxels)",
     lambda d: (structures(d), put_labels(d, "a", with_value(2**20, dtype=np.int32))), ""),
    ("SK-V003", "error", "undeclared values: -7 (1 voxels)",
     lambda d: (structures(d), put_labels(d, "a", with_value(-7, dtype=np.int16))), ""),
    ("SK-V003", "error", "mask of tumour: undeclared values: 255 (1 voxels) | the mask was saved",
     lambda d: (structures(d, masks="bc"), put_labels(d, "a", np.stack([ONE, ONE * 255]))), ""),
    ("SK-V003", "error", "declare the structure of this place",
     lambda d: (structures(d, labels={"background": 0, "liver": 1, "tumour": 4}),
                everywhere(d, np.stack([ONE, ONE, ONE]))), ""),
    ("SK-V004", "warning", "all label voxels are background",
     lambda d: put_labels(d, "a", labels_of()), ""),
    ("SK-V004", "warning", "all label voxels are background",
     lambda d: (structures(d, masks="abc"), put_labels(d, "a", TWO_MASKS * 0)), ""),
    ("SK-V005", "warning", "all voxels are 3",
     lambda d: put_image(d, "a", np.full(SHAPE, 3, np.int16)), ""),
    ("SK-V006", "warning", "tumour (2) occurs in no label file", lambda d: everywhere(d, ONE), ""),
    ("SK-V006", "warning", "tumour (2) occurs in no label file",
     lambda d: (structures(d), everywhere(d, ONE)), ""),
    ("SK-V006", "warning", "tumour (2) occurs in no case in which it is annotated",
     lambda d: (structures(d, unannotated={"a": ["tumour"]}), everywhere(d, ONE),
                put_labels(d, "a", BOTH)), "SK-V012"),
    ("SK-V007", "warning", "label values were not checked",
     lambda d: describe(d, labels={"background": 0, "liver": "one"}), "SK-D024"),
    ("SK-V008", "warning", "1 label voxels are -1; they are read as ignore",
     lambda d: put_labels(d, "a", with_value(-1, dtype=np.int16)), ""),
    ("SK-V009", "warning", "33.333% of the labelled voxels (2 of 6, in 1 cases, most in a: 2) lie "
     "where every channel is exactly 0, connected to the outside of the image (limit 0.01%)",
     darken, ""),
    ("SK-V010", "warning", "the cases a, b have the same image voxel by voxel",
     lambda d: copy_image(d, "a", "b"), ""),
    ("SK-V011", "warning", "the mask is 0 everywhere", lambda d: put_mask(d, "a", ONE * 0), ""),
    ("SK-V011", "warning", "every voxel is ignored",
     lambda d: (describe(d, ignore_label=9), put_labels(d, "a", np.full(SHAPE, 9, np.uint8))), ""),
    ("SK-V011", "warning", "every voxel inside the mask is ignored",
     lambda d: (describe(d, ignore_label=9), put_labels(d, "a", labels_of(9, 1)),
                put_mask(d, "a", ONE)), ""),
    ("SK-V012", "warning", "liver is named as not annotated, but has 1 voxels",
     lambda d: structures(d, unannotated={"a": ["liver"]}), ""),
    ("SK-V013", "warning", "no value above 3 occurs, and labels declares the numbers 1 to 4: the "
     "files look like one class a voxel. Read as bitmasks, as label_encoding says, they hold no "
     "voxel of s3, s4 | if each voxel is of one class, delete label_encoding",
     lambda d: (structures(d, labels=NUMBERS), everywhere(d, labels_of(1, 3)),
                put_labels(d, "a", labels_of(2))), ""),
]  # fmt: skip

PREDICTION = [
    # code, text, what lies beside the training images
    ("SK-F002", "no file ends with", lambda d: [d / "dataset"]),
    ("SK-F011", "not found", lambda d: [d / "nowhere"]),
    ("SK-F013", "channel 0 of case a is also", lambda d: [d / "imagesTr", d / "twins"]),
    ("SK-F014", "convert it to .nii.gz", lambda d: [d / "dataset.json"]),
]


@pytest.mark.parametrize(("code", "severity", "text", "break_it", "others"), TABLE)
def test_problem(tmp_path, code, severity, text, break_it, others):
    folder = write_dataset(tmp_path / "Dataset007_Toy")
    break_it(folder)
    report = validate_dataset(folder, jobs=1)
    assert {found.code for found in report.problems} == {code, *others.split()}
    told = [found for found in report.problems if found.code == code]
    assert {found.severity for found in told} == {severity}
    assert any(text in f"{found.where}: {found.message} | {found.fix}" for found in told)
    assert all(found.where and found.fix for found in told)
    json.dumps(report.to_json(), allow_nan=False, ensure_ascii=False).encode()
    str(report).encode()
    if report.ok:
        description = load_description(folder)
        for case in training_cases(description):
            read_annotation(case, description.labels, description.reader)


@pytest.mark.parametrize(("code", "text", "given"), PREDICTION)
def test_problem_of_what_is_to_be_predicted(dataset, code, text, given):
    shutil.copytree(dataset / "imagesTr", dataset / "twins")
    (dataset / "dataset").mkdir()
    (dataset / "dataset" / "a.mha").write_text("x")
    with pytest.raises(UserError) as caught:
        images_to_predict(given(dataset), load_description(dataset))
    assert code in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize("stored", ["masks", "folders"])
def test_an_ignore_value_that_would_be_a_bitmask_is_fine_in_masks(tmp_path, stored):
    folder = write_dataset(tmp_path / "Dataset007_Toy")
    structures(folder, **{stored: "abc"}, ignore_label=3)
    masks = TWO_MASKS.copy()
    masks[1, 3] = 3
    put_label_folder(folder, "a", liver=masks[0], tumour=masks[1])
    if stored == "masks":
        shutil.rmtree(folder / "labelsTr" / "a")
        put_labels(folder, "a", masks)
    assert validate_dataset(folder, jobs=1).problems == ()
    description = load_description(folder)
    indices = read_annotation(training_cases(description)[0], description.labels).array
    assert (indices[1, 3] == 2).all()
    assert np.count_nonzero(indices == 2) == indices[1, 3].size


@pytest.mark.parametrize(
    ("labels", "stored", "told"),
    [
        (NUMBERS, (1, 2, 3, 4), {"SK-V013"}),
        (NUMBERS, (1, 2, 5), {"SK-V006"}),  # 5 is s1 and s3
        (BITS, (1, 2, 3), {"SK-V006"}),  # bits by their own values are meant as such
        (NUMBERS, (), {"SK-V004", "SK-V006"}),
    ],
)
def test_only_small_numbers_look_like_classes(tmp_path, labels, stored, told):
    folder = write_dataset(tmp_path / "Dataset007_Toy")
    structures(folder, labels=labels)
    everywhere(folder, labels_of(*stored))
    assert {found.code for found in validate_dataset(folder, jobs=1).problems} == told


def test_a_case_that_lacks_a_file_is_no_stranger_to_the_splits(dataset):
    describe(dataset, channel_names={"0": "CT", "1": "PET"})
    splits(dataset, (["a", "b"], ["c"]))
    put_image(dataset, "a", noise(seed=5), 1)
    assert {found.code for found in validate_dataset(dataset, jobs=1).problems} == {"SK-F004"}


def test_every_code_is_in_a_table():
    wanted = {code for code in CODES if code.startswith(("SK-F", "SK-G", "SK-V"))}
    assert {row[0] for row in (*TABLE, *PREDICTION)} == wanted


def test_the_good_data_set_has_no_problem(dataset):
    assert validate_dataset(dataset, jobs=1).problems == ()
