"""Problems and networks on which baselines are computed by hand."""

import numpy as np
import torch
from torch import nn

from evoprune.baselines import BASELINES
from evoprune.problem.data import Data
from evoprune.problem.problem import Problem
from evoprune.problem.recipe import Recipe

SPARSITIES = [0.0, 0.3, 0.5, 0.8, 0.9, 0.98, 0.999]
LEARNED = sorted(set(BASELINES) - {"dense"})


def tiny_problem(bias, activation=nn.ReLU, **options):
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(60, 6, generator=draws, dtype=torch.float64)
    y = torch.arange(60) % 3
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layers = [nn.Linear(6, 5, bias), activation(), nn.Linear(5, 4, bias), activation(), nn.Linear(4, 3, bias)]
    data = Data(train=(x, y), validation=(x[:9], y[:9]), test=(x[:9], y[:9]))
    return Problem(nn.Sequential(*layers), data, **{"recipe": Recipe(epochs=3, batch_size=16), "dtype": "float64"} | options)


def w0(problem):
    return torch.cat([problem.network().state_dict()[name].flatten() for name in problem.shapes])


def largest(scores, count):
    """The mask by plain sorting; of equal scores the earlier."""
    kept = np.zeros(len(scores), bool)
    kept[sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))[:count]] = True
    return kept
