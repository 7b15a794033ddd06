"""The estimate of a search before it starts."""

import pytest

import evoprune as ep
from evoprune.cli.estimate import estimate, print_estimate
from evoprune.search.method import make_options
from evoprune.search.registry import find_method

PROBLEM = ep.Problem(model="mlp", widths=(12,), recipe=ep.Recipe(epochs=4))


@pytest.mark.parametrize(
    ("name", "given", "evaluations", "epochs"),
    [
        ("kstarts", {"k": 6, "sparsity": 0.5, "fitness_epochs": 1}, "6", (5 + 4) * 0.5),
        ("combine", {"k": 3, "sparsity": 0.75, "first_sparsity": 0.5, "dissipate_epochs": 1, "fitness_epochs": 1}, "3", 2.25),
        ("evolve", {"k": 2, "generations": 3, "mutation": "swap", "sparsity": 0.5}, "16", (15 + 4) * 0.5),
        ("erk", {"sparsity": 0.75}, "0", 1.0),
    ],
)
def test_evaluations_and_cost_are_those_of_the_method(name, given, evaluations, epochs):
    method = find_method(name)
    options, _ = make_options(method, given)
    found = estimate(PROBLEM, method, options, "module")
    assert found["evaluations"] == evaluations
    assert found["dense epochs"].startswith(f"{epochs:.3g} ")
    assert found["engine"].startswith("module")


def test_bad_options_are_refused_before_any_estimate():
    with pytest.raises(ep.InputError, match="k is 0"):
        print_estimate(PROBLEM, find_method("kstarts"), {"k": 0})
