"""A rehearsal: checks before any long work that network, data, loss and recipe fit together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from evoprune import seeds
from evoprune.errors import InputError
from evoprune.problem.arrays import is_labels, require_finite
from evoprune.problem.data import Data, Inputs
from evoprune.problem.examples import measure_batch
from evoprune.problem.losses import LOSSES, SQUARED
from evoprune.problem.options import ProblemOptions
from evoprune.problem.precision import in_precision
from evoprune.problem.recipe import Recipe

# Number of calls that are compared; a network that draws only rarely is found, too.
REPEATS = 6


class Rehearsed(Protocol):
    """The parts of a problem that a rehearsal needs; see :class:`evoprune.problem.problem.Problem`."""

    options: ProblemOptions
    recipe: Recipe
    data: Data
    dtype: torch.dtype
    loss_name: str

    def network(self) -> nn.Module:
        """Returns a new network at W0."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss of a batch."""

    def part(self, name: str) -> tuple[Inputs, Inputs]:
        """Returns the inputs, and the targets that outputs are compared with."""


def rehearse(problem: Rehearsed, given: Data, is_tried: bool = False) -> bool:
    """Tries one training step on a copy, and an evaluation of each part of the data.

    Args:
        problem: The problem.
        given: Its data before they were cast and split, so that places in messages are those of the user's arrays.
        is_tried: Network and loss are the package's, which tests try: they draw from global generators alone, and keep all
            that they learn in the state.

    Returns:
        Whether accuracy is defined: the targets are class labels, and the network has an output for each.

    Raises:
        InputError: Two of them do not fit together.
    """
    _check_values(problem, given)
    _require_precision(problem)
    network = problem.network()
    is_classification = False
    for part in ("train", "validation", "test"):
        for x, target in _batches(problem, part):
            try:
                with seeds.seeded(0, problem.options.device), torch.set_grad_enabled(part == "train"):
                    outputs = _require_tensor(in_precision(network.train(part == "train"), x, problem.recipe.precision))
                    is_classification = is_classification or (part == "train" and _has_classes(problem, outputs))
                    _check_labels(problem, outputs)
                    _check_targets(problem, part, outputs, target)
                    loss = _loss(problem, part, outputs, target)
                    if part == "train":
                        _require_pairs(problem, outputs.detach(), target)
                        _require_own(network, loss)
                        network.zero_grad()
                        loss.backward()  # type: ignore[no-untyped-call]
            except InputError:
                raise
            except Exception as error:
                raise InputError(_failure(problem, part, x, target, error)) from error
    try:
        _step(problem, network)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_failure(problem, "train", x, target, error)) from error
    if not is_tried:
        _require_whole_state(problem, network)
        _require_repeatable(problem)
    return is_classification


def rehearse_recipe(problem: Rehearsed) -> None:
    """Tries a step of the recipe's optimiser, with gradients of zero, and checks that the recipe suits the problem.

    Raises:
        InputError: It does not.
    """
    _require_precision(problem)
    network = problem.network()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    _step(problem, network)


def _require_precision(problem: Rehearsed) -> None:
    if problem.recipe.precision != "full" and problem.dtype != torch.float32:
        raise InputError(f"precision is 'bf16' and dtype {problem.options.dtype!r}; expected dtype='float32' with it.")


def _step(problem: Rehearsed, network: nn.Module) -> None:
    """Takes a step of the recipe's optimiser; refuses one of a user's whose memory lies where nothing would keep it."""
    parameters = list(network.parameters())
    optimizer = problem.recipe.make_optimizer(parameters, [parameter for parameter in parameters if parameter.ndim < 2])
    before = [_settings(group) for group in optimizer.param_groups]
    optimizer.step()
    after = [_settings(group) for group in optimizer.param_groups]
    changed = sorted({name for was, now in zip(before, after, strict=True) for name in now if was.get(name) != now[name]})
    if changed:
        raise InputError(
            f"a step of the optimizer changes {', '.join(changed)} in its param_groups, which no snapshot of a training keeps; "
            f"expected its memory in optimizer.state, a tensor or number for each parameter."
        )


