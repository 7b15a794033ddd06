"""Toolboxes on a small problem."""

import multiprocessing
import random

import numpy as np
from deap import algorithms, base

import evoprune as ep

SPARSITY = 0.9
SEEDED = np.random.default_rng


def make_toolbox(problem: ep.Problem, **options: object) -> base.Toolbox:
    return ep.make_toolbox(problem, **{"sparsity": SPARSITY, "fitness": "loss", "fitness_epochs": 1} | options)


# Maps over processes

GLOBAL: dict[str, object] = {}


def evaluate_global(mask: ep.Mask) -> tuple[float, ...]:
    return GLOBAL["evaluator"](mask)


def through_pool(how: str, context: str, **options: object):
    def run(toolbox: base.Toolbox, masks: list[ep.Mask]) -> list[tuple[float, ...]]:
        with multiprocessing.get_context(context).Pool(2, **options) as pool:
            if how == "map":
                return pool.map_async(toolbox.evaluate, masks).get(timeout=60)
            if how == "starmap":
                return pool.starmap_async(toolbox.evaluate, [(mask,) for mask in masks]).get(timeout=60)
            found = pool.imap(toolbox.evaluate, masks)
            return [found.next(timeout=60) for _ in masks]

    return run


def through_global(toolbox: base.Toolbox, masks: list[ep.Mask]) -> list[tuple[float, ...]]:
    GLOBAL["evaluator"] = toolbox.evaluate
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map_async(evaluate_global, masks).get(timeout=60)


def run(toolbox: base.Toolbox, generations: int = 2) -> list[ep.Mask]:
    random.seed(0)
    population, _ = algorithms.eaSimple(toolbox.population(n=4), toolbox, 0.5, 0.5, generations, verbose=False)
    return population
