"""What docs/training.md says a recipe can hold, a recipe can hold."""

import re
from pathlib import Path

import yaml

from segkit.config import Recipe
from segkit.structs import from_mapping

PAGE = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_recipe_file_is_one():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert from_mapping(Recipe, yaml.safe_load(text), source="docs").optimizer.name == "adamw"
