"""The recipe: every number of training as a typed value, from YAML and ``--set key=value``."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from segkit.config.augment import AugmentConfig
from segkit.config.averaging import AveragingConfig
from segkit.config.cascade import CascadeConfig
from segkit.config.loss import LossConfig
from segkit.config.network import NetworkConfig
from segkit.config.optimizer import OptimizerConfig
from segkit.config.sampling import SamplingConfig
from segkit.config.schedule import ScheduleConfig
from segkit.errors import UserError, closest, nearest
from segkit.precision import PrecisionName
from segkit.structs import from_mapping, key_of, to_mapping

Compiling = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All settings of a training run; saved, resolved, beside the weights."""

    name: str = "default"
    seed: int = 0
    precision: PrecisionName = "auto"
    """auto: fp16 on CUDA; bf16 on CPUs that are measured to be faster in it; fp32 elsewhere."""
    compile: Compiling = "auto"
    """Compile the training step: auto does on GPUs under Linux, in runs of 2000 steps and more, or
    with a time budget of half an hour and more. Where it fails a line says so, and training goes
    on without."""
    deterministic: bool = False
    """Use only algorithms whose results never vary; slower on a GPU, without effect on a CPU."""
    final_validation: bool = True
    """Predict and evaluate the fold's validation cases after training."""
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    averaging: AveragingConfig = AveragingConfig()
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()
    augment: AugmentConfig = AugmentConfig()
    cascade: CascadeConfig = CascadeConfig()
    network: NetworkConfig = NetworkConfig()


def recipe_folder() -> Path:
    """Folder of the shipped recipes: inside the wheel, or ``configs/`` of a checkout."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def load_recipe(names_or_files: str, settings: Iterable[str] = ()) -> Recipe:
    """Load a recipe, or several joined by ``+``, then apply ``key=value`` settings.

    Args:
        names_or_files: ``quick``, ``mine.yaml``, ``quick+da5+mine.yaml``. What a later recipe says
            takes the place of what an earlier one says; all else stays.
        settings: Applied last.

    Raises:
        UserError: no such recipe; unknown key, wrong type or value out of range.
    """
    content: dict[str, Any] = {}
    for path in recipe_files(names_or_files):
        part = _read_yaml(path)
        part.setdefault("name", path.stem)
        from_mapping(Recipe, part, source=path)  # so that a mistake is told with its file
        part["name"] = "+".join(filter(None, (content.get("name"), part["name"])))
        content = _merged(content, part)
    return apply_settings(from_mapping(Recipe, content, source=names_or_files), settings)


def recipe_files(names_or_files: str) -> list[Path]:
    """Return the YAML files that recipes joined by ``+`` stand for.

    Raises:
        UserError: no such recipe.
    """
    return [_recipe_file(part) for part in _parts(names_or_files)]


def recipe_name(names_or_files: str) -> str:
    """Return what ``load_recipe`` names a recipe that does not name itself."""
    return "+".join(Path(part).stem for part in _parts(names_or_files))


def _parts(names_or_files: str) -> list[str]:
    # The name of a file may hold a plus itself.
    return [names_or_files] if Path(names_or_files).is_file() else names_or_files.split("+")


def _recipe_file(name_or_file: str) -> Path:
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = recipe_folder() / f"{name_or_file}.yaml"
    if not path.is_file():
        names = [file.stem for file in recipe_folder().glob("*.yaml")]
        fix = f"{nearest(name_or_file, names)}; or give the path of a YAML file"
        raise UserError(f"no recipe {name_or_file!r}", where="--recipe", fix=fix)
    return path


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Put the values of the second recipe over those of the first, section by section."""
    merged = {**first, **second}
    for section in first.keys() & second.keys():
        if isinstance(first[section], dict) and isinstance(second[section], dict):
            merged[section] = {**first[section], **second[section]}
    return merged


def apply_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return the recipe with ``key=value`` settings applied.

    Raises:
        UserError: unknown key, wrong type or value out of range.
    """
    content = to_mapping(recipe)
    for setting in settings:
        _apply(content, setting)
    return from_mapping(Recipe, content, source="--set")


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Return every number of a recipe under its dotted key, but for the name."""
    content = to_mapping(recipe)
    keys = [key for key in _dotted_keys(recipe) if key != "name"]
    return {key: functools.reduce(operator.getitem, key.split("."), content) for key in keys}


def as_setting(key: str, value: Any) -> str:
    """Write ``key=value`` so that ``apply_settings`` reads the value back."""
    plain = isinstance(value, str) and yaml.safe_load(value) == value
    return f"{key}={value if plain else json.dumps(value, ensure_ascii=False)}"


def whole_paths(names_or_files: str) -> str:
    """Write the files of a recipe so that they are found from anywhere; names stay names."""
    parts = [Path(part) for part in _parts(names_or_files)]
    return "+".join(str(part.resolve() if part.is_file() else part) for part in parts)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"not valid YAML: {error}", where=path, fix="correct the file") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError("expected keys and values", where=path, fix="see configs/default.yaml")
    return content


def _apply(content: dict[str, Any], setting: str) -> None:
    """Apply one ``a.b=value`` (or ``b=value`` where only one section has ``b``)."""
    key, equals, text = setting.partition("=")
    if not equals:
        fix = "write for example --set schedule.epochs=50"
        raise UserError(f"expected key=value, got {setting!r}", where="--set", fix=fix)
    *sections, leaf = _resolve(key.strip()).split(".")
    for section in sections:
        content = content[section]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"cannot read the value of {setting!r}", where="--set") from None
    if isinstance(value, dict) and None in value.values():
        fix = "write a space after every colon and quote the whole: --set 'key={name: 2}'"
        raise UserError(f"a name without a value in {setting!r}", where="--set", fix=fix)
    content[leaf] = value


def _resolve(key: str) -> str:
    """Return the full dotted key for a full or unambiguous last name."""
    keys = list(_dotted_keys(Recipe()))
    if key in keys:
        return key
    matches = [full for full in keys if full.split(".")[-1] == key]
    if len(matches) == 1:
        return matches[0]
    if matches:
        what = f"the key {key!r} stands for {' and '.join(matches)}"
        raise UserError(what, where="--set", fix="write one of them in full")
    last = {full.split(".")[-1]: full for full in keys}
    alike = None if "." in key else closest(key, last)
    fix = nearest(key, keys) if alike is None else f"did you mean {last[alike]!r}?"
    raise UserError(f"unknown key {key!r}", where="--set", fix=fix)


def _dotted_keys(section: Any, prefix: str = "") -> Iterable[str]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _dotted_keys(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{key_of(field)}"
