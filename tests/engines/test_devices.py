"""Nothing mixes devices, and no step waits for the GPU: on a GPU that is not there, see support/elsewhere.py."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.elsewhere import Memory, cuda_elsewhere
from torch import nn

import evoprune as ep
from evoprune.baselines import saliency
from evoprune.baselines.registry import BASELINES
from evoprune.engines.population import Stint
from evoprune.engines.registry import ENGINES
from evoprune.engines.snapshot import begin, take_snapshots
from evoprune.engines.steps import train_steps
from evoprune.search.registry import METHODS, prune
from evoprune.training.loop import train
from evoprune.training.measure import measure
from evoprune.training.registry import SCHEDULES

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(3))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
DENSE = ("module", "stacked")


class Net(nn.Module):
    """Has buffers, noise, and a statistic of the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.norm, self.noise, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.noise(torch.relu(self.norm(self.a(x)))))  # type: ignore[no-any-return]


def problem_on(device: str, **options: object) -> ep.Problem:
    data = ep.Data((X[:32], Y[:32]), (X[32:40], Y[32:40]), (X[40:], Y[40:]))
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.5]))
    return ep.Problem(Net(), data, ep.Recipe(epochs=2, batch_size=8), device=device, loss=loss, **options)


@pytest.fixture(scope="module")
def here() -> ep.Problem:
    return problem_on("cpu")


@pytest.fixture(scope="module")
def gpu() -> Memory:
    return Memory()


@pytest.fixture(scope="module")
def there(gpu: Memory) -> ep.Problem:
    with cuda_elsewhere(gpu):
        return problem_on("cuda")


@pytest.fixture
def memory(gpu: Memory) -> Iterator[Memory]:
    with cuda_elsewhere(gpu):
        gpu.waits.clear()
        yield gpu


def masks_of(problem: ep.Problem, k: int) -> list[ep.Mask]:
    rng = np.random.default_rng(0)
    return [ep.random_mask(problem.shapes, 0.5, rng) for _ in range(k)]


def test_the_device_that_is_not_there_refuses_what_a_gpu_refuses(memory: Memory) -> None:
    x = torch.ones(3, 2).to("cuda")
    assert (x.device.type, x.is_cuda, torch.zeros_like(x)[0].device.type, x.cpu().device.type) == ("cuda", True, "cuda", "cpu")
    mixed = (lambda: x + torch.ones(3, 2), lambda: x.index_select(0, torch.arange(2)), lambda: x.masked_fill_(x.cpu() > 0, 0))
    for call in mixed:
        with pytest.raises(RuntimeError, match="same device"):
            call()
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    memory.waits.clear()
    assert float((x * 2 + torch.tensor(1.0)).sum()) == 18
    assert memory.waits == {"aten._local_scalar_dense": 1}


def test_a_problem_is_the_same_on_every_device(here: ep.Problem, there: ep.Problem, memory: Memory) -> None:
    assert there.hash == here.hash
    scaled = [problem_on(device, w0_density=0.3) for device in ("cpu", "cuda")]
    assert scaled[0].hash == scaled[1].hash != here.hash
    assert {t.device.type for t in (*there.network().parameters(), *there.network().buffers(), *there.part("test"))} == {"cuda"}


def test_modules_and_data_may_be_given_on_a_gpu(memory: Memory) -> None:
    data = ep.Data(train=(X.to("cuda"), Y.to("cuda")))
    problems = [ep.Problem(Net().to("cuda"), data, device=device) for device in ("cpu", "cuda")]
    assert problems[0].hash == problems[1].hash
    assert [next(problem.network().parameters()).device.type for problem in problems] == ["cpu", "cuda"]
    assert [problem.part("train")[0].device.type for problem in problems] == ["cpu", "cuda"]


@pytest.mark.parametrize("engine", DENSE)
def test_steps_do_not_wait_for_the_device(there: ep.Problem, memory: Memory, engine: str) -> None:
    population = ENGINES[engine].build(there, masks_of(there, ENGINES[engine].chunk(2)))
    optimizer = there.recipe.make_optimizer(list(population.parameters()))
    gradients = [torch.zeros_like(weight) for weight in population.weights]
    rows = torch.arange(8, device="cuda")
    for steps in (1, 5):
        memory.waits.clear()
        train_steps(population, there, Stint([rows] * steps, [0.1] * steps), optimizer, gradients)
        assert memory.waits == {"to the CPU": 1}
    memory.waits.clear()
    measure(population, there, "train")
    assert memory.waits == {"to the CPU": 2}