def _settings(group: Mapping[str, object]) -> dict[str, str]:
    """Returns the values of an optimiser's group, but for the learning rate, which the schedule sets."""
    return {name: repr(value) for name, value in group.items() if name not in ("params", "lr")}


def _require_tensor(outputs: object) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    which = f"outputs[{next(iter(outputs), '')!r}]" if isinstance(outputs, Mapping) else "outputs[0]"
    raise InputError(
        f"the network's forward returns {type(outputs).__name__}; expected one tensor [n, ...]: wrap it in a module whose "
        f"forward returns the one that the loss compares, such as {which}."
    )


def _require_own(network: nn.Module, loss: Tensor) -> None:
    """Checks that the loss depends on the network's own parameters alone: no optimiser trains any others."""
    own, seen = {id(parameter) for parameter in network.parameters()}, set()
    nodes = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in own:
            raise InputError(
                f"the loss depends on a parameter {tuple(leaf.shape)} that is not among the network's, so nothing would train "
                f"it: a function or hook may hold the module that the network was copied from (make it a method), or the loss "
                f"may have parameters (put them into the network, or freeze them by requires_grad_(False))."
            )
        nodes += [following for following, _ in node.next_functions]


def _require_whole_state(problem: Rehearsed, network: nn.Module) -> None:
    """Checks that a trained network gives the same outputs when it is made anew from its state_dict, as results are."""
    x = problem.part("validation")[0][:8]
    again = problem.network().eval()
    again.load_state_dict(network.state_dict())
    network.eval()
    found = []
    for each in (network, network, again):
        with seeds.seeded(0, problem.options.device), torch.no_grad():
            found.append(each(x))
    # a network with its own generator differs between two calls already
    if _alike(found[0], found[1]) and not _alike(found[1], found[2]):
        raise InputError(
            "the network keeps what it has learnt outside its state_dict, so a trained network could not be kept or moved: "
            "expected parameters and persistent buffers (self.register_buffer('mean', tensor)), not plain attributes."
        )


def _require_repeatable(problem: Rehearsed) -> None:
    """Checks that the same seed gives the same outputs, loss and gradients: only global generators can be seeded."""
    for part, mode in (("train", "training"), ("validation", "evaluation")):
        x, target = (tensor[:8] for tensor in problem.part(part))
        try:
            found = [_once(problem, x, target, mode == "training") for _ in range(REPEATS)]
        except Exception as error:
            raise InputError(_failure(problem, part, x, target, error)) from error
        for name in found[0]:
            if not all(_alike(found[0][name], other[name]) for other in found[1:]):
                raise InputError(
                    f"the {name} in {mode} mode differ from one call to the next, from the same weights and seed: they depend "
                    f"on a private generator, a counter or a clock, so no result could be repeated. Draw from torch's, "
                    f"numpy's or Python's global generator, which are seeded, or keep the generator as an attribute of the "
                    f"module, which every training copies."
                )


def _once(problem: Rehearsed, x: Tensor, target: Tensor, training: bool) -> dict[str, Tensor]:
    """Returns outputs, loss and, in training, gradients of a new network."""
    network = problem.network().train(training)
    with seeds.seeded(0, problem.options.device), torch.set_grad_enabled(training):
        outputs = network(x)
        loss = problem.loss(outputs, target)
        found = {"outputs": outputs.detach(), "loss": loss.detach()}
        if training:
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
            found["gradients"] = torch.cat([torch.zeros(0, device=x.device), *gradients])
    return found


def _alike(one: Tensor, other: Tensor) -> bool:
    # the first is many times as fast, which counts for the gradients of large networks
    return one.equal(other) or torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)


def _check_values(problem: Rehearsed, given: Data) -> None:
    own = problem.loss_name not in LOSSES
    for part, (x, y) in given.parts().items():
        require_finite(x, f"{part} inputs", problem.dtype)
        if problem.loss_name != "reconstruction":
            require_finite(y, f"{part} targets", problem.dtype, missing=own)


