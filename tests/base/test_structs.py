"""Dataclasses from mappings: types, nesting, refusals, round trips."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.errors import UserError
from segkit.structs import differing_keys, from_mapping, to_mapping


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: tuple[int, ...] = ()
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    flag: bool = False
    inner: Inner = Inner()
    pair: tuple[float, float] = (0.0, 1.0)
    table: dict[str, Inner] = field(default_factory=dict)
    mixed: Literal["auto"] | dict[str, float] | None = None
    class_: str | None = field(default=None, metadata={"key": "class"})

    def __post_init__(self):
        if self.name == "bad":
            raise ValueError("name must not be bad")


def build(**values):
    return from_mapping(Outer, {"name": "x", **values}, source="file.yaml")


def test_nested_values_become_their_types():
    made = build(inner={"size": [1, 2], "share": 1}, pair=[0, 2], table={"k": {"size": [3]}})
    assert made.inner == Inner(size=(1, 2), share=1.0)
    assert isinstance(made.inner.share, float)
    assert made.pair == (0.0, 2.0)
    assert made.table["k"].size == (3,)


@pytest.mark.parametrize("value", [None, "auto", {}, {"liver": 2.0}])
def test_a_union_takes_the_choice_that_fits(value):
    assert build(mixed=value).mixed == value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nmae": 1}, "unknown key 'nmae'"),
        ({"inner": {"sise": 1}}, "key inner"),
        ({"flag": 1}, "expected bool, got 1"),
        ({"inner": {"size": [1, True]}}, r"inner.size\[1\]"),
        ({"inner": {"size": "12"}}, "expected a list"),
        ({"kind": "c"}, "'c' is not allowed"),
        ({"pair": [1]}, "expected 2 values, got 1"),
        ({"inner": 3}, "expected keys and values"),
        ({"name": "bad"}, "name must not be bad"),
        ({"name": 5}, "expected str, got 5"),
        ({"inner": {"share": "much"}}, "expected float, got 'much'"),
        ({"mixed": [1]}, r"expected 'auto' or keys and values, got \[1\]"),
        ({"mixed": {"liver": "x"}}, "expected float, got 'x'(.|\n)*key mixed.liver"),
        ({"mixed": {1: 2}}, "expected str, got 1"),
    ],
)
def test_mistakes_are_named_with_their_place(values, message):
    with pytest.raises(UserError, match=message) as caught:
        build(**values)
    assert "file.yaml" in str(caught.value)


def test_the_nearest_key_is_proposed():
    with pytest.raises(UserError, match="did you mean 'name'"):
        build(nmae=1)


def test_missing_keys_are_named():
    with pytest.raises(UserError, match="missing key 'name'"):
        from_mapping(Outer, {}, source="x")


def test_yaml_floats_without_a_point_are_read():
    assert build(inner={"share": "1e-3"}).inner.share == 0.001


@given(
    st.builds(
        Outer,
        name=st.text().filter(lambda text: text != "bad"),
        kind=st.sampled_from(["a", "b"]),
        flag=st.booleans(),
        inner=st.builds(
            Inner,
            size=st.lists(st.integers()).map(tuple),
            share=st.none() | st.floats(allow_nan=False),
        ),
        pair=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
    )
)
def test_round_trip(made):
    assert from_mapping(Outer, to_mapping(made), source="x") == made


def test_sparse_mappings_leave_out_what_is_at_its_default():
    made = Outer(name="x", kind="b", inner=Inner(share=0.5), table={"k": Inner()})
    expected = {"name": "x", "kind": "b", "inner": {"share": 0.5}, "table": {"k": {}}}
    assert to_mapping(made, sparse=True) == expected
    assert build(**expected) == made


def test_differing_keys_are_dotted():
    before = {"a": 1, "b": {"c": [1, 2], "d": 2}, "gone": {"e": 1}}
    now = {"a": 1, "b": {"c": [1, 3], "d": 2}, "new": None}
    assert differing_keys(before, now) == ["b.c", "gone"]
    assert differing_keys(before, before) == []


def test_a_keyword_of_python_may_be_a_key():
    made = build(**{"class": "package:Net"})
    assert made.class_ == "package:Net"
    assert to_mapping(made)["class"] == "package:Net"
    assert "class_" not in to_mapping(made)
    with pytest.raises(UserError, match="unknown key 'class_'"):
        build(class_="package:Net")
