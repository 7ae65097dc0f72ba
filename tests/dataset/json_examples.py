"""Valid dataset.json contents of every kind, to be checked, broken and mended by tests."""

PLAIN = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
REGIONS = PLAIN | {
    "labels": {"background": 0, "whole": [1, 2, 5], "core": [2, 5], "enhancing": 5},
    "regions_class_order": [1, 2, 5],
}
MULTILABEL = PLAIN | {
    "labels": {"background": 0, "whole": 1, "anterior": 2, "posterior": 4},
    "label_encoding": "multilabel",
    "unannotated": {"a": ["anterior"], "b": ["whole", "posterior"], "c": []},
}
SIDED = PLAIN | {
    "labels": {"background": 0, "left lung": 1, "right lung": 2, "heart": 3},
    "mirror_pairs": [["left lung", "right lung"]],
}
SIDED_REGIONS = PLAIN | {
    "labels": {"background": 0, "left": [1, 2], "right": [3, 4], "nodule l": 2, "nodule r": 4},
    "regions_class_order": [1, 3, 2, 4],
    "mirror_pairs": [["label_1", "label_3"], ["nodule l", "nodule r"]],
}
VALID = {
    "plain": PLAIN,
    "without numTraining": {key: value for key, value in PLAIN.items() if key != "numTraining"},
    "any values": PLAIN | {"labels": {"a": 200, "background": 0, "b": 7, "c": 2**31 - 1}},
    "channels": PLAIN | {"channel_names": {str(i): f"channel {i}" for i in range(12)}},
    "lists of one": PLAIN | {"labels": {"background": 0, "a": [1], "b": 2}},
    "ignore": PLAIN | {"labels": PLAIN["labels"] | {"ignore": 3}},
    "ignored values": PLAIN | {"ignore_label": [-1, 255], "label_encoding": "integers"},
    "no ignored value": PLAIN | {"ignore_label": [], "label_encoding": None},
    "regions": REGIONS,
    "regions of nnU-Net's BraTS": PLAIN
    | {
        "labels": {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3], "enhancing": [3]},
        "regions_class_order": [1, 2, 3],
    },
    "regions of nnU-Net's KiTS": PLAIN
    | {
        "labels": {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2},
        "regions_class_order": [1, 3, 2],
    },
    "regions that part the whole": PLAIN
    | {
        "labels": {"background": 0, "cord": [1, 2], "white": 1, "gray": 2},
        "regions_class_order": [1, 1, 2],
    },
    "merged classes": PLAIN
    | {
        "labels": {"background": 0, "lung": [10, 11, 12, 13, 14], "liver": 5},
        "regions_class_order": [10, 5],
    },
    "regions and ignore": REGIONS
    | {"labels": REGIONS["labels"] | {"ignore": 6}, "ignore_label": [7, -1]},
    "bits": MULTILABEL,
    "bits with a gap": MULTILABEL
    | {"labels": {"background": 0, "whole": 1, "posterior": 4}}
    | {"unannotated": {}},
    "numbers": MULTILABEL
    | {"labels": {"posterior": 3, "background": 0, "whole": 1, "anterior": 2}},
    "bits and ignore": MULTILABEL
    | {"labels": MULTILABEL["labels"] | {"ignore": 8}, "ignore_label": [-1]},
    "masks and a byte to ignore": MULTILABEL
    | {"labels": {"background": 0} | {f"s{i}": 2**i for i in range(8)}}
    | {"unannotated": {}, "ignore_label": 255},
    "62 structures": MULTILABEL
    | {"labels": {"background": 0} | {f"s{i}": 2**i for i in range(62)}, "unannotated": {}},
    "117 structures": MULTILABEL
    | {"labels": {"background": 0} | {f"s{i}": i for i in range(1, 118)}, "unannotated": {}},
    "explicit cases": PLAIN
    | {
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {
            "a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "$HOME/a.nii.gz"},
            "b": {"images": ["/data/b.nii.gz"], "label": "b.nii.gz", "mask": "masks/b.nii.gz"},
        },
    },
    "images": PLAIN | {"file_ending": ".PNG", "overwrite_image_reader_writer": "None"},
    "JPEG": PLAIN | {"file_ending": ".jpg", "overwrite_image_reader_writer": None},
    "pairs": SIDED,
    "pairs of structures": MULTILABEL | {"mirror_pairs": [["anterior", "posterior"]]},
    "pairs of pictures": SIDED | {"file_ending": ".png", "left_right_axis": "x"},
    "no pairs": SIDED | {"mirror_pairs": [], "left_right_axis": None},
    "nothing said of pairs": SIDED | {"mirror_pairs": None},
    "regions that follow pairs": SIDED_REGIONS,
    "what others write": PLAIN
    | {
        "name": "Liver",
        "description": "",
        "reference": "",
        "licence": "CC-BY-SA 4.0",
        "license": "CC-BY-SA 4.0",
        "release": "1.0",
        "citation": [],
        "author": None,
        "converted_by": "me",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "numTest": 1,
        "training": [{"image": "a", "label": "b"}],
        "test": [],
        "$schema": "dataset.schema.json",
    },
}
