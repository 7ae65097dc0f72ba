"""Recipes: every shipped file parses; every mistake is refused with the way out."""

from dataclasses import replace

import pytest

from segkit.config import Recipe, load_recipe, recipe_folder
from segkit.errors import UserError
from segkit.structs import from_mapping, to_mapping


@pytest.mark.parametrize("path", sorted(recipe_folder().glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipes_parse_and_carry_their_name(path):
    assert load_recipe(path.stem).name == path.stem


def test_the_default_recipe_is_nnunets_schedule():
    recipe = load_recipe("default")
    assert replace(recipe, name="default") == Recipe()
    assert recipe.schedule.epochs == 1000
    assert recipe.schedule.iterations_per_epoch == 250
    assert recipe.optimizer.learning_rate == 0.01
    assert recipe.optimizer.momentum == 0.99
    assert recipe.optimizer.weight_decay == 3e-5


def test_settings_change_values_by_full_or_last_name():
    recipe = load_recipe("debug", ["epochs=7", "optimizer.learning_rate=1e-3", "scaling=[1, 2]"])
    assert recipe.schedule.epochs == 7
    assert recipe.schedule.iterations_per_epoch == 2
    assert recipe.optimizer.learning_rate == 0.001
    assert recipe.augment.scaling == (1.0, 2.0)


def test_a_file_is_a_recipe_named_after_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\n")
    assert load_recipe(str(path)) == Recipe(name="mine", seed=3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epoch=3", "did you mean 'schedule.epochs'|unknown key 'epoch'"),
        ("epochs", "expected key=value"),
        ("epochs=many", "expected int, got 'many'"),
        ("epochs=0", "epochs must be at least 1"),
        ("momentum=1", r"momentum must lie in \[0, 1\)"),
        ("p_noise=2", r"p_noise must lie in \[0, 1\]"),
        ("gamma=[2, 1]", r"gamma must be \[low, high\]"),
        ("precision=fp8", "'fp8' is not allowed"),
        ("epochs=[", "cannot read the value"),
    ],
)
def test_bad_settings_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        load_recipe("default", [setting])


def test_unknown_recipes_are_refused():
    with pytest.raises(UserError, match="did you mean 'quick'"):
        load_recipe("qick")


@pytest.mark.parametrize("text", ["a: [", "- 1", "sched: 1"])
def test_faulty_files_are_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        load_recipe(str(path))


def test_the_resolved_recipe_round_trips():
    recipe = load_recipe("debug", ["seed=5"])
    assert from_mapping(Recipe, to_mapping(recipe), source="x") == recipe
