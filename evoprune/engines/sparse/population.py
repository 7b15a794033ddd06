"""The ``sparse`` engine: one individual at a time, while it lies in the cache, in compiled kernels.

An individual is a vector of its surviving weights, biases and scales. A whole step (forward, loss, backward, update) is part of
one call of a kernel, and threads train individuals side by side. Work and memory grow with the survivors. As an individual is
trained by itself, and every sum has a fixed order, neither company nor the number of threads changes its bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evoprune.engines.optimizer import MIXED, clip
from evoprune.engines.population import Stint
from evoprune.engines.sparse import fused
from evoprune.engines.sparse.batches import examples, gather, make_room, steps_at_once
from evoprune.engines.sparse.individual import Individual, joined, read_buffers, rearranged, write_buffers
from evoprune.engines.sparse.kernels import codes
from evoprune.engines.sparse.support import machine, network_of, tensor_dtype
from evoprune.errors import InputError
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem


class SparsePopulation(nn.Module):
    """K masked networks, one sparse vector each; see :class:`evoprune.engines.population.Population`.

    Args:
        problem: The problem; training starts from its W0.
        masks: The masks.

    Raises:
        InputError: A mask that does not fit, or a network that the engine cannot serve.
    """

    def __init__(self, problem: Problem, masks: Sequence[Mask]) -> None:
        super().__init__()
        self.machine, self.network = machine(), network_of(problem)
        self.size, self.masks = len(masks), list(masks)
        for mask in masks:
            mask.require(problem.shapes)
        template = problem.network()
        self._loss = fused.loss_of(problem, self.network.outputs)
        self._dense = {name: tensor.detach() for name, tensor in template.state_dict().items()}
        self._dtype = tensor_dtype(self._dense)
        shapes = {name: p.shape for name, p in template.named_parameters()}
        self._shapes = list(shapes.values())
        self.individuals = [Individual(self.network, shapes, mask, self._dense) for mask in masks]
        self.vectors = nn.ParameterList([individual.vector for individual in self.individuals])
        self._aliases = _aliases(template)
        self._rooms: list[tuple[tuple[int, int, int], codes.Room | None]] = []

    @property
    def weights(self) -> list[nn.Parameter]:
        """The vectors of all parameters, one an individual."""
        return list(self.vectors)

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs [K, batch, ...]."""
        data = self._gather(x, noisy=self.training)
        if torch.is_grad_enabled():
            return torch.stack([_Outputs.apply(i.vector, self, k, data) for k, i in enumerate(self.individuals)])  # type: ignore[no-untyped-call]
        outputs = np.empty((self.size, len(x), len(self.network.program.outputs)), self._dtype)
        mode, blocks = (codes.FORWARD, self._blocks(len(x))) if self.training else (codes.EVALUATE, 1)

        def evaluate(room: codes.Room, ks: Sequence[int]) -> None:
            found = np.empty((len(ks), *outputs.shape[1:]), self._dtype)
            self._run(mode, ks, room, data, outputs=found, training=self.training)
            outputs[ks] = found

        self._side_by_side(evaluate, blocks, len(x))
        return torch.from_numpy(outputs).view(self.size, len(x), *self.network.outputs)

    def mask_gradients(self) -> None:
        """Removed weights have no gradient."""

    def mask_weights(self) -> None:
        """Removed weights are not there."""

    def survivor_values(self, k: int, tensors: Sequence[Tensor]) -> Tensor:
        """Returns the survivors' values."""
        return self.individuals[k].survivors(tensors[k].detach())

    def state(self, k: int) -> dict[str, Tensor]:
        """Returns the dense ``state_dict`` of individual k."""
        individual = self.individuals[k]
        found = individual.unpack(individual.vector.detach())
        found |= write_buffers(self.network, individual.buffers, individual.counts)
        return {name: found.get(self._aliases.get(name, name), tensor).clone() for name, tensor in self._dense.items()}

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Sets parameters and buffers."""
        for individual, state in zip(self.individuals, states, strict=True):
            individual.vector.data = individual.pack(state)
            individual.buffers, individual.counts = read_buffers(self.network, state)

    def unpack(self, k: int, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns the vector of individual k as dense parameters."""
        return self.individuals[k].unpack(tensors[k])

    def pack(self, dense: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
        """Returns the vectors of dense parameters."""
        return [individual.pack(tensors) for individual, tensors in zip(self.individuals, dense, strict=True)]

    @torch.no_grad()
    def set_masks(
        self, masks: Sequence[Mask], optimizer: torch.optim.Optimizer, carried: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Replaces the masks: the vectors of the individuals whose mask changes, and the memory of them, get another length."""
        carried = list(carried)
        for k, (individual, before, mask) in enumerate(zip(self.individuals, self.masks, masks, strict=True)):
            if np.array_equal(before.bits, mask.bits):
                continue
            length = individual.vector.shape
            source = individual.set_mask(mask)
            memories = optimizer.state.get(individual.vector, {})
            for name, memory in memories.items():
                if isinstance(memory, Tensor) and memory.shape == length:
                    memories[name] = rearranged(memory, source)
            if carried:
                carried[k] = rearranged(carried[k], source)
        self.masks = list(masks)
        return carried

    def decays_by_parameter(self, problem: Problem) -> bool:
        """Tells whether the kernels take the recipe's steps, in which a vector's weights may decay and its biases not."""
        optimizer = problem.recipe.make_optimizer([nn.Parameter(torch.zeros(1))])
        return self._loss is not None and fused.update_of(optimizer, []) is not None

    @torch.no_grad()
    def train_steps(
        self, problem: Problem, stint: Stint, optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor]
    ) -> NDArray[np.float64]:
        """Trains some steps; returns the sums [K] of their mean losses."""
        update = fused.update_of(optimizer, self.weights)
        if update is None or self._loss is None:
            return self._train_in_parts(problem, stint, optimizer, gradients)
        losses = np.zeros(self.size)
        batch = problem.recipe.batch_size
        constants = fused.as_recipe_says(update.constants, problem.recipe, self._shapes)
        most = steps_at_once(self.network, problem, 3.0 * batch * sum(individual.work for individual in self.individuals))
        blocks = self._blocks(batch) if self.network.program.whole_batch else 1
        for start in range(0, len(stint.rows), most):
            part = slice(start, start + most)
            x, target, rows = examples(problem, stint, part)
            data, rates = self._gather(x, rows, target), np.array(stint.rates[part])

            def train(
                room: codes.Room, ks: Sequence[int], data: Any = data, rates: Any = rates, done: int = update.done + start
            ) -> None:
                found = np.zeros(len(ks))
                self._run(
                    codes.TRAIN, ks, room, data, memories=update.memories, optimizer=constants, rates=rates, done=done,
                    sums=gradients, losses=found,
                )  # fmt: skip
                losses[ks] += found

            self._side_by_side(train, blocks, batch)
        update.finish(len(stint.rates))
        return losses

    def _train_in_parts(
        self, problem: Problem, stint: Stint, optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor]
    ) -> NDArray[np.float64]:
        """Trains steps whose loss or optimiser is torch's, one individual after another."""
        if problem.recipe.decay == "weights":
            raise InputError(MIXED)
        losses = np.zeros(self.size)
        for (x, wanted), rate in zip(stint.batches(problem), stint.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            data = self._gather(x)
            for k, individual in enumerate(self.individuals):
                with torch.enable_grad():
                    outputs = self.forward_one(k, data).requires_grad_()
                    loss = problem.losses(outputs.unsqueeze(0), wanted).sum()
                    (slope,) = torch.autograd.grad(loss, outputs)
                individual.vector.grad = self.backward_one(k, data, slope)
                losses[k] += float(loss.detach())
                if gradients:
                    gradients[k].add_(individual.vector.grad.abs())
                clip([individual.vector.grad.unsqueeze(0)], problem.recipe)
            optimizer.step()
        return losses

    @torch.no_grad()
    def dense_gradient(self, k: int, problem: Problem, rows: Tensor) -> NDArray[np.floating[Any]] | None:
        """Returns the size of the mean loss's gradient in all prunable weights, in evaluation mode.

        Args:
            k: The individual.
            problem: The problem.
            rows: The training examples.

        Returns:
            One number a prunable weight; None if torch has to compute it.
        """
        if self._loss is None or any(module.running_mean is None for module in self.network.batch_norms):
            return None
        x, target = problem.batch(rows)
        data = self._gather(x, None, target, noisy=False)
        room = self._room(0, 1, len(rows))
        total: list[Tensor] = []
        for block in range(self._blocks(len(rows))):
            room.slopes[:] = 0
            self._run(codes.GRADIENTS, [k], room, data, program=self.network.unshared, done=block, training=False)
            found = fused.dense_gradients(self.network, room, block)
            total = found if not total else [a + b for a, b in zip(total, found, strict=True)]
        room.slopes[:] = 0
        by_name: dict[str, Tensor] = {}
        for layer, slope in zip(self.network.layers, total, strict=True):
            name = joined(layer.name, "weight")
            name = self._aliases.get(name, name)
            by_name[name] = by_name[name] + slope if name in by_name else slope
        sizes: NDArray[np.floating[Any]] = torch.cat([by_name[name].reshape(-1) for name in problem.shapes]).abs().numpy()
        return sizes

    def _gather(
        self, x: Tensor, rows: Sequence[Tensor] | None = None, target: Tensor | None = None, noisy: bool = True
    ) -> codes.Data:
        kind = codes.GIVEN if self._loss is None else self._loss.kind
        return gather(self.network, x, rows or [torch.arange(len(x))], target, kind, noisy)

    def forward_one(self, k: int, data: codes.Data, training: bool = True) -> Tensor:
        """Returns the outputs [batch, ...] of an individual, whose values stay in the first room."""
        n = int(data.sizes[0])
        outputs = np.empty((1, n, len(self.network.program.outputs)), self._dtype)
        self._run(codes.FORWARD, [k], self._room(0, self._blocks(n), n), data, outputs=outputs, training=training)
        return torch.from_numpy(outputs).view(n, *self.network.outputs)

    def backward_one(self, k: int, data: codes.Data, slope: Tensor, training: bool = True) -> Tensor:
        """Returns the gradient of an individual's vector, for the values in the first room."""
        n = int(data.sizes[0])
        room, outputs = self._room(0, self._blocks(n), n), np.ascontiguousarray(slope.detach().reshape(1, n, -1).numpy())
        room.slopes[:] = 0
        self._run(codes.BACKWARD, [k], room, data, outputs=outputs, training=training)
        gradient = torch.from_numpy(room.slopes[: len(self.individuals[k].vector)].copy())
        room.slopes[:] = 0
        return gradient

    def _run(self, mode: int, ks: Sequence[int], room: codes.Room, data: codes.Data, **given: Any) -> None:
        """Calls the kernel for some individuals; see :func:`evoprune.engines.sparse.kernels.steps.run`."""
        memories, sums = given.get("memories"), given.get("sums")
        people = np.array(
            [self.individuals[k].addresses(memories[k] if memories else None, sums[k] if sums else None) for k in ks], np.int64
        )
        arguments = (
            mode, given.get("program", self.network.program), people, room, data,
            self._loss or codes.Loss(codes.GIVEN, np.ones(1), 0.0),
            given.get("optimizer", fused.NO_UPDATE), given.get("rates", np.zeros(1)),
            given.get("done", 0), bool(sums), given.get("outputs", np.zeros((len(ks), 0, 0), self._dtype)),
            given.get("losses", np.zeros(len(ks))), np.zeros(0, self._dtype), given.get("training", True),
            self.machine.lanes[self._dtype], self.machine.four, self.machine.eight,
        )  # fmt: skip
        self.machine.prepare(self._dtype, arguments)
        self.machine.run(*arguments)

    def _blocks(self, examples: int) -> int:
        return -(-examples // self.network.program.batch)

    def _room(self, i: int, blocks: int, examples: int) -> codes.Room:
        """Returns the room of a thread, for the values of so many blocks and the inputs of so many examples at the least."""
        longest = max(len(individual.columns) for individual in self.individuals)
        needed = (blocks, self._blocks(examples), longest)
        while len(self._rooms) <= i:
            self._rooms.append(((0, 0, 0), None))
        size, room = self._rooms[i]
        if room is None or any(a < b for a, b in zip(size, needed, strict=True)):
            needed = (max(size[0], blocks), max(size[1], needed[1]), max(size[2], longest))
            room = make_room(self.network, *needed, self._dtype)
            self._rooms[i] = needed, room
        return room

    def _side_by_side(self, work: Callable[[codes.Room, Sequence[int]], None], blocks: int, examples: int) -> None:
        """Does some work for all individuals, shared by as many threads as torch has; each has a separate room."""
        threads = min(torch.get_num_threads(), self.size)
        rooms = [self._room(i, blocks, examples) for i in range(threads)]
        shares = [range(i, self.size, threads) for i in range(threads)]
        if threads == 1:
            work(rooms[0], shares[0])
            return
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, rooms, shares):
                pass


class _Outputs(torch.autograd.Function):
    """The outputs of one individual as a function of its vector, for losses that torch differentiates."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, population: SparsePopulation, k: int, data: codes.Data) -> Tensor:
        """Returns outputs [batch, ...]."""
        ctx.population, ctx.k, ctx.training, ctx.data = population, k, population.training, data
        individual = population.individuals[k]
        ctx.buffers = individual.buffers.copy(), individual.counts.copy()
        return population.forward_one(k, ctx.data, ctx.training)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient of the vector; the values are computed again, since the room has been used since."""
        population, individual = ctx.population, ctx.population.individuals[ctx.k]
        now = individual.buffers, individual.counts
        individual.buffers, individual.counts = ctx.buffers  # those of the forward pass, which are not to move twice
        population.forward_one(ctx.k, ctx.data, ctx.training)
        gradient = population.backward_one(ctx.k, ctx.data, slope, ctx.training)
        individual.buffers, individual.counts = now
        return gradient, None, None, None


def _aliases(network: nn.Module) -> dict[str, str]:
    """Returns the first name of each parameter that has several."""
    first = {id(p): name for name, p in network.named_parameters()}
    names = dict(network.named_parameters(remove_duplicate=False))
    return {name: first[id(p)] for name, p in names.items() if first[id(p)] != name}
