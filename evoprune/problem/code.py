"""The digests of the parts of a problem that are the user's code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from evoprune.problem.augmentation import AUGMENTATIONS, Augmentation
from evoprune.problem.identity import Identified, identify
from evoprune.problem.metrics import Metric, own_metrics
from evoprune.problem.network import global_hooks
from evoprune.problem.options import ProblemOptions
from evoprune.problem.recipe import Recipe


def identify_code(network: nn.Module, loss: Any, own: Mapping[str, Any], options: ProblemOptions) -> dict[str, Identified]:
    """Identifies the network, the loss, and further things of the user's, or takes the name that stands for the first two.

    Args:
        network: The network at W0; its parameters and buffers do not count.
        loss: The name of the loss, or the user's function.
        own: Further things of the user's, by the names that their digests have.
        options: The problem's options.

    Raises:
        InputError: They hold something that cannot be identified.
    """
    further = {name: identify(name, thing, options.ignore) for name, thing in own.items()}
    if options.identity is not None:
        return {"identity": identify("identity", options.identity), **further}
    known = {id(tensor): name for name, tensor in reversed(tensors_of(network))}
    hooks = global_hooks()
    return {
        "network": identify("model", network, options.ignore, known),
        **({"hooks": identify("hooks", hooks, options.ignore)} if hooks else {}),
        "loss": identify("loss", loss, options.ignore),
        **further,
    }


def own_code(
    recipe: Recipe, metrics: Mapping[str, Metric], augmentations: Sequence[tuple[str, Augmentation]]
) -> dict[str, Any]:
    """Returns the things beside network and loss that are the user's and decide results, by the names that their digests have.

    Args:
        recipe: The recipe; its schedule and optimiser may be the user's.
        metrics: The metrics by name; one counts if training stops by it.
        augmentations: Names and functions.
    """
    found: dict[str, Any] = dict(recipe.own)
    own, chosen = own_metrics(metrics), (recipe.stop_by or "").removeprefix("validation_")
    if chosen in own:
        found["metric"] = own[chosen]
    if augmentations:
        found["augment"] = [name if AUGMENTATIONS.is_built_in(name) else function for name, function in augmentations]
    return found


def tensors_of(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Returns the parameters and buffers of a network, by all of their names."""
    return [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
