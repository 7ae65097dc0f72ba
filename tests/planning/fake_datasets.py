"""Fingerprints and descriptions of made-up data sets, as several tests plan them."""

from pathlib import Path

from segkit.dataset.description import DatasetDescription
from segkit.dataset.labels import LabelSchema
from segkit.planning.fingerprint import CaseFingerprint, Fingerprint
from segkit.planning.plan import IntensityStatistics, PlanRequest
from segkit.planning.planner import make_plan

STATISTICS = IntensityStatistics(
    mean=1.0, median=1.0, std=1.0, min=0.0, max=2.0, percentile_00_5=0.0, percentile_99_5=2.0
)


def describe(channels=("MR",), labels=3):
    values = {"background": 0, **{f"label {i}": i for i in range(1, labels)}}
    content = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": values,
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    return DatasetDescription(
        name="Dataset001_Fake",
        file=Path("Dataset001_Fake/dataset.json"),
        channel_names=tuple(channels),
        labels=LabelSchema.from_description(values, content),
        file_ending=".nii.gz",
        num_training=1,
        reader=None,
        explicit_cases=None,
        content=content,
    )


def fake_case(shape, spacing=(1, 1, 1), orientation="LPS"):
    return CaseFingerprint(
        case="case",
        shape=shape,
        shape_after_crop=shape,
        spacing_mm=tuple(float(s) for s in spacing),
        orientation=orientation,
    )


def fake(shape, spacing=(1, 1, 1), cases=1, *, kept=1.0, in_zero=0.0, channels=1):
    return Fingerprint(
        cases=(fake_case(shape, spacing),) * cases,
        intensities=(STATISTICS,) * channels,
        median_relative_size_after_crop=kept,
        labelled_share_in_zero=in_zero,
    )


HIPPOCAMPUS = fake((36, 50, 35), cases=260)
LIVER = fake((432, 512, 512), (1, 0.767, 0.767), cases=131)
PROSTATE = fake((20, 320, 319), (3.6, 0.62, 0.62), cases=32, channels=2)
BRATS = fake((140, 171, 136), cases=1251, channels=4)
RGB = fake((1, 1500, 1500), (999, 1, 1), cases=804, channels=3)
CHANNELS = {1: ("CT",), 2: ("T2", "ADC"), 3: ("R", "G", "B"), 4: ("T1", "T1ce", "T2", "FLAIR")}


def planned(fingerprint, planner="default", labels=3, **request):
    described = describe(CHANNELS[len(fingerprint.intensities)], labels)
    return make_plan(fingerprint, described, planner=planner, request=PlanRequest(**request))
