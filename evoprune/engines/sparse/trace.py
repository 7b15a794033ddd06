"""From a network, as ``torch.fx`` sees it, to a program of the kernels."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from evoprune.engines.sparse import modules as known
from evoprune.engines.sparse.kernels import codes
from evoprune.engines.sparse.layout import Value
from evoprune.engines.sparse.program import Builder, Layer, Product
from evoprune.errors import InputError
from evoprune.problem.recipe import MEASURE_BATCH

CURE = "Use the engine 'module'."
# Modules whose output had best lie as their input does.
_ALIKE = (nn.ReLU, nn.Identity, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Examples of the trial that finds the shapes: a number that is no feature's by chance.
TRIAL = 3


@dataclass(frozen=True)
class Network:
    """A network as the kernels train it.

    Attributes:
        program: Its operations.
        unshared: The same, but all gradients are kept.
        outputs: Shape of one example's output.
        products: How the weights of products are used, by the number of their parameter.
        layers: The products in order.
        names: The names of the parameters.
        noises: The modules of dropout, each with the shape that it draws for an example.
        norms: The names of the modules with running statistics.
        batch_norms: All modules of batch normalisation.
        running: Number of running statistics.
        saved: Number of statistics that a forward pass saves.
    """

    program: codes.Program
    unshared: codes.Program
    outputs: tuple[int, ...]
    products: Mapping[int, Product]
    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    noises: tuple[tuple[nn.Module, tuple[int, ...]], ...]
    norms: tuple[tuple[str, nn.Module], ...]
    batch_norms: tuple[Any, ...]
    running: int
    saved: int


def trace(network: nn.Module, x: Tensor, batch_size: int, wants_input: bool = False) -> Network:
    """Returns a network as a program.

    Args:
        network: The network.
        x: A few examples.
        batch_size: Examples of a batch.
        wants_input: The gradient of the input is wanted, too.

    Raises:
        InputError: The network has parts that the kernels do not know, or ``torch.fx`` cannot follow it.
    """
    _require_plain(network)
    try:
        graph = fx.symbolic_trace(network if next(network.children(), None) else nn.Sequential(network))
    except Exception as error:
        raise InputError(f"torch.fx cannot trace {type(network).__name__}: {error}. {CURE}") from error
    shapes = _shapes(graph.eval(), torch.cat([x] * TRIAL)[:TRIAL])
    width = 64 // x.element_size()
    names = {module: name for name, module in reversed(list(network.named_modules(remove_duplicate=False)))}
    parameters = {id(p): i for i, (_, p) in enumerate(network.named_parameters())}
    builder = Builder(parameters, names, block_of(graph, batch_size, width), width, wants_input)
    found = _Translation(graph, shapes, builder, x)
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    value = found.value(output, output.args[0])
    return Network(
        program=builder.program(found.input, value, max(batch_size, MEASURE_BATCH), shared=True),
        unshared=builder.program(found.input, value, max(batch_size, MEASURE_BATCH), shared=False),
        outputs=tuple(value.places.shape),
        products=builder.products,
        layers=tuple(builder.layers),
        names=tuple(name for name, _ in network.named_parameters()),
        noises=tuple(builder.noises),
        norms=tuple((names[module], module) for module in builder.norms),
        batch_norms=tuple(m for m in graph.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)),
        running=builder.running,
        saved=builder.saved,
    )


def _require_plain(network: nn.Module) -> None:
    """Refuses what the trace would not show."""
    for name, module in network.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or "forward" in vars(module):
            raise InputError(
                f"{name or 'the network'} has hooks or a forward set on the instance, which torch.fx does not see. {CURE}"
            )
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            raise InputError(f"{name} is frozen; the engine 'sparse' trains all parameters. {CURE}")


def block_of(network: nn.Module, batch_size: int, width: int) -> int:
    """Returns the examples of a block: few where an example has many values, so that they stay in the cache."""
    if any(isinstance(module, known.CONVOLUTIONS) for module in network.modules()):
        return width

    def cost(block: int) -> float:
        return -(-batch_size // block) * (block + width / 2) * (1 if block <= 4 * width else 1.1)

    return min(range(width, 8 * width + 1, width), key=cost)


def _shapes(graph: fx.GraphModule, trial: Tensor) -> dict[fx.Node, torch.Size]:
    """Runs a graph, and returns the shape of each node's tensor."""
    interpreter = fx.Interpreter(graph, garbage_collect_values=False)
    interpreter.args_iter = iter((trial,))
    with torch.no_grad():
        for node in graph.graph.nodes:  # run() shows its progress, and that takes a semaphore of the system
            interpreter.env[node] = interpreter.run_node(node)
    return {node: value.shape for node, value in interpreter.env.items() if isinstance(value, Tensor)}


