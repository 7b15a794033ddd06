"""Baselines: published ways to a mask, which the searches are measured against, and sanity checks of masks.

Each returns a mask with exactly ``round((1 - sparsity) * n)`` survivors. Scores are compared over all prunable weights at
once; scores that are all equal are refused, since they rank nothing, and scores of zero among those kept are warned of, as is a
mask that cuts off layers or outputs. Problem and global random states stay as they were.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evoprune import engines, seeds
from evoprune.brief import UNKNOWN_COLLAPSE, collapse_note, torch_threads
from evoprune.data import Pair, is_labels
from evoprune.errors import CollapseWarning, EvopruneError, InputError, RunError
from evoprune.forks import settle
from evoprune.initialize import random_mask, survivors_of
from evoprune.mask import Bits, Mask
from evoprune.problem import Problem
from evoprune.seeds import noise
from evoprune.train import train

P = ParamSpec("P")

EXAMPLES_PER_CLASS = 10
EXAMPLES_WITHOUT_CLASSES = 100
TEMPERATURE = 200.0
SYNFLOW_ITERATIONS = 100

# Rounds of the iterative lottery ticket.
ROUNDS = 5


def _says_collapse(prune: Callable[P, Mask]) -> Callable[P, Mask]:
    """Lets a baseline warn where its mask cuts off layers or outputs."""

    @functools.wraps(prune)
    def call(*arguments: P.args, **options: P.kwargs) -> Mask:
        mask = prune(*arguments, **options)
        problem = options.get("problem", arguments[0] if arguments else None)
        assert isinstance(problem, Problem)
        cut_off = collapse_note(problem, mask)
        if cut_off and not cut_off.startswith(UNKNOWN_COLLAPSE):
            text = f"the mask of {prune.__name__} cuts off: {cut_off}; lower the sparsity, or take another baseline."
            warnings.warn(text, CollapseWarning, stacklevel=2)
        return mask

    return call


@_says_collapse
def random(problem: Problem, *, sparsity: float, seed: int | None = None) -> Mask:
    """Returns a random mask with the same density in every layer.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        seed: Its stream ``masks`` is used; None takes the problem's.

    Raises:
        InputError: The sparsity is out of range or keeps nothing.
    """
    return random_mask(problem.shapes, sparsity, seeds.generator(_seed(problem, seed), "masks"), "uniform")


@_says_collapse
def erk(problem: Problem, *, sparsity: float, seed: int | None = None) -> Mask:
    """Returns a random mask with the layer densities of ERK (Evci et al. 2020, arXiv:1911.11134, section 3).

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        seed: Its stream ``masks`` is used; None takes the problem's.

    Raises:
        InputError: The sparsity is out of range or keeps nothing.
    """
    return random_mask(problem.shapes, sparsity, seeds.generator(_seed(problem, seed), "masks"), "erk")


def dense(problem: Problem) -> Mask:
    """Returns the mask that keeps everything."""
    return Mask(np.ones(problem.prunable_count, bool), problem.shapes)


@_says_collapse
def magnitude(problem: Problem, *, sparsity: float) -> Mask:
    """Keeps the largest initial weights, by |W0|: a control of Frankle et al. 2021, arXiv:2009.08576.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).

    Raises:
        InputError: The sparsity is out of range or keeps nothing.
    """
    count = survivors_of(sparsity, problem.prunable_count)
    scores = _flat([w.abs() for w in _prunable(problem, problem.network())])
    return _keep_best(problem, "magnitude", scores, count)


@_says_collapse
def snip(problem: Problem, *, sparsity: float, examples: int | None = None, seed: int | None = None) -> Mask:
    """SNIP: keeps the weights to which the loss is most sensitive, |g * w| (Lee et al. 2019, arXiv:1810.02340, eq. 6).

    That is |dL/dc| of multiplicative masks c at c = 1. The paper's division by the sum changes no order and is left out.
    The network is in training mode, as it is when it is trained.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        examples: Training examples in the one batch; None: see :func:`default_examples`. They are drawn without replacement,
            of each class the same number as far as the data allow.
        seed: Its stream ``masks`` draws the examples and dropout's noise; None takes the problem's.

    Raises:
        InputError: A value out of range.
        RunError: Gradients are not finite.
    """
    count = survivors_of(sparsity, problem.prunable_count)
    x, target = _draw_examples(problem, examples, seed)
    with _scoring(problem, "snip", seed):
        network = problem.network()
        weights = _prunable(problem, network)
        gradients = torch.autograd.grad(problem.loss(network(x), target), weights, materialize_grads=True)
        scores = [(g * w).abs() for g, w in zip(gradients, weights, strict=True)]
    return _keep_best(problem, "snip", _flat(scores), count)


@_says_collapse
def grasp(
    problem: Problem,
    *,
    sparsity: float,
    examples: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
) -> Mask:
    """GraSP: keeps the weights whose removal would lower the gradient's norm most (Wang et al. 2020, arXiv:2002.07376, eq. 8).

    Removing a weight changes the gradient flow by S(-w) = -w * (H g); those with the largest S are removed, so those with
    the largest w * (H g) are kept, negative ones last. g and H are the gradient and Hessian of the loss in all prunable
    weights. As in the authors' code outputs are divided by a temperature, and the batch holds ten examples a class; unlike
    there, linear layers are not drawn anew before they are scored: W0 is the problem's.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        examples: See :func:`snip`.
        temperature: Divides the outputs before the loss. None: 200, as in the authors' code, for cross-entropy, and 1 for
            other losses, whose outputs have a scale of their own.
        seed: See :func:`snip`.

    Raises:
        InputError: A value out of range.
        RunError: Gradients are not finite.
    """
    count = survivors_of(sparsity, problem.prunable_count)
    if temperature is None:
        temperature = TEMPERATURE if problem.loss_name == "cross-entropy" else 1.0
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature is {temperature}; expected a positive number, such as {TEMPERATURE:g}.")
    x, target = _draw_examples(problem, examples, seed)
    # PyTorch's fused attention has no second derivative
    with _scoring(problem, "grasp", seed), sdpa_kernel(SDPBackend.MATH):
        network = problem.network()
        weights = _prunable(problem, network)
        loss = problem.loss(network(x) / temperature, target)
        gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        # d(g' stop(g)) / dw = H g
        flow = torch.stack([(g * g.detach()).sum() for g in gradients]).sum()
        products = torch.autograd.grad(flow, weights, materialize_grads=True)
        scores = [w * product for w, product in zip(weights, products, strict=True)]
    return _keep_best(problem, "grasp", _flat(scores), count)


@_says_collapse
def synflow(problem: Problem, *, sparsity: float, iterations: int = SYNFLOW_ITERATIONS) -> Mask:
    """SynFlow: keeps the weights that carry most flow, without data (Tanaka et al. 2020, arXiv:2006.05467, algorithm 1).

    In each iteration the score is (dR/dw) * w, where R sums the outputs for an input of ones in a network of absolute
    values, biases included, in evaluation mode; density falls as d^(k / iterations). In float64, since R is a product over the
    layers. Buffers stay as they are, where the authors' code takes their absolute values, too: what a buffer holds, such as a
    causal mask of minus infinity, is no weight.

    Args:
        problem: The problem; its data give one input's shape, no more. An input of an integer type is ones as well.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        iterations: Iterations; 100 in the paper.

    Raises:
        InputError: A value out of range.
        RunError: The flow is not finite.
    """
    counts = _falling_counts(problem, sparsity, iterations, "iterations")
    network = problem.network().double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    weights = _prunable(problem, network)
    x = problem.data.train[0][:1]
    ones = torch.ones_like(x, dtype=torch.float64 if x.is_floating_point() else x.dtype)
    mask = dense(problem)
    with _scoring(problem, "synflow", None):
        for count in counts:
            gradients = torch.autograd.grad(network(ones).sum(), weights, materialize_grads=True)
            scores = _flat([g * w for g, w in zip(gradients, weights, strict=True)])
            mask = _keep_best(problem, "synflow", scores, count, mask, count == counts[-1])
            with torch.no_grad():
                for weight, layer in zip(weights, mask.layers.values(), strict=True):
                    weight.mul_(torch.from_numpy(layer).to(weight.device))
    return mask


@_says_collapse
def lottery_ticket(
    problem: Problem,
    *,
    sparsity: float,
    rounds: int = 1,
    engine: str = "module",
    threads: int = 1,
    seed: int | None = None,
    on_epoch: Callable[[], object] | None = None,
) -> Mask:
    """Lottery ticket: trains, keeps the largest trained weights, rewinds to W0.

    Source: Frankle and Carbin 2019, arXiv:1803.03635, section 1. Magnitudes are compared over all layers, as the paper does
    for deep networks (section 4); for LeNet-300-100 it compares within each layer, and prunes the output layer at half the
    rate (section 2).

    Args:
        problem: The problem; each round trains all epochs of its recipe from W0.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        rounds: Trainings: 1 prunes once ("one-shot"), more prune the density by the same factor after each.
        engine: Name of the engine, see :data:`evoprune.engines.ENGINES`.
        threads: Threads that torch uses.
        seed: Its stream ``order`` gives batches and noise, the same in every round; None takes the problem's.
        on_epoch: Called after each epoch.

    Raises:
        InputError: A value out of range, or an unknown engine.
        RunError: Weights are not finite after training.
    """
    counts = _falling_counts(problem, sparsity, rounds, "rounds")
    _check_positive("threads", threads)
    build = engines.require(engine, problem).build
    order = seeds.integer(_seed(problem, seed), "order")

    def after_epoch(*_: object) -> None:
        if on_epoch is not None:
            on_epoch()

    mask = dense(problem)
    for count in counts:
        with torch_threads(threads):
            population = build(problem, [mask])
            train(population, problem, problem.recipe.epochs, order, after_epoch)
        state = population.state(0)
        trained = _flat([state[name].abs() for name in problem.shapes])
        mask = _keep_best(problem, "lottery_ticket", trained, count, mask, count == counts[-1])
    return mask


def shuffled(mask: Mask, rng: np.random.Generator | int) -> Mask:
    """Returns the mask permuted within each layer, the layers' counts kept.

    A sanity check: of many methods it shows that they choose how many weights to keep in each layer, not which (Su et al.
    2020, arXiv:2009.11094; Frankle et al. 2021, arXiv:2009.08576).

    Args:
        mask: The mask, which stays as it is.
        rng: Source of the draws, or a seed, of which the stream ``variation`` is used.

    Raises:
        InputError: A seed that is not a non-negative integer.
    """
    rng = rng if isinstance(rng, np.random.Generator) else seeds.generator(rng, "variation")
    return Mask.from_layers({name: rng.permutation(layer.ravel()).reshape(layer.shape) for name, layer in mask.layers.items()})


def redrawn(problem: Problem, seed: int) -> Problem:
    """Returns the problem with other initial weights: the same split, batches, recipe and all else.

    A sanity check: a mask found for one W0 is trained from another (Frankle et al. 2021, arXiv:2009.08576; the "random
    reinitialization" of Frankle and Carbin 2019).

    Args:
        problem: The problem, which stays as it is.
        seed: Seeds the other W0; see :meth:`evoprune.problem.Problem.redrawn`.

    Raises:
        InputError: W0 comes out as it was.
    """
    return problem.redrawn(seed)


def top_scores(scores: Tensor, count: int) -> Bits:
    """Returns which scores are the largest: exactly ``count`` of them.

    Equal scores are taken in the order of their indices, so the result depends on the scores alone.

    Args:
        scores: Scores [n].
        count: How many to take, from 0 to n.

    Returns:
        An array [n] of booleans.

    Raises:
        InputError: A count out of range.
        RunError: Scores are not finite.
    """
    values = scores.detach().cpu().numpy()
    if values.ndim != 1 or not 0 <= count <= len(values):
        raise InputError(f"{count} of scores {values.shape}; expected from 0 to n of scores (n,).")
    wrong = len(values) - int(np.isfinite(values).sum())
    if wrong:
        raise RunError(
            f"{wrong} of {len(values)} scores are NaN or infinite, so the weights cannot be ranked; expected finite ones: "
            f"check that inputs and W0 are finite and of moderate scale, and, for a lottery ticket, lower the recipe's lr."
        )
    if count == 0:
        return np.zeros(len(values), bool)
    last = np.partition(values, len(values) - count)[len(values) - count]
    kept: Bits = values > last
    kept[np.flatnonzero(values == last)[: count - np.count_nonzero(kept)]] = True
    return kept


def default_examples(problem: Problem) -> int:
    """Returns how many training examples SNIP and GraSP take: ten a class, or 100 without classes, or all if fewer.

    Ten a class is GraSP's number, and on MNIST and CIFAR-10 about SNIP's one batch (100 and 128 examples).
    """
    x, target = problem.part("train")
    wanted = EXAMPLES_WITHOUT_CLASSES
    if problem.is_classification:
        wanted = EXAMPLES_PER_CLASS * len(np.unique(target.cpu().numpy()))
    return min(wanted, len(x))


@dataclass(frozen=True)
class Baseline:
    """A baseline's entry in the registry.

    Attributes:
        prune: Called as ``prune(problem, sparsity=..., seed=...)``; returns a :class:`Mask`. Those that draw nothing ignore
            the seed, and ``dense`` the sparsity.
        search_epochs: Epochs that it takes to find the mask with the default options, of the problem and the epochs of its
            recipe; one is a forward and backward pass for each training example.
        density: Mean density of the network in those epochs, of the sparsity.
    """

    prune: Callable[..., Mask]
    search_epochs: Callable[[Problem, int], float] = lambda problem, epochs: 0.0
    density: Callable[[float], float] = lambda sparsity: 1.0

    def search_cost(self, problem: Problem, sparsity: float, epochs: int) -> float:
        """Returns the multiply-adds that it takes to find the mask, in epochs of dense training."""
        return self.search_epochs(problem, epochs) * self.density(sparsity)


def _train_size(problem: Problem) -> int:
    return len(problem.data.train[0])


BASELINES: dict[str, Baseline] = {
    "random": Baseline(random),
    "erk": Baseline(erk),
    "magnitude": Baseline(lambda problem, *, sparsity, seed=None: magnitude(problem, sparsity=sparsity)),
    "snip": Baseline(snip, lambda problem, epochs: default_examples(problem) / _train_size(problem)),
    # the gradient is one pass, the Hessian's product with it another: backward through forward and backward
    "grasp": Baseline(grasp, lambda problem, epochs: 2 * default_examples(problem) / _train_size(problem)),
    "synflow": Baseline(
        lambda problem, *, sparsity, seed=None: synflow(problem, sparsity=sparsity),
        lambda problem, epochs: SYNFLOW_ITERATIONS / _train_size(problem),
    ),
    "lottery-ticket": Baseline(lottery_ticket, lambda problem, epochs: float(epochs)),
    "lottery-ticket-5": Baseline(
        functools.partial(lottery_ticket, rounds=ROUNDS),
        lambda problem, epochs: float(ROUNDS * epochs),
        lambda sparsity: sum((1 - sparsity) ** (i / ROUNDS) for i in range(ROUNDS)) / ROUNDS,
    ),
    "dense": Baseline(lambda problem, *, sparsity=0.0, seed=None: dense(problem)),
}


def _seed(problem: Problem, seed: int | None) -> int:
    return problem.seed if seed is None else seeds.check_seed(seed)


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}; expected a positive integer.")


def _falling_counts(problem: Problem, sparsity: float, steps: int, name: str) -> list[int]:
    """Returns how many survive after each step, the density falling by the same factor to the final one."""
    _check_positive(name, steps)
    n = problem.prunable_count
    final = survivors_of(sparsity, n)
    return [round((1 - sparsity) ** (step / steps) * n) for step in range(1, steps)] + [final]


def _prunable(problem: Problem, network: nn.Module) -> list[nn.Parameter]:
    """Returns the network's prunable weights; frozen ones are made to take gradients, for they are scored as well."""
    parameters = dict(network.named_parameters())
    weights = [parameters[name] for name in problem.shapes]
    for weight in weights:
        weight.requires_grad_()
    return weights


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _keep_best(problem: Problem, name: str, scores: Tensor, count: int, mask: Mask | None = None, last: bool = True) -> Mask:
    """Returns the mask of the best scores.

    Args:
        problem: The problem.
        name: Name of the baseline.
        scores: Scores of all prunable weights.
        count: How many to keep.
        mask: Those that are still there; None for all.
        last: It is the last selection, so scores of zero that it keeps are warned of.

    Raises:
        RunError: The scores are not finite, all zero, or, as long as all weights are there, all equal.
    """
    there = np.ones(len(scores), bool) if mask is None else mask.bits
    values = scores.detach().cpu()[torch.from_numpy(there)]
    best = top_scores(values, count)
    # of the last few weights of several selections other scores than zero may be equal: those of a single path
    if count < len(values) and values.min() == values.max() and (there.all() or not values.any()):
        raise RunError(
            f"all {len(values):,} scores of {name} are {values.max() + 0.0:g}; they rank nothing{_blocked(problem, there)}. "
            f"Expected initial weights, examples and activations that let signals and gradients through."
        )
    found = Mask(there, problem.shapes)
    found.bits[there] = best
    zero = Mask(there, problem.shapes)
    zero.bits[there] = best & (values == 0).numpy()
    if last and count < len(values) and zero.survivors:
        layers = ", ".join(f"{layer.sum():,} in {layer_name}" for layer_name, layer in zero.layers.items() if layer.any())
        warnings.warn(
            f"{name}: of the {count:,} weights that it keeps {zero.survivors:,} have a score of zero ({layers}), which ranks "
            f"nothing: the first by index are kept. Take a higher sparsity, or another baseline.",
            stacklevel=4,
        )
    return found


def _blocked(problem: Problem, there: Bits) -> str:
    """Returns in words which layers let no signal through, and the cure."""
    mask = Mask(there, problem.shapes)
    emptied = [name for name, layer in mask.layers.items() if not layer.any()]
    if emptied:
        return f": nothing is left of {', '.join(emptied)}; lower the sparsity"
    zero = [name for name, weight in problem.network().named_parameters() if weight.ndim > 1 and not weight.any()]
    return f": the initial weights of {', '.join(zero)} are zero; initialise them" if zero else ""


@contextmanager
def _scoring(problem: Problem, name: str, seed: int | None) -> Iterator[None]:
    """Takes gradients with one thread, so that their bits depend on no setting, and noise of the seed's own.

    Raises:
        RunError: The network cannot be scored.
    """
    try:
        with torch_threads(1), noise(seeds.integer(_seed(problem, seed), "masks"), 0):
            yield
    except (EvopruneError, MemoryError):
        raise
    except Exception as error:
        raise RunError(
            f"{name} cannot score this network: {type(error).__name__}: {error}".replace("\n", " ")
            + "; expected a forward pass and derivatives that PyTorch has; take another baseline."
        ) from error


def _draw_examples(problem: Problem, examples: int | None, seed: int | None) -> Pair:
    """Draws training examples without replacement, class by class in turn, so that the classes are as equal as can be."""
    settle()  # taking examples is threaded work, too
    x, target = problem.part("train")
    n = len(x)
    count = default_examples(problem) if examples is None else examples
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= n:
        raise InputError(f"examples is {count!r}; expected an integer from 1 to the {n} training examples.")
    order = seeds.generator(_seed(problem, seed), "masks").permutation(n)
    if is_labels(target) and target.ndim == 1:
        _, classes, sizes = np.unique(target.cpu().numpy()[order], return_inverse=True, return_counts=True)
        turn = np.empty(n, np.int64)  # an example's turn within its class
        turn[np.argsort(classes, kind="stable")] = np.concatenate([np.arange(size) for size in sizes])
        order = order[np.argsort(turn, kind="stable")]
    rows = torch.from_numpy(order[:count]).to(x.device)
    return x[rows], target[rows]
