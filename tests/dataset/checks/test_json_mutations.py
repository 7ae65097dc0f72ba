"""Whatever is done to a dataset.json, there is a report and never another exception."""

import json
import pickle
from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_examples import VALID

from segkit.dataset.checks.content import HARMLESS, OPTIONAL, REQUIRED, check_content
from segkit.dataset.description import load_description, read_content
from segkit.dataset.mending.content import mend_content
from segkit.dataset.problems import CODES
from segkit.dataset.validation import validate_dataset
from segkit.errors import UserError

BASES = ("plain", "regions", "ignore", "regions and ignore", "bits and ignore", "explicit cases")
KEYS = st.one_of(
    st.sampled_from([*REQUIRED, *OPTIONAL, *HARMLESS, "background", "ignore", "images", "mask"]),
    st.sampled_from(
        ["", " ", "Background", "0", "1", "-1", "liver ", "a/b", "9" * 30, "\0", "x" * 300]
    ),
    st.text(max_size=3),
)
RAW = st.sampled_from(
    [
        *("NaN", "-Infinity", "1e999", "-1e-999", "9" * 400, "1" + "0" * 250, "1E3", "-0", "0.0"),
        *('"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"' + "x" * 5000 + '"', "[" * 3000),
        *("[" * 90 + "]" * 90, "[" * 150 + "]" * 150, '{"a":' * 98 + "1" + "}" * 98),
        *("[" + "1," * 999 + "2]", "[" + "[]," * 999 + "1]", "{" + '"a":1,' * 99 + '"a":2}'),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([2**31 - 1, 2**31, -(2**31), 2**61, 2**62, 2**63, 2**64, 1e300, -0.5, 2.0]),
    st.sampled_from(["0", "1", "2.0", "background", ".nii.gz", ".png", "multilabel", "NibabelIO"]),
    st.text(max_size=4),
)


class Raw(str):
    """Text that is written as it is."""


def parts_of(value):
    """Turn JSON into lists that can be changed in place; an object is a list of [key, value]."""
    if isinstance(value, dict):
        return {"pairs": [[key, parts_of(entry)] for key, entry in value.items()]}
    return [parts_of(entry) for entry in value] if isinstance(value, list) else value


def text_of(node):
    if isinstance(node, dict):
        return "{" + ", ".join(f"{text_of(k)}: {text_of(v)}" for k, v in node["pairs"]) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(text_of, node)) + "]"
    return str(node) if isinstance(node, Raw) else json.dumps(node)


def places(node):
    """Return every (container, index) of a tree."""
    children = node["pairs"] if isinstance(node, dict) else node if isinstance(node, list) else []
    found = []
    for i, child in enumerate(children):
        holder, j = (child, 1) if isinstance(node, dict) else (children, i)
        found += [(children, i, holder, j), *places(holder[j])]
    return found


def change(draw, root):
    """Apply one change somewhere in the tree."""
    spots = places(root)
    if not spots:
        return
    siblings, i, holder, j = draw(st.sampled_from(spots))
    of_object = holder is not siblings
    kind = draw(st.sampled_from(["delete", "rename", "double", "scalar", "raw", "wrap", "swap"]))
    if kind == "delete":
        del siblings[i]
    elif kind == "rename" and of_object:
        holder[0] = draw(KEYS)
    elif kind == "double":
        siblings.append([holder[0], draw(SCALARS)] if of_object else holder[j])
    elif kind == "raw":
        holder[j] = Raw(draw(RAW))
    elif kind == "wrap":
        holder[j] = draw(
            st.sampled_from([[holder[j]], [holder[j]] * 3, {"pairs": [["0", holder[j]]]}])
        )
    elif kind == "swap":
        _, _, other, k = draw(st.sampled_from(spots))
        holder[j], other[k] = deepcopy(other[k]), deepcopy(holder[j])
    else:
        holder[j] = draw(SCALARS)


@st.composite
def broken_files(draw):
    root = parts_of(VALID[draw(st.sampled_from(BASES))])
    for _ in range(draw(st.integers(0, 3))):
        change(draw, root)
    data = text_of(root).encode()
    damage = draw(st.sampled_from(["none"] * 6 + ["cut", "byte", "BOM", "UTF-16", "tail"]))
    at = draw(st.integers(0, len(data))) if damage in ("cut", "byte") else 0
    return {
        "none": data,
        "cut": data[:at],
        "byte": data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :],
        "BOM": b"\xef\xbb\xbf" + data,
        "UTF-16": data.decode().encode("utf-16"),
        "tail": data + b"\n}",
    }[damage]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("dataset") / "dataset.json"


@settings(
    max_examples=2000,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=broken_files())
def test_only_reports(file, data):
    file.write_bytes(data)
    content, problems = read_content(file)
    assert content is not None or problems
    problems += check_content(content, file)
    for problem in problems:
        assert problem.code in CODES
        assert problem.message
        assert problem.fix
        json.dumps(problem.to_json(), ensure_ascii=False).encode()
    if isinstance(content, dict):
        check_content(mend_content(content, file)[0], file)
    report = validate_dataset(file, jobs=1)
    assert str(report).encode()
    assert len(report.problems) >= len(problems) or content is None
    if any(problem.severity == "error" for problem in problems):
        with pytest.raises(UserError) as caught:
            load_description(file)
        assert str(caught.value).encode()
    else:
        use(load_description(file))


def use(description):
    """Do with a description what every command does."""
    assert description.hash()
    assert pickle.loads(pickle.dumps(description)) == description
    json.dumps(description.content, allow_nan=False, ensure_ascii=False, indent=2).encode()
    schema = description.labels
    assert schema.num_outputs == len(schema.target_names) + (not schema.sigmoid)
    assert schema.region_members.shape == (len(schema.regions), schema.num_classes)
    assert len(schema.raw_values) == 1 + len(schema.classes)
    if schema.overlapping:
        assert len(set(schema.structure_bits)) == schema.num_outputs
        assert max(schema.structure_bits) < schema.structures_on_disk
    else:
        assert set(schema.encode(schema.raw_values)) == set(range(schema.num_classes))
        assert len(schema.paint_indices) == len(schema.regions)
