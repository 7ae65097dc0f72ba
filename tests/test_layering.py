"""Imports run one way; the light layers stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "segkit"
LAYERS = [
    {"errors", "types", "structs", "files", "config", "runtime", "precision", "checkpoint"}
    | {"json_text", "options", "parallel", "workspace"},
    {"dataset"},
    {"planning"},
    {"preprocessing"},
    {"networks"},
    {"training"},
    {"inference"},
    {"evaluation"},
    {"interop"},
    {"report"},
    {"workflows"},
    {"api"},
    {"cli", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
NEVER = [("inference", "training"), ("training", "inference")]


def imports(path):
    """Yield the layer of every segkit module a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "segkit":
                names = [f"segkit.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("segkit."):
                yield name.split(".")[1]


def layer_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_own_or_earlier_layers(path):
    own = layer_of(path)
    for other in imports(path):
        if other == "__version__":
            continue
        assert RANK[other] <= RANK[own], f"{own} imports {other}"
        assert (own, other) not in NEVER


def test_every_layer_is_known():
    assert {layer_of(path) for path in FILES} <= RANK.keys()


@pytest.mark.parametrize(
    "module",
    ["dataset.validation", "planning.planner", "preprocessing.store", "evaluation.summary"],
)
def test_worker_layers_do_not_import_torch(module):
    code = f"import sys, segkit.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_imports_nothing_heavy():
    heavy = {"torch", "numpy", "scipy", "SimpleITK", "nibabel", "matplotlib", "batchgenerators"}
    code = (
        "import sys\nfrom segkit.cli.main import build_parser\nbuild_parser()\n"
        f"sys.exit(bool({heavy!r} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_two_test_files_have_one_name():
    """Else pytest refuses to collect them together."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(set(names)) == len(names)
