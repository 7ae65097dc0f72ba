"""From the planned network and the recipe's changes to the one that is trained."""

from __future__ import annotations

from dataclasses import fields, replace

from segkit.config import NetworkConfig
from segkit.config.network import changes_of_unet
from segkit.errors import UserError
from segkit.networks.build import check_unet
from segkit.planning.plan import NetworkPlan
from segkit.types import Shape


def settled_unet(planned: NetworkPlan, config: NetworkConfig) -> NetworkPlan:
    """Return the planned U-Net with the changes of a recipe.

    Raises:
        UserError: more stages are to be kept than are planned, or the result is no U-Net.
    """
    kept = planned if config.stages is None else _first_stages(planned, config.stages)
    planned_too = {f.name for f in fields(NetworkPlan)}
    changes = {n: x for n, x in changes_of_unet(config).items() if n in planned_too}
    unet = replace(kept, class_=None, arguments={}, **changes)
    check_unet(unet)
    return unet


def settled_network(
    unet: NetworkPlan,
    planned: NetworkPlan,
    config: NetworkConfig,
    *,
    patch_size: Shape,
    deep_supervision: bool,
) -> NetworkPlan:
    """Return what is to be built: the settled U-Net, or the class a recipe names.

    Code runs only where the user names it: a class that only the plan names is refused.

    Args:
        unet: From :func:`settled_unet`.
        planned: Of the plan.
        config: Of the recipe.
        patch_size: What the network is trained on, which a class is told.
        deep_supervision: Likewise.

    Raises:
        UserError: the plan names another class.
    """
    if planned.class_ not in (None, config.class_):
        what = f"the plan names a class of its own for the network: {planned.class_}"
        fix = f"if you trust it: --set network.class={planned.class_}; else correct the plan"
        raise UserError(what, where="network of the plan", fix=fix)
    if config.class_ is None:
        return unet
    arguments = {**planned.arguments, **config.arguments}
    told = {"patch_size": list(patch_size), "deep_supervision": deep_supervision}
    return replace(unet, class_=config.class_, arguments={**arguments, **told})


def _first_stages(planned: NetworkPlan, stages: int) -> NetworkPlan:
    """Cut a plan after so many stages; decoder stages are listed from the deepest."""
    there = len(planned.features_per_stage)
    if stages > there:
        fix = f"keep {there} or fewer, or write features_per_stage, strides and the other lists out"
        what = f"{stages} stages cannot be kept of the {there} that are planned"
        raise UserError(what, where="network.stages", fix=fix)
    return replace(
        planned,
        features_per_stage=planned.features_per_stage[:stages],
        strides=planned.strides[:stages],
        kernel_sizes=planned.kernel_sizes[:stages],
        convs_per_stage=planned.convs_per_stage[:stages],
        convs_per_decoder_stage=planned.convs_per_decoder_stage[there - stages :],
    )
