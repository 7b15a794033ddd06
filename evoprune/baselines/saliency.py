"""Baselines that score weights at initialization: magnitude, SNIP, GraSP, SynFlow."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evoprune import seeds
from evoprune.baselines.random_masks import dense
from evoprune.baselines.scores import falling_counts, flatten, keep_best, prunable_weights, says_collapse, scoring, seed_of
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.masks.random import survivors_of
from evoprune.problem.arrays import is_labels
from evoprune.problem.data import Pair
from evoprune.problem.fused import without_cudnn
from evoprune.problem.kinds import PRUNABLE_MODULES
from evoprune.problem.problem import Problem
from evoprune.system.forks import settle

EXAMPLES_PER_CLASS = 10
EXAMPLES_WITHOUT_CLASSES = 100
TEMPERATURE = 200.0
SYNFLOW_ITERATIONS = 100
SNIP_ITERATIONS = 30


@says_collapse
def magnitude(problem: Problem, *, sparsity: float) -> Mask:
    """Magnitude: keeps the largest initial weights, by |W0|; a control of Frankle et al. 2021, arXiv:2009.08576.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).

    Raises:
        InputError: The sparsity is out of range or keeps nothing.
    """
    count = survivors_of(sparsity, problem.prunable_count)
    scores = flatten([w.abs() for w in prunable_weights(problem, problem.network())])
    return keep_best(problem, "magnitude", scores, count)


@says_collapse
def snip(problem: Problem, *, sparsity: float, examples: int | None = None, seed: int | None = None) -> Mask:
    """SNIP: keeps the weights to which the loss is most sensitive, |g * w| (Lee et al. 2019, arXiv:1810.02340, eq. 6).

    That is |dL/dc| of multiplicative masks c at c = 1. The paper's division by the sum changes no order and is left out.
    The network is in training mode, as it is when it is trained.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        examples: Training examples in the one batch; None: see :func:`default_examples`. They are drawn without replacement,
            the same number of each class as far as the data allow.
        seed: Its stream ``masks`` draws the examples and dropout's noise; None takes the problem's.

    Raises:
        InputError: A value out of range.
        RunError: Gradients are not finite.
    """
    count = survivors_of(sparsity, problem.prunable_count)
    x, target = _draw_examples(problem, examples, seed)
    with scoring(problem, "snip", seed):
        network = problem.network()
        weights = prunable_weights(problem, network)
        gradients = torch.autograd.grad(problem.loss(network(x), target), weights, materialize_grads=True)
        scores = [(g * w).abs() for g, w in zip(gradients, weights, strict=True)]
    return keep_best(problem, "snip", flatten(scores), count)


@says_collapse
def iterative_snip(
    problem: Problem,
    *,
    sparsity: float,
    iterations: int = SNIP_ITERATIONS,
    examples: int | None = None,
    seed: int | None = None,
) -> Mask:
    """Iterative SNIP: SNIP again and again on the pruned network, as density falls (de Jorge et al. 2021, arXiv:2006.09081).

    In each iteration the survivors are ranked by |g * w|, g the gradient of the network that is left, and density falls by the
    same factor (section 4). All iterations take the same examples. If no gradient is left, the ranking before decides.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        iterations: Iterations; one is SNIP.
        examples: See :func:`snip`.
        seed: See :func:`snip`.

    Raises:
        InputError: A value out of range.
        RunError: Gradients are not finite.
    """
    return _prune_again(problem, "iterative_snip", sparsity, iterations, _draw_examples(problem, examples, seed), seed)


@says_collapse
def force(
    problem: Problem,
    *,
    sparsity: float,
    iterations: int = SNIP_ITERATIONS,
    examples: int | None = None,
    seed: int | None = None,
) -> Mask:
    """FORCE: iterative SNIP in which pruned weights may come back (de Jorge et al. 2021, arXiv:2006.09081, section 4).

    All weights are ranked by |g * w0|, g the gradient of the network that is left, those that were pruned before, too.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        iterations: Iterations; one is SNIP.
        examples: See :func:`snip`.
        seed: See :func:`snip`.

    Raises:
        InputError: A value out of range.
        RunError: Gradients are not finite.
    """
    return _prune_again(problem, "force", sparsity, iterations, _draw_examples(problem, examples, seed), seed)


def _prune_again(problem: Problem, name: str, sparsity: float, iterations: int, batch: Pair, seed: int | None) -> Mask:
    counts, mask = falling_counts(problem, sparsity, iterations, "iterations"), dense(problem)
    x, target = batch
    for i, count in enumerate(counts):
        with scoring(problem, name, seed):
            network = problem.network()
            weights = prunable_weights(problem, network)
            initial = [weight.detach().clone() for weight in weights]
            with torch.no_grad():
                for weight, layer in zip(weights, mask.layers.values(), strict=True):
                    weight.mul_(torch.from_numpy(layer).to(weight.device))
            gradients = torch.autograd.grad(problem.loss(network(x), target), weights, materialize_grads=True)
            found = flatten([(g * w).abs() for g, w in zip(gradients, initial, strict=True)])
        if i == 0 or bool(found.any()):  # else the network that is left passes no gradient, and the last ranking stays
            scores = found
        mask = keep_best(problem, name, scores, count, None if name == "force" else mask, i == len(counts) - 1)
    return mask


@says_collapse
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
    weights. As in the authors' code, outputs are divided by a temperature, and the batch holds ten examples a class; unlike
    there, linear layers are not drawn anew before they are scored: W0 is the problem's.

    Args:
        problem: The problem.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        examples: See :func:`snip`.
        temperature: Divides the outputs before the loss. None: 200, as in the authors' code, for cross-entropy, and 1 for
            other losses, whose outputs have another scale.
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
    network = problem.network()
    with scoring(problem, "grasp", seed), sdpa_kernel(SDPBackend.MATH), without_cudnn(network):
        weights = prunable_weights(problem, network)
        loss = problem.loss(network(x) / temperature, target)
        gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        # d(g' stop(g)) / dw = H g
        flow = torch.stack([(g * g.detach()).sum() for g in gradients]).sum()
        products = torch.autograd.grad(flow, weights, materialize_grads=True)
        scores = [w * product for w, product in zip(weights, products, strict=True)]
    return keep_best(problem, "grasp", flatten(scores), count)


@says_collapse
def synflow(problem: Problem, *, sparsity: float, iterations: int = SYNFLOW_ITERATIONS) -> Mask:
    """SynFlow: keeps the weights that carry most flow, without data (Tanaka et al. 2020, arXiv:2006.05467, algorithm 1).

    In each iteration the score is (dR/dw) * w, where R sums the outputs for an input of ones in a network of absolute
    values, biases included, in evaluation mode; density falls as d^(k / iterations). It is computed in float64, since R is
    a product over the layers. Buffers stay as they are, although the authors' code takes their absolute values, too: a
    buffer, such as a causal mask of minus infinity, is no weight. A prunable embedding takes a one for each of its rows: it is
    a linear layer on one-hot vectors, and each position gets the sum of its rows.

    Args:
        problem: The problem; its data give the shape of an input alone. Integer inputs are ones as well.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        iterations: Iterations; 100 in the paper.

    Raises:
        InputError: A value out of range.
        RunError: The flow is not finite.
    """
    counts = falling_counts(problem, sparsity, iterations, "iterations")
    network = problem.network().double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    weights = prunable_weights(problem, network)
    x = problem.data.train[0][:1]
    ones = torch.ones_like(x, dtype=torch.float64 if x.is_floating_point() else x.dtype)
    _let_all_rows_flow(network, problem)
    mask = dense(problem)
    with scoring(problem, "synflow", None):
        for count in counts:
            gradients = torch.autograd.grad(network(ones).sum(), weights, materialize_grads=True)
            scores = flatten([g * w for g, w in zip(gradients, weights, strict=True)])
            mask = keep_best(problem, "synflow", scores, count, mask, count == counts[-1])
            with torch.no_grad():
                for weight, layer in zip(weights, mask.layers.values(), strict=True):
                    weight.mul_(torch.from_numpy(layer).to(weight.device))
    return mask


def _let_all_rows_flow(network: nn.Module, problem: Problem) -> None:
    """Lets every position get the sum of all rows of a prunable embedding, unless its weight is that of a layer, too."""
    layers = {id(p) for m in network.modules() if isinstance(m, PRUNABLE_MODULES) for p in m.parameters(recurse=False)}
    weights = {id(parameter) for name, parameter in network.named_parameters() if name in problem.shapes} - layers
    for module in network.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and id(module.weight) in weights:
            module.register_forward_hook(lambda embedding, inputs, output: embedding.weight.sum(0).expand_as(output))


def default_examples(problem: Problem) -> int:
    """Returns the number of training examples that SNIP and GraSP take: ten a class, 100 without classes, or all if fewer.

    Ten a class is GraSP's number, and on MNIST and CIFAR-10 about SNIP's one batch (100 and 128 examples).
    """
    x, target = problem.data.train
    wanted = EXAMPLES_WITHOUT_CLASSES
    if problem.is_classification:
        wanted = EXAMPLES_PER_CLASS * len(np.unique(target.cpu().numpy()))
    return min(wanted, len(x))


def _draw_examples(problem: Problem, examples: int | None, seed: int | None) -> Pair:
    """Draws training examples without replacement, class by class in turn, so that the classes are as equal as possible."""
    settle()  # taking examples uses threads, too
    x, target = problem.part("train")
    n = len(x)
    count = default_examples(problem) if examples is None else examples
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= n:
        raise InputError(f"examples is {count!r}; expected an integer from 1 to the {n} training examples.")
    order = seeds.generator(seed_of(problem, seed), "masks").permutation(n)
    if isinstance(target, torch.Tensor) and is_labels(target) and target.ndim == 1:
        _, classes, sizes = np.unique(target.cpu().numpy()[order], return_inverse=True, return_counts=True)
        turn = np.empty(n, np.int64)  # an example's turn within its class
        turn[np.argsort(classes, kind="stable")] = np.concatenate([np.arange(size) for size in sizes])
        order = order[np.argsort(turn, kind="stable")]
    rows = torch.from_numpy(order[:count]).to(x.device)
    return problem.batch(rows)
