"""No command imports what it does not use: the heavy modules each one may load."""

import json
import subprocess
import sys

import numpy as np
import pytest

from segkit.dataset.image_io import write_labels
from segkit.types import Geometry

HEAVY = {
    *("numpy", "scipy.ndimage", "torch", "SimpleITK", "nibabel", "PIL", "matplotlib", "yaml"),
    *("batchgenerators", "multiprocessing", "tqdm"),
}
RUN = f"""
import sys
sys.modules["pydicom"] = None  # nibabel loads it wherever it is installed
from segkit.cli.main import main
code = main(sys.argv[1:])
print(*({HEAVY!r} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""
PLANNED = {"numpy", "nibabel"}
TORCH = {"numpy", "torch", "tqdm", "multiprocessing"}
RESAMPLED = {*PLANNED, "scipy.ndimage"}


def loaded_by(*arguments):
    """Run a command in a process of its own; returns the heavy modules it has loaded."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("imports")


def write_dataset(folder, ending, shape=(6, 40, 40), reader=None):
    """Write five small cases in a format."""
    rng = np.random.default_rng(0)
    flat = shape[0] == 1
    geometry = Geometry(spacing_mm=(999.0 if flat else 1.0, 1.0, 1.0), stored_ndim=2 if flat else 3)
    for case in range(5):
        image = rng.integers(1, 200, shape).astype(np.uint8)
        write_labels(folder / "imagesTr" / f"c{case}_0000{ending}", image, geometry)
        write_labels(folder / "labelsTr" / f"c{case}{ending}", image // 100, geometry)
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "bright": 1},
        "numTraining": 5,
        "file_ending": ending,
        "overwrite_image_reader_writer": reader,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def dataset(folder):
    return write_dataset(folder / "Dataset001_Nifti", ".nii.gz")


@pytest.mark.parametrize(
    ("ending", "reader", "shape", "allowed"),
    [
        (".nii.gz", None, (6, 40, 40), {"numpy", "nibabel"}),
        (".nii.gz", "NibabelIO", (6, 40, 40), {"numpy", "nibabel"}),
        (".nrrd", None, (6, 40, 40), {"numpy", "SimpleITK"}),
        (".png", None, (1, 40, 40), {"numpy", "SimpleITK", "PIL"}),
        (".tif", "Tiff3DIO", (6, 40, 40), {"numpy", "SimpleITK"}),
    ],
)
def test_validate_loads_what_reads_the_format(tmp_path, ending, reader, shape, allowed):
    made = write_dataset(tmp_path / "Dataset002_Any", ending, shape, reader)
    assert loaded_by("validate", made) <= allowed


@pytest.mark.parametrize(("metric", "more"), [("dice", set()), ("hd95_mm", {"scipy.ndimage"})])
def test_evaluate_needs_no_torch_and_no_pictures(dataset, tmp_path, metric, more):
    labels, description = dataset / "labelsTr", dataset / "dataset.json"
    folders = ["-p", labels, "-r", labels, "-d", description, "-o", tmp_path]
    assert loaded_by("evaluate", *folders, "--metrics", metric) <= {"numpy", "nibabel"} | more


def test_planning_and_preprocessing_need_no_torch(dataset, tmp_path):
    work = ["-w", tmp_path, "-j", 1]
    assert loaded_by("plan", dataset, *work) <= PLANNED
    assert loaded_by("preprocess", dataset, *work) <= RESAMPLED


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("doctor", TORCH),
        ("prediction", TORCH),
        ("run", {*TORCH, "yaml", "batchgenerators", "matplotlib", "PIL"}),
    ],
)
def test_commands_that_use_torch_load_no_more_than_it_brings(module, allowed):
    code = f"import sys, segkit.workflows.{module}; print(*({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= allowed
