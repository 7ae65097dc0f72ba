"""What docs/augmentation.md says is so: commands parse, keys exist, numbers are the recipes'."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import yaml

from segkit.cli.main import build_parser
from segkit.config import AugmentConfig, Recipe, load_recipe
from segkit.structs import from_mapping

PAGE = (Path(__file__).parents[1] / "docs" / "augmentation.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip() for line in PAGE.splitlines() if line.startswith("    segkit ")
]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and line.count("|") == 5
][1:]
KEYS = {field.name for field in dataclasses.fields(AugmentConfig)}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_recipes_are_understood(command):
    options = build_parser().parse_args(shlex.split(command)[1:])
    load_recipe(getattr(options, "recipe", "default"), getattr(options, "settings", ()))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_probabilities_in_the_table_are_those_of_the_recipes(row):
    _, default, da5, keys = row
    names = re.findall(r"`([^`]+)`", keys)[0].split()
    assert set(names) <= KEYS
    if not names[0].startswith("p_"):
        return
    for text, recipe in ((default, "default"), (da5, "da5")):
        stated = float(re.match(r"[\d.]+", text)[0])
        assert getattr(load_recipe(recipe).augment, names[0]) == stated


def test_every_transform_is_in_the_table():
    told = " ".join(row[3] for row in ROWS)
    for name in KEYS:
        if name.startswith("p_") and not name.endswith(("_channel", "_axis")):
            assert f"{name}" in told


def test_the_recipe_with_transforms_from_outside_is_one():
    text = PAGE.split("\n    augment:\n")[1].split("\n\n")[0]
    extra = yaml.safe_load("augment:\n" + text.replace("\n    ", "\n").removeprefix("  "))
    recipe = from_mapping(Recipe, extra, source="page")
    assert [one.place for one in recipe.augment.extra] == ["after_intensity", "after_spatial"]
