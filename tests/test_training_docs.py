"""What docs/training.md says a recipe can hold, a recipe can hold."""

import re
from pathlib import Path

import pytest
import yaml

from segkit.config import Recipe, load_recipe
from segkit.structs import from_mapping

PAGE = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("## From nnU-Net's trainers")[2]


def test_the_recipe_file_is_one():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert from_mapping(Recipe, yaml.safe_load(text), source="docs").optimizer.name == "adamw"


def values_of_nnunets_trainers():
    for line in TABLE.splitlines():
        cells = line.split("|")
        for value in re.findall(r"`([^`]+=[^`]+)`", cells[2] if len(cells) > 3 else ""):
            yield value.removeprefix("--set ")


@pytest.mark.parametrize("values", sorted({*values_of_nnunets_trainers()}))
def test_every_trainer_of_nnunet_is_a_value(values):
    assert load_recipe("default", values.split()) != load_recipe("default")