@pytest.mark.parametrize("engine", DENSE)
def test_a_search_has_the_same_bits(here: ep.Problem, there: ep.Problem, memory: Memory, engine: str) -> None:
    found = [ep.k_starts(p, k=2, sparsity=0.5, fitness_epochs=1, engine=engine, controls=False) for p in (here, there)]
    assert found[0].mask == found[1].mask
    assert found[0].summary["test_loss"] == found[1].summary["test_loss"]


@pytest.mark.parametrize(("engine", "optimizer"), [("module", "NAdam"), ("module", "ASGD"), ("stacked", "Adam")])
def test_training_continues_from_a_snapshot(
    here: ep.Problem, there: ep.Problem, memory: Memory, engine: str, optimizer: str
) -> None:
    recipe, kind = ep.Recipe(epochs=2, batch_size=8, optimizer=optimizer, lr=0.01), ENGINES[engine]
    found = []
    for problem in (here.with_recipe(recipe), there.with_recipe(recipe)):
        masks = masks_of(problem, kind.chunk(2))
        trained = train(kind.build(problem, masks), problem, 1, 7)
        taken = take_snapshots(trained.population, trained.optimizer, 1, [[] for _ in masks])
        again = train(begin(kind, problem, masks, taken), problem, 1, 7)
        found.append(take_snapshots(again.population, again.optimizer, 2, [[] for _ in masks]))
    for one, other in zip(*found, strict=True):
        assert one.mask == other.mask
        # torch takes other steps for several tensors at once, as by default on a GPU
        for name, tensor in one.tensors.items():
            if not name.endswith("/a.bias"):  # the norm behind it leaves its gradient nothing but rounding
                assert torch.allclose(tensor, other.tensors[name], rtol=1e-3, atol=1e-5), name


def test_shared_numbers_lie_where_torch_has_them(there: ep.Problem, memory: Memory) -> None:
    """As after ``torch.optim.Optimizer.load_state_dict``."""
    places = {}
    for name, options in {"Adam": {}, "AdamW": {"capturable": True}, "NAdam": {}}.items():
        problem = there.with_recipe(ep.Recipe(epochs=1, batch_size=16, optimizer=name, options=options))
        (mask,) = masks_of(problem, 1)
        shared = {"shared/step": torch.tensor(4.0), "shared/mu_product": torch.tensor(0.5)}
        snapshot = take_snapshots(
            ENGINES["module"].build(problem, [mask]), problem.recipe.make_optimizer([nn.Parameter(torch.zeros(1))]), 0, [[]]
        )[0]
        begun = begin(ENGINES["module"], problem, [mask], [replace(snapshot, tensors={**snapshot.tensors, **shared})])
        assert begun.optimizer is not None
        state = next(iter(begun.optimizer.state.values()))
        places[name] = (state["step"].device.type, state["mu_product"].device.type)
    assert places == {"Adam": ("cpu", "cuda"), "AdamW": ("cuda", "cuda"), "NAdam": ("cpu", "cuda")}


def test_baselines_that_score_find_the_same_masks(here: ep.Problem, there: ep.Problem, memory: Memory) -> None:
    for find in (saliency.magnitude, saliency.snip, saliency.grasp):
        assert find(here, sparsity=0.5) == find(there, sparsity=0.5)
    for find in (saliency.force, saliency.synflow):
        assert find(here, sparsity=0.5, iterations=2) == find(there, sparsity=0.5, iterations=2)


def test_masks_change_on_the_device(here: ep.Problem, there: ep.Problem, memory: Memory) -> None:
    found = [prune(problem, "rigl", sparsity=0.5, engine="stacked", every=3) for problem in (here, there)]
    assert found[0].mask == found[1].mask
    assert found[0].summary["test_loss"] == found[1].summary["test_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BASELINES, *METHODS, *SCHEDULES])
def test_every_method_finds_the_same_mask(here: ep.Problem, there: ep.Problem, memory: Memory, name: str) -> None:
    options: dict[str, object] = {} if name in ("dense", "train") else {"sparsity": 0.5}
    if name == "train":
        options = {"mask": masks_of(here, 1)[0]}
    if name in ("kstarts", "combine", "evolve", "evolve-gmp"):
        options |= {"k": 4, "fitness_epochs": 1}
    if name in ("evolve", "evolve-gmp"):
        options |= {"generations": 2}
    if name == "evolve":
        options |= {"mutation": "informed", "inherit": True}
    if name == "combine":
        options |= {"first_sparsity": 0.3}
    if name in ("combine", "dissipate"):
        options |= {"dissipate_epochs": 1}
    found = [prune(problem, name, engine="module", **options) for problem in (here, there)]
    assert found[0].mask == found[1].mask
    assert found[0].summary["test_loss"] == found[1].summary["test_loss"]
