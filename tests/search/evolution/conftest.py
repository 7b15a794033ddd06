"""Fixtures: an evolution that has ended, and a fitness that is always the same."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.evolution import SMALL, SPARSITY, Watch

import evoprune as ep
from evoprune.evaluation.terms import FITNESS, TERMS


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evolve") / "run"


@pytest.fixture(scope="module")
def result(digits: ep.Problem, folder: Path, watch: Watch) -> ep.Result:
    return ep.evolve(digits, SMALL, sparsity=SPARSITY, trained_bests=2, callbacks=[watch], out=folder)


@pytest.fixture
def constant() -> Iterator[str]:
    """A fitness that is the same for all masks."""
    ep.register_fitness("constant", lambda trained, validation: np.ones(len(validation.loss)))
    yield "constant"
    TERMS.forget("constant")
    FITNESS.forget("constant")
