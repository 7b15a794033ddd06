"""The recipe's optimiser of a population, and the clipping of its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evoprune.engines.population import Population
from evoprune.errors import InputError
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe

MIXED = (
    "decay is 'weights', but the engine keeps weights and biases in one tensor, which torch's optimizers treat alike. Use the "
    "engine 'module' or 'stacked', or decay='all'."
)


def optimizer_of(population: Population, problem: Problem) -> torch.optim.Optimizer:
    """Returns the recipe's optimiser of a population, without memory.

    Raises:
        InputError: Only weights are to decay, but the engine keeps weights and biases in one tensor.
    """
    recipe, parameters = problem.recipe, list(population.parameters())
    if recipe.decay == "all" or not recipe.weight_decay:
        return recipe.make_optimizer(parameters)
    tells = getattr(population, "decays_by_parameter", None)
    if tells is not None and tells(problem):
        return recipe.make_optimizer(parameters)
    return recipe.make_optimizer(parameters, _biases(population, parameters))


def _biases(population: Population, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Returns the parameters whose part of an individual has less than two dimensions."""
    numbers: list[Tensor] = [torch.full_like(p, i + 1, requires_grad=False) for i, p in enumerate(parameters)]
    found: dict[int, set[bool]] = {}
    for k in range(population.size):
        for dense in population.unpack(k, numbers).values():
            number = int(dense.max()) if dense.numel() else 0  # 0 where all is removed
            found.setdefault(number, set()).add(dense.ndim < 2)
    if any(len(kinds) > 1 for number, kinds in found.items() if number):
        raise InputError(MIXED)
    return [parameter for i, parameter in enumerate(parameters) if found.get(i + 1) == {True}]


@torch.no_grad()
def clip_gradients(population: Population, recipe: Recipe) -> None:
    """Scales or cuts a population's gradients, each individual's by themselves, as the recipe says.

    Args:
        population: The population; removed weights have a gradient of zero.
        recipe: Its ``clip_norm`` and ``clip_value`` are used.
    """
    if recipe.clip_norm is None and recipe.clip_value is None:
        return
    individual_first = getattr(population, "individual_first", None)
    if individual_first is not None:
        clip([individual_first(p.grad) for p in population.parameters() if p.grad is not None], recipe)
    else:
        _clip_each(population, recipe)


def clip(gradients: Sequence[Tensor], recipe: Recipe) -> None:
    """Scales or cuts gradients [K, ...] of K individuals, in place.

    The norm is that of all gradients of an individual (Pascanu et al. 2013, arXiv:1211.5063), as in
    ``torch.nn.utils.clip_grad_norm_``.

    Args:
        gradients: The gradients.
        recipe: Its ``clip_norm`` and ``clip_value`` are used.
    """
    if recipe.clip_value is not None:
        for gradient in gradients:
            gradient.clamp_(-recipe.clip_value, recipe.clip_value)
    if recipe.clip_norm is None or not gradients:
        return
    norms = torch.stack([torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1) for gradient in gradients])
    factors = (recipe.clip_norm / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)  # as torch computes them
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))


def _clip_each(population: Population, recipe: Recipe) -> None:
    """Clips the gradients of an engine that says only which part of a tensor is whose."""
    parameters = list(population.parameters())
    packed = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    individuals = [
        {name: gradient.clone() for name, gradient in population.unpack(k, packed).items()} for k in range(population.size)
    ]
    for gradients in individuals:
        clip([gradient.unsqueeze(0) for gradient in gradients.values()], recipe)
    for parameter, gradient in zip(parameters, population.pack(individuals), strict=True):
        if parameter.grad is not None:
            parameter.grad = gradient
