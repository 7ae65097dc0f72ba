"""The command line in this process, and the small NIfTI files it works on."""

import json

import nibabel as nib
import numpy as np

from segkit.cli.main import main


def segkit(capsys, *arguments, code=0):
    """Run a command on one core; what it wrote is returned, and no traceback is in it."""
    capsys.readouterr()
    found = main([*map(str, arguments), "-j", "1"])
    out = capsys.readouterr()
    assert found == code, out.err
    assert "Traceback" not in out.err
    return out


def strict(path):
    """Read JSON without NaN and infinities."""

    def refuse(name):
        raise ValueError(name)

    return json.loads(path.read_text(), parse_constant=refuse)


def write_nifti(path, array, spacing_mm=(1.0, 1.0, 1.0)):
    """Write (X, Y, Z) voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing_mm, 1.0])), str(path))


def read_nifti(path):
    """Read (X, Y, Z) voxels as they are stored."""
    return np.asanyarray(nib.load(str(path)).dataobj)