def _batches(problem: Rehearsed, part: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches of the sizes that occur: the smallest for a known loss, the largest as well for a loss of the user's own.

    The smallest batch of an epoch is the last; batch normalisation refuses one of a single example.
    """
    x, target = problem.part(part)
    batch = problem.recipe.batch_size
    if problem.loss_name in LOSSES:
        sizes = {len(problem.part("train")[0]) % batch or batch}
    else:
        size = batch if part == "train" else measure_batch(x)
        sizes = {min(size, len(x)), len(x) % size or size}
    # in random order, as in training: missing targets may lie together
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(x))) if part == "train" else torch.arange(len(x))
    for size in sorted(sizes):
        rows = order[:size].to(x.device)
        inputs = x.index_select(0, rows)
        yield inputs, inputs if target is x else target.index_select(0, rows)


def _loss(problem: Rehearsed, part: str, outputs: Tensor, target: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size", UserWarning)
        try:
            loss = problem.loss(outputs, target)
        except UserWarning as warning:
            if "Using a target size" not in str(warning):
                raise
            raise InputError(
                f"the loss broadcasts {part} outputs {tuple(outputs.shape)} against targets {tuple(target.shape)}; expected "
                f"the same shape: {_reshaped(outputs, target)}."
            ) from warning
        except ValueError as error:
            if outputs.shape == target.shape or outputs.numel() != target.numel():
                raise
            raise InputError(
                f"the loss refuses {part} outputs {tuple(outputs.shape)} with targets {tuple(target.shape)}: {error}; expected "
                f"the same shape: {_reshaped(outputs, target)}."
            ) from error
    if loss.ndim != 0:
        raise InputError(f"the loss has shape {tuple(loss.shape)}; expected the batch's mean, a scalar.")
    # a W0 that is scaled for sparse networks may be too large for a dense one
    value = float(loss.detach())
    if problem.options.w0_density is None and not np.isfinite(value):
        raise InputError(
            f"the loss {problem.loss_name!r} of the untrained network is {value} on {len(target)} {part} examples; "
            f"expected a finite number: scale inputs or targets, leave out examples, or choose another loss."
        )
    return loss


def _check_targets(problem: Rehearsed, part: str, outputs: Tensor, target: Tensor) -> None:
    """Checks targets against outputs for the built-in losses; none of them may broadcast."""
    if problem.loss_name in SQUARED:
        given, wanted = tuple(target.shape), tuple(outputs.shape)
        if given != wanted:
            raise InputError(f"{part} outputs are {wanted}, targets {given}; expected the same: {_reshaped(outputs, target)}.")
    elif problem.loss_name == "cross-entropy" and not is_labels(target):
        _check_probabilities(part, outputs, target)
    elif problem.loss_name == "cross-entropy":
        _check_label_shape(part, outputs, target)


def _check_label_shape(part: str, outputs: Tensor, target: Tensor) -> None:
    wanted = (*outputs.shape[:1], *outputs.shape[2:])
    facts = f"{part} outputs are {tuple(outputs.shape)}, labels {tuple(target.shape)}; expected"
    if outputs.ndim < 2 or tuple(target.shape) != wanted:
        cure = "a network with one output a class"
        if outputs.ndim >= 2 and target.numel() == np.prod(wanted):
            cure = f"give y.reshape({', '.join(map(str, (-1, *wanted[1:])))})"
        elif target.ndim == outputs.ndim:
            cure = "give y.argmax(1), where each row has a one"
        raise InputError(f"{facts} outputs [n, classes, ...] and labels [n, ...]: {cure}.")
    if outputs.shape[1] < 2:
        raise InputError(f"{facts} at least two classes: the cross-entropy of one is always 0.")


def _check_probabilities(part: str, outputs: Tensor, target: Tensor) -> None:
    cure = "for classes give integers, y.long() (y.astype(int)); for regression loss='mse'"
    facts = (
        f"{part} targets are {str(target.dtype).removeprefix('torch.')} {tuple(target.shape)}, and the loss is 'cross-entropy'"
    )
    if tuple(target.shape) != tuple(outputs.shape) or outputs.ndim < 2 or outputs.shape[1] < 2:
        raise InputError(
            f"{facts}; expected integers as labels, or probabilities of two or more classes in the outputs' shape, here "
            f"{tuple(outputs.shape)}: {cure}."
        )
    if bool((target < 0).any()) or not torch.allclose(target.sum(1), torch.ones_like(target.sum(1)), atol=1e-3):
        raise InputError(f"{facts}; expected probabilities, which are not negative and sum to 1: {cure}.")


def _reshaped(outputs: Tensor, target: Tensor) -> str:
    if target.numel() == outputs.numel():
        return f"give y.reshape({', '.join(map(str, (-1, *outputs.shape[1:])))})"
    whole = target.ndim < outputs.ndim and not bool((target.float() % 1).any())
    return "for classes give integers and loss='cross-entropy'" if whole else "change the network's outputs or the targets"


def _require_pairs(problem: Rehearsed, outputs: Tensor, target: Tensor) -> None:
    """Refuses a loss of the user's own that broadcasts [n, 1] against [n] without a warning.

    Such a loss compares every output with every target, so it stays the same when the targets are shuffled among the examples,
    while it does not once the targets have the outputs' shape. A loss that reshapes by itself changes when they are shuffled.
    """
    sizes = [[size for size in t.shape[1:] if size != 1] for t in (outputs, target)]
    if problem.loss_name in LOSSES or outputs.shape == target.shape or sizes[0] != sizes[1] or len(target) < 2:
        return
    present = ~target.isnan().flatten(1).any(1) if target.ndim > 1 else ~target.isnan()
    outputs, target = outputs[present], target[present]
    shuffled = target[torch.randperm(len(target), generator=torch.Generator().manual_seed(0)).to(target.device)]
    for probe in (outputs, target.reshape(outputs.shape).to(outputs.dtype)):
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                paired, aligned = (
                    [float(problem.loss(probe, t.reshape(shape))) for t in (target, shuffled)]
                    for shape in (target.shape, outputs.shape)
                )
        except Exception:  # noqa: BLE001 - a loss that refuses other shapes reshapes by itself
            return
        if _change(paired) < 1e-5 and _change(aligned) > 1e-3:
            raise InputError(
                f"the loss compares every output with every target: it broadcasts outputs {tuple(outputs.shape)} against "
                f"targets {tuple(target.shape)}; expected the same shape: {_reshaped(outputs, target)}, or reshape in the loss."
            )


def _change(values: list[float]) -> float:
    """Returns the relative difference of two values; NaN if one of them is not finite."""
    most = max(abs(value) for value in values)
    return abs(values[0] - values[1]) / most if most else 0.0


def _failure(problem: Rehearsed, part: str, x: Tensor, target: Tensor, error: Exception) -> str:
    cure, types = "", ("dtype", "scalar type", "Long", "Float")
    if is_labels(x):
        cure = "; the inputs are integers: give x.float() (x.astype('float32')), unless the network embeds them"
    elif is_labels(target) and any(word in str(error) for word in types):
        cure = "; the targets are integers: give y.float() (y.astype('float32')), unless they are class labels"
    elif not is_labels(target) and any(word in str(error) for word in types) and not bool((target % 1).any()):
        cure = "; the targets are whole numbers of a float type: give y.long() (y.astype(int)), if they are class labels"
    return (
        f"one training step failed on {part} inputs {tuple(x.shape)} ({x.dtype}) and targets {tuple(target.shape)} "
        f"({target.dtype}) with loss {problem.loss_name!r}: {type(error).__name__}: {error}{cure}"
    )


def _has_classes(problem: Rehearsed, outputs: Tensor) -> bool:
    y = problem.data.train[1]
    if problem.loss_name == "reconstruction" or not is_labels(y) or outputs.ndim != y.ndim + 1:
        return False
    return outputs.shape[1] > int(y.max())


def _check_labels(problem: Rehearsed, outputs: Tensor) -> None:
    if problem.loss_name != "cross-entropy" or not is_labels(problem.data.train[1]) or outputs.ndim < 2:
        return
    for part, (_, y) in problem.data.parts().items():
        if int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]:
            raise InputError(
                f"{part} has labels from {int(y.min())} to {int(y.max())}, but the network has {outputs.shape[1]} outputs; "
                f"expected labels from 0 to {outputs.shape[1] - 1}."
            )