class _Translation:
    """Translates the nodes of a graph one after another."""

    def __init__(self, graph: fx.GraphModule, shapes: Mapping[fx.Node, Any], builder: Builder, x: Tensor) -> None:
        self.graph, self.shapes, self.builder = graph, shapes, builder
        self.modules = dict(graph.named_modules())
        self.values: dict[fx.Node, Value] = {}
        self.halos = self._find_halos()
        for node in graph.graph.nodes:
            if node.op == "call_module" and node.users and not isinstance(shapes.get(node), torch.Size):
                raise InputError(f"{self._title(node)} returns no single tensor, as the engine 'sparse' expects. {CURE}")
            if (
                node.op == "output"
                or not isinstance(shapes.get(node), torch.Size)
                or not (node.users or node.op == "placeholder")
            ):
                continue
            shape = self._shape(node)
            if node.op == "placeholder":
                if self.values:
                    raise InputError(f"the network takes several inputs. {CURE}")
                self.input = self.values[node] = builder.input(shape, self._halo(node))
                continue
            try:
                self.values[node] = self._translate(node, shape, self._halo(node))
            except InputError as error:
                raise InputError(f"{self._title(node)} {error}. {CURE}") from error

    def value(self, node: fx.Node, given: Any) -> Value:
        """Returns the value of an argument."""
        if not isinstance(given, fx.Node) or given not in self.values:
            raise InputError("has arguments that are no values of the network")
        return self.values[given]

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        shape = self.shapes[node]
        if len(shape) < 1 or shape[0] != TRIAL:
            raise InputError(f"{self._title(node)} mixes the examples of a batch. {CURE}")
        return tuple(shape[1:])

    def _title(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return f"{node.target} ({type(self.modules[str(node.target)]).__name__})"
        return f"{node.target if isinstance(node.target, str) else getattr(node.target, '__name__', node.target)} in forward"

    def _module(self, node: fx.Node) -> nn.Module | None:
        """Returns the module that a node calls, or one that does the same as the function; None for other nodes."""
        if node.op == "call_module":
            called: nn.Module = self.modules[str(node.target)]
            return called
        kind = known.FUNCTIONS_AS_MODULES.get(node.target)
        if kind is None or node.op not in ("call_function", "call_method"):
            return None
        arguments = [a for a in node.args[1:] if not isinstance(a, fx.Node)]
        accepted = inspect.signature(kind).parameters
        named = {k: v for k, v in node.kwargs.items() if k in accepted and k != "inplace"}
        if len(arguments) + 1 != len(node.args) or not set(node.kwargs) - {"input", "inplace"} <= {*accepted}:
            return None
        made: nn.Module = kind(*arguments, **named)
        return made

    def _find_halos(self) -> dict[fx.Node, tuple[int, ...]]:
        """Returns the zeros that convolutions want around the values that they read."""
        halos: dict[fx.Node, tuple[int, ...]] = {}
        for node in reversed(self.graph.graph.nodes):
            module, source = self._module(node), next(iter(node.args), None)
            if not isinstance(source, fx.Node):
                continue
            wanted: tuple[int, ...] = ()
            if isinstance(module, known.CONVOLUTIONS):
                wanted = tuple(known.padding_of(module)[1])
            elif isinstance(module, _ALIKE) and self.shapes.get(node) == self.shapes.get(source):
                wanted = halos.get(node, ())  # so that both lie alike
            before = halos.get(source, ())
            if len(wanted) == len(before) or not before:
                halos[source] = tuple(map(max, wanted, before)) if before else wanted
        return halos

    def _halo(self, node: fx.Node) -> tuple[int, ...]:
        halo = self.halos.get(node, ())
        return halo if len(halo) == len(self.shapes[node]) - 2 else ()

    def _translate(self, node: fx.Node, shape: tuple[int, ...], halo: tuple[int, ...]) -> Value:
        if node.op == "get_attr":
            raise InputError("is a parameter or buffer outside of layers")
        module = self._module(node)
        x = self.value(node, next(iter(node.args), node.kwargs.get("input")))
        if module is not None:
            return self._translate_module(node, module, x, shape, halo)
        if node.target in known.ADDITIONS and len(node.args) == 2 and not node.kwargs:
            other = self.value(node, node.args[1])
            if x.places.shape != other.places.shape:
                raise InputError("adds values of different shapes")
            return self.builder.addition(x, other, shape, halo)
        if node.target in known.RESHAPES and math.prod(shape) == x.places.size:
            return x.reshaped(shape)
        if node.target in known.MEANS:
            dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
            return known.mean(self.builder, x, dims if isinstance(dims, (tuple, list)) else (dims,), shape, halo)
        raise InputError("is a function that the engine 'sparse' does not know")

    def _is_only_reader(self, node: fx.Node, x: Value) -> bool:
        """Tells whether no other node reads a value, under its own name or one that a module without effect gave it."""
        readers = [user for source, value in self.values.items() if value.low == x.low for user in source.users]
        return all(reader is node or reader in self.values for reader in readers)

    def _translate_module(
        self, node: fx.Node, module: nn.Module, x: Value, shape: tuple[int, ...], halo: tuple[int, ...]
    ) -> Value:
        if type(module) in known.MODULES:
            return known.MODULES[type(module)](self.builder, module, x, shape, halo)
        if type(module) in known.ACTIVATIONS:
            if type(module) is nn.ReLU and self._is_only_reader(node, x) and self.builder.fuse_relu(x):
                return x
            return self.builder.activation(x, shape, halo, known.ACTIVATIONS[type(module)](module))
        if type(module) is nn.Identity:
            return x
        if type(module) in (nn.Flatten, nn.Unflatten) and math.prod(shape) == x.places.size:
            return x.reshaped(shape)
        raise InputError("is of a kind that the engine 'sparse' does not know")
