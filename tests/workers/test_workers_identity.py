"""Workers of every kind that are given one problem after another mix nothing up."""

from pathlib import Path

import pytest
from support.processes import finish, start

pytestmark = pytest.mark.process

SCRIPT = """
import sys
from collections import namedtuple
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

import evoprune as ep


class Net(nn.Module):
    def __init__(self, act):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.act = nn.Linear(20, 64), nn.Linear(64, 2), act

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Loss:
    def __init__(self, smoothing=0.0, weight=(1.0, 1.0)):
        self._smoothing, self._weight = smoothing, torch.tensor(weight)

    def __call__(self, outputs, targets):
        return F.cross_entropy(outputs, targets, self._weight, label_smoothing=self._smoothing)

    def bound(self, outputs, targets):
        return self(outputs, targets)


@dataclass
class Config:
    slope: float = 0.2
    more: list = field(default_factory=list)


Range = namedtuple("Range", "low high")


class Outer:
    class Inner:
        def __init__(self):
            self.config, self.range = Config(), Range(0.0, 2.0)

        def __call__(self, x):
            return F.leaky_relu(x, self.config.slope).clamp(self.range.low - 1, self.range.high)


def leaky(x):
    return F.leaky_relu(x, SLOPE)


SLOPE = 0.3
ACTS = {"relu": torch.relu, "tanh": torch.tanh, "sin": torch.sin, "module": nn.SiLU(), "function": leaky,
        "object": Outer.Inner()}  # fmt: skip
LOSSES = {
    "plain": Loss(0.05), "smoothed": Loss(0.2), "weighted": Loss(weight=(1.0, 5.0)), "method": Loss(0.3).bound,
    "module": nn.CrossEntropyLoss(label_smoothing=0.1), "other module": nn.CrossEntropyLoss(weight=torch.tensor([2.0, 1.0])),
}  # fmt: skip

if __name__ == "__main__":
    x = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    data = ep.Data(train=(x, (x[:, 0] > 0).long()))
    recipe, workers = ep.Recipe(epochs=1), ep.workers.choose_workers(sys.argv[1])  # the same for all
    for name, act, loss in [*((n, a, None) for n, a in ACTS.items()), *((n, torch.relu, l) for n, l in LOSSES.items())]:
        problem = ep.Problem(model=Net(act), data=data, loss=loss, recipe=recipe)
        found = ep.k_starts(problem, k=2, sparsity=0.8, fitness="loss", fitness_epochs=1, controls=False, workers=workers)
        print(name, found.summary["winner_fitness"], found.summary["test_loss"], flush=True)
"""


def run(folder: Path, workers: str, *launcher: str) -> list[str]:
    process = start([*launcher, str(folder / "script.py"), workers], folder)
    code, output = finish(process, 200)
    assert code == 0, output
    noise = ("evoprune.scoop:", "  warnings.warn(")
    return [line for line in output.splitlines() if not line.startswith(noise)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixed")
    (path / "script.py").write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def serial(folder: Path) -> list[str]:
    lines = run(folder, "serial")
    assert len({line.split()[-1] for line in lines}) == len(lines) == 12  # all differ
    return lines


@pytest.mark.slow
def test_scoop_mixes_no_problems(folder: Path, serial: list[str]) -> None:
    assert run(folder, "scoop", "-m", "evoprune.scoop", "-n", "2") == serial


@pytest.mark.slow
def test_dask_mixes_no_problems(folder: Path, serial: list[str]) -> None:
    assert run(folder, "dask:2") == serial


@pytest.mark.slow
def test_a_pool_mixes_no_problems(folder: Path, serial: list[str]) -> None:
    assert run(folder, "pool:2") == serial


OWN = """
import sys
import torch
import evoprune as ep

if __name__ == "__main__":
    SMOOTHING = 0.1  # which the main process alone has

    def mine(trained, validation):
        return -validation.loss + SMOOTHING * validation.accuracy

    ep.register.fitness("registered", lambda trained, validation: validation.accuracy - validation.loss)
    loss = lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets, label_smoothing=SMOOTHING)
    x = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    problem = ep.Problem(torch.nn.Linear(20, 2), ep.Data(train=(x, (x[:, 0] > 0).long())), ep.Recipe(epochs=1), loss=loss)
    for fitness in (mine, "registered"):
        toolbox = ep.make_toolbox(problem, sparsity=0.8, fitness=fitness, fitness_epochs=1, workers=sys.argv[1])
        with toolbox.map.func:
            print([value.hex() for (value,) in toolbox.map(toolbox.evaluate, toolbox.population(n=4))])
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own")
    (path / "script.py").write_text(OWN)
    return path


@pytest.fixture(scope="module")
def own_serially(own: Path) -> list[str]:
    lines = run(own, "serial")
    assert len(set(lines)) == 2
    return lines


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("workers", "launcher"), [("scoop", ("-m", "evoprune.scoop", "-n", "2")), ("dask:2", ()), ("pool:2", ())]
)
def test_lambdas_and_what_the_main_process_alone_has_travel(
    own: Path, own_serially: list[str], workers: str, launcher: tuple[str, ...]
) -> None:
    assert run(own, workers, *launcher) == own_serially


def test_a_module_that_the_script_changes_is_refused(folder: Path) -> None:
    """Modules beside a script are imported by workers, and do not travel."""
    (folder / "slopes.py").write_text(
        "from torch.nn import functional as F\nSLOPE = 0.3\n\ndef leaky(x):\n    return F.leaky_relu(x, SLOPE)\n"
    )
    changed = SCRIPT.replace("    recipe, workers =", "    slopes.SLOPE = 0.5\n    recipe, workers =").replace(
        '{"relu": torch.relu, ', '{"first": slopes.leaky, '
    )
    (folder / "changed.py").write_text("import slopes\n" + changed)
    process = start(["-m", "evoprune.scoop", "-n", "1", str(folder / "changed.py"), "scoop"], folder)
    code, output = finish(process, 200)
    assert code == 1, output
    assert "these differ: network" in output
    assert "modules whose globals the script does not change" in output
