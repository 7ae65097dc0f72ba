"""The recipe of a training run: one file a section, every key with its default and its limits."""

from segkit.config.augment import AugmentConfig, ExtraTransform, IntensityStep, Range
from segkit.config.averaging import AveragingConfig
from segkit.config.cascade import CascadeConfig
from segkit.config.loss import InvalidVoxels, LossConfig
from segkit.config.network import NetworkConfig
from segkit.config.optimizer import OptimizerConfig
from segkit.config.recipe import (
    Compiling,
    Recipe,
    apply_settings,
    as_setting,
    load_recipe,
    recipe_files,
    recipe_folder,
    recipe_name,
    recipe_values,
    whole_paths,
)
from segkit.config.sampling import SamplingConfig
from segkit.config.schedule import ScheduleConfig

__all__ = [
    "AugmentConfig",
    "AveragingConfig",
    "CascadeConfig",
    "Compiling",
    "ExtraTransform",
    "IntensityStep",
    "InvalidVoxels",
    "LossConfig",
    "NetworkConfig",
    "OptimizerConfig",
    "Range",
    "Recipe",
    "SamplingConfig",
    "ScheduleConfig",
    "apply_settings",
    "as_setting",
    "load_recipe",
    "recipe_files",
    "recipe_folder",
    "recipe_name",
    "recipe_values",
    "whole_paths",
]
