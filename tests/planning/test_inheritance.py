import pytest

from segkit.errors import UserError
from segkit.planning.inheritance import resolve_configurations

BASE = {"patch_size": [8, 8], "batch_size": 2, "network": {"a": 1, "b": 2}}


def test_keys_are_taken_over_shallowly_through_several_levels():
    resolved = resolve_configurations(
        {
            "grandchild": {"inherits_from": "child", "patch_size": [16, 16]},
            "child": {"inherits_from": "base", "batch_size": 4, "network": {"a": 3}},
            "base": BASE,
        },
        "plan.json",
    )
    child = {"patch_size": [8, 8], "batch_size": 4, "network": {"a": 3}}
    without = {name: {k: v for k, v in c.items() if k != "reasons"} for name, c in resolved.items()}
    assert without == {
        "grandchild": {**child, "patch_size": [16, 16]},
        "child": child,
        "base": BASE,
    }
    assert resolved["child"]["reasons"] == ["as base, but for its own: batch_size, network"]
    assert list(resolved) == ["grandchild", "child", "base"]


@pytest.mark.parametrize(
    ("configurations", "message", "fix"),
    [
        ({"a": {"inherits_from": "a"}}, "circle: a -> a", "all its values"),
        (
            {"a": {"inherits_from": "b"}, "b": {"inherits_from": "c"}, "c": {"inherits_from": "b"}},
            "circle: a -> b -> c -> b",
            "all its values",
        ),
        ({"a": {"inherits_from": "bse"}, "base": BASE}, "no configuration 'bse'", "'base'"),
        ({"a": {"inherits_from": ["base"]}, "base": BASE}, "expected the name", ""),
    ],
)
def test_refusals_name_the_key(configurations, message, fix):
    with pytest.raises(UserError, match=message) as caught:
        resolve_configurations(configurations, "plan.json")
    assert str(caught.value.where).startswith("plan.json, key configurations.")
    assert str(caught.value.where).endswith(".inherits_from")
    assert fix in (caught.value.fix or "")


def test_what_is_no_mapping_is_left_to_others():
    assert resolve_configurations([1], "x") == [1]
    assert resolve_configurations({"a": 1}, "x") == {"a": 1}
