"""Problem: a network, data, a loss and a training recipe; the initial weights W0 and what of them is prunable."""

from __future__ import annotations

import copy
import inspect
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evoprune import seeds
from evoprune.errors import InputError, UnprunableWarning, look_up
from evoprune.problem import data as datasets
from evoprune.problem import models
from evoprune.problem.data import Data, Pair
from evoprune.problem.identity import Identified, digest_of, hash_of, identify
from evoprune.problem.load import load_raw
from evoprune.problem.losses import LOSSES, Loss
from evoprune.problem.prunable import prunable, unprunable, uses
from evoprune.problem.recipe import Recipe
from evoprune.problem.rehearsal import rehearse
from evoprune.problem.servable import require_servable
from evoprune.problem.usercode import package_of_module
from evoprune.problem.weights import initialize, scale_for_density
from evoprune.system.forks import settle


class Problem:
    """What is pruned: a network with its initial weights W0, data, a loss and a training recipe.

    A problem is a value: nothing changes it after it is made, and problems that can train differently have different hashes.
    One that is made of names alone pickles as those names; another pickles its module and tensors.

    Args:
        model: Name of a model (see :data:`evoprune.problem.models.MODELS`), a ``torch.nn.Module`` (copied, never changed), or a
            function that takes nothing and returns one.
        data: Name of a data set (see :func:`evoprune.problem.data.load`) or a :class:`evoprune.problem.data.Data`.
        recipe: How networks are trained.
        loss: ``cross-entropy``, ``mse``, ``reconstruction`` (mean squared error against the input), or a function
            (outputs, targets) -> mean loss of the batch, a scalar tensor. None: the named model's own; for others
            cross-entropy where the targets are class labels, else mse.
        seed: Seeds W0, the split of the data, and all that a run draws unless the run is given its own.
        weights_seed: Seeds W0 in place of ``seed``; see :meth:`redrawn`. None: ``seed``.
        exclude: Names of parameters or modules that stay dense.
        initialization: See :func:`evoprune.problem.weights.initialize`. None: ``kaiming`` for a named model, ``given`` for a
            module or function of the user's own (the function is called under the seed).
        w0_density: Scale W0 for this density: one number for all prunable weights, or one by parameter name. These
            are constants of the problem, the same for every mask. None: no scaling.
        widths: Hidden widths, for the models ``mlp`` and ``autoencoder``.
        data_dir: See :func:`evoprune.problem.data.load`.
        validation_fraction: See :meth:`evoprune.problem.data.Data.split`.
        test_fraction: See :meth:`evoprune.problem.data.Data.split`.
        normalize: See :func:`evoprune.problem.data.load`.
        dtype: ``float32`` or ``float64``: the network's and the inputs'.
        device: Where networks are trained, such as ``cpu`` or ``cuda``. It does not count in :attr:`hash`.
        ignore: Names of attributes, or of globals, of model and loss that change no training and do not count in
            :attr:`hash`, such as those of a log file; ``Net.log`` is one whose path ends so.
        identity: What stands for the code and attributes of model and loss in :attr:`hash`, where they cannot be identified:
            a name of your own, to be changed whenever they are. None: their code.

    Attributes:
        shapes: Shape of the prunable weights by parameter name, in ``named_parameters`` order.
        is_classification: Whether accuracy is defined: the targets are class labels, and the network has an output for each.
        data: The split data, on the device.
        unprunable: Shape of the matrix-like weights that are not prunable, though they were not excluded, by parameter name.
        refusals: Why an engine cannot serve the problem, by the engine's name, empty where it can; what
            :func:`evoprune.engines.check.require` has found.

    Raises:
        InputError: A value that cannot be served, or a network, data and loss that do not fit together: one training
            step is tried on a copy.
    """

    def __init__(
        self,
        model: str | nn.Module | Callable[[], nn.Module] = "lenet-300-100",
        data: str | Data = "digits",
        recipe: Recipe | None = None,
        *,
        loss: str | Loss | None = None,
        seed: int = 0,
        weights_seed: int | None = None,
        exclude: Sequence[str] = (),
        initialization: str | None = None,
        w0_density: float | Mapping[str, float] | None = None,
        widths: Sequence[int] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        validation_fraction: float = 0.1,
        test_fraction: float = 0.2,
        normalize: bool = True,
        dtype: str = "float32",
        device: str = "cpu",
        ignore: str | Sequence[str] = (),
        identity: str | None = None,
    ) -> None:
        settle()
        named = isinstance(model, str)
        if isinstance(model, str):
            look_up("model", model, models.MODELS)  # before the data are loaded
        elif widths is not None:
            raise InputError(f"widths are {widths}; they go with a model by name, not with a module of your own.")
        self.recipe = recipe or Recipe()
        self.seed = seeds.check_seed(seed)
        self.weights_seed = None if weights_seed is None else seeds.check_seed(weights_seed)
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self.ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
        self.identity = _check_identity(identity)
        self.initialization = initialization or ("kaiming" if named else "given")
        self.w0_density = w0_density
        self.device = _check_device(str(device))
        self.dtype = look_up("dtype", dtype, {"float32": torch.float32, "float64": torch.float64})
        self._model = _copied_module(model) if isinstance(model, nn.Module) else model
        self._data = _copied(data) if isinstance(data, Data) else data
        self._widths = models.MODELS[model].widths if isinstance(model, str) and widths is None else widths
        self._split = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
        self._data_dir = _place(data_dir)
        self._normalize = normalize
        self.data = self._load_data()
        self._template = self._initial_network()
        self.shapes: dict[str, torch.Size] = prunable(self._template, self.exclude)
        self.unprunable: dict[str, torch.Size] = unprunable(self._template, self.exclude)
        if self.unprunable:
            _warn_of_unprunable(self.unprunable)
        self.refusals: dict[str, str] = {}
        self._scale_w0()
        self.loss_name, self._loss = self._choose_loss(loss)
        self.is_classification = rehearse(self, self._data if isinstance(self._data, Data) else self.data)

    @property
    def prunable_count(self) -> int:
        """Number of prunable weights, n."""
        return sum(shape.numel() for shape in self.shapes.values())

    @property
    def parameter_count(self) -> int:
        """Number of all of the network's parameters, biases included."""
        return sum(parameter.numel() for parameter in self._template.parameters())

    def network(self) -> nn.Module:
        """Returns a new network at W0, its buffers afresh, in training mode, on the device."""
        settle()
        return copy.deepcopy(self._template)

    def redrawn(self, weights_seed: int) -> Problem:
        """Returns this problem with W0 drawn anew: the same split, batches, recipe and all else.

        Where W0 is a module's as it was given, each of its layers draws its own default (``pytorch``); parameters outside
        layers, which nobody says how to draw, stay as they are.

        Args:
            weights_seed: Seeds W0.

        Raises:
            InputError: Some prunable weights come out as they were.
        """
        make, (config, own) = self.__reduce__()
        as_given = isinstance(self._model, nn.Module) and self.initialization == "given"
        changes = {"weights_seed": weights_seed, "initialization": "pytorch" if as_given else self.initialization}
        problem: Problem = make({**config, **changes}, own)
        before, after = self._template.state_dict(), problem._template.state_dict()
        same = [name for name in self.shapes if torch.equal(before[name], after[name])]
        if same:
            raise InputError(
                f"W0 redrawn with seed {weights_seed} has {', '.join(same)} as before; expected another seed than "
                f"W0's own, and a model function that draws from torch's generator."
            )
        return problem

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss of a batch, a scalar."""
        return self._loss(outputs, targets)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss [K] of outputs [K, batch, ...] against one target [batch, ...]."""
        if self.loss_name == "cross-entropy" and outputs.ndim == 3 and targets.ndim == 1:
            logarithms = outputs.transpose(1, 2).log_softmax(1)  # classes in the middle, as the sparse engine's memory has them
            return -logarithms.gather(1, targets.expand(len(outputs), 1, -1)).squeeze(1).mean(1)
        if self.loss_name in ("mse", "reconstruction"):
            # in two steps, so that each sum is short enough to be one thread's
            squares = (outputs - targets).square()
            return squares.mean(1) if squares.ndim == 2 else squares.flatten(2).mean(2).mean(1)
        return torch.stack([self.loss(output, targets) for output in outputs])

    def part(self, name: str) -> Pair:
        """Returns inputs and what the outputs are compared with, of ``train``, ``validation`` or ``test``."""
        x, y = self.data.parts()[name]
        return (x, x) if self.loss_name == "reconstruction" else (x, y)

    @cached_property
    def w0(self) -> NDArray[np.floating[Any]]:
        """The initial prunable weights [n], in the order of a mask's bits."""
        parameters = dict(self._template.named_parameters())
        return np.concatenate([parameters[name].detach().cpu().numpy().reshape(-1) for name in self.shapes])

    @cached_property
    def uses(self) -> dict[str, int]:
        """How often an example's forward pass uses each prunable weight, see :func:`evoprune.problem.prunable.uses`."""
        return uses(self.network(), list(self.shapes), self.data.train[0][:1])

    @cached_property
    def chance_loss(self) -> float | None:
        """Validation loss of the best prediction that ignores the input; None under a loss of the user's own.

        For cross-entropy the entropy of the validation classes in nats; for squared errors the variance of the targets
        around their mean, over all elements.
        """
        _, target = self.part("validation")
        if self.loss_name == "cross-entropy" and datasets.is_labels(target):
            frequencies = torch.bincount(target.flatten()).double() / target.numel()
            return float(torch.special.entr(frequencies).sum())
        if self.loss_name in ("mse", "reconstruction"):
            return float((target.double() - target.double().mean(0)).square().mean())
        return None

    @property
    def hash(self) -> str:
        """SHA-256, in hex, of all that decides the problem's results; see :meth:`identify`.

        It is the same in every process, wherever the code lies.
        """
        return hash_of(self.identify())

    def identify(self) -> dict[str, str]:
        """Returns a digest for each of the parts of which problems differ, as they are now: globals may have changed.

        Returns:
            ``weights`` (W0 and buffers), ``data`` (as they are stored, and their split), ``recipe``, ``settings`` (seed,
            prunable names and dtype), ``network`` and ``loss`` (code, attributes and the globals that they read), or in place
            of the two the ``identity`` that was given.

        Raises:
            InputError: Model or loss hold something that cannot be identified, such as an open file.
        """
        shapes = {name: tuple(shape) for name, shape in self.shapes.items()}
        recipe = json.dumps(asdict(self.recipe), sort_keys=True, default=repr)  # as a record has it: a tuple is a list
        return {
            "weights": self._weights_digest,
            "data": self._data_digest,
            "recipe": digest_of("recipe", recipe),
            "settings": digest_of("settings", [self.seed, shapes, str(self.dtype)]),
            **{name: found.digest for name, found in self._identify_code().items()},
        }

    @property
    def texts(self) -> dict[str, str]:
        """The text of each piece of the user's code, see :class:`evoprune.problem.identity.Identified`."""
        return {key: text for found in self._identify_code().values() for key, text in found.texts.items()}

    def _identify_code(self) -> dict[str, Identified]:
        if self.identity is not None:
            return {"identity": identify("identity", self.identity)}
        known = {id(tensor): name for name, tensor in reversed(self._tensors())}
        loss = self.loss_name if self.loss_name in LOSSES else self._loss
        return {
            "network": identify("model", self._template, self.ignore, known),
            **({"hooks": identify("hooks", hooks, self.ignore)} if (hooks := _global_hooks()) else {}),
            "loss": identify("loss", loss, self.ignore),
        }

    def _tensors(self) -> list[tuple[str, Tensor]]:
        parameters = self._template.named_parameters(remove_duplicate=False)
        return [*parameters, *self._template.named_buffers(remove_duplicate=False)]

    @cached_property
    def _weights_digest(self) -> str:
        return digest_of("weights", dict(self._tensors()))

    @cached_property
    def _data_digest(self) -> str:
        content = datasets.content_digest(self._data) if isinstance(self._data, Data) else self._content
        fractions = {name: self._split[f"{name}_fraction"] for name in ("validation", "test") if name not in self._given_parts}
        return digest_of("data", [content, fractions, self._normalize if isinstance(self._data, str) else None])

    def config(self) -> dict[str, Any]:
        """Returns what the problem is made of, as JSON values; :meth:`from_config` is its inverse.

        A module, tensors or loss of the user's own are named by their class, for the record only.
        """
        return {
            "model": self._model if isinstance(self._model, str) else _describe(self._model),
            "data": self._data if isinstance(self._data, str) else self._data.name,
            "recipe": asdict(self.recipe),
            "loss": self.loss_name,
            "seed": self.seed,
            # absent where it says nothing, so that runs recorded without it are still the same runs
            **({} if self.weights_seed is None else {"weights_seed": self.weights_seed}),
            "exclude": list(self.exclude),
            "initialization": self.initialization,
            "w0_density": dict(self.w0_density) if isinstance(self.w0_density, Mapping) else self.w0_density,
            "widths": None if self._widths is None else list(self._widths),
            **self._split,
            "normalize": self._normalize,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device,
            **({"ignore": list(self.ignore)} if self.ignore else {}),
            **({} if self.identity is None else {"identity": self.identity}),
        }

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        model: nn.Module | Callable[[], nn.Module] | None = None,
        data: Data | None = None,
        loss: Loss | None = None,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> Problem:
        """Makes the problem that a configuration describes.

        Args:
            config: What :meth:`config` returned.
            model: The module or function, where the problem had one of the user's own.
            data: The data, likewise.
            loss: The loss function, likewise.
            data_dir: See :func:`evoprune.problem.data.load`; a place, so not part of the configuration.

        Raises:
            InputError: The configuration names a place all the same: it was not written by :meth:`config`.
        """
        if "data_dir" in config:
            raise InputError(f"the configuration names a data_dir, {config['data_dir']!r}; remove it, and pass data_dir.")
        values = dict(config)
        values["recipe"] = Recipe(**values["recipe"])
        given = {"model": model, "data": data, "loss": loss, "data_dir": data_dir}
        return cls(**values | {name: value for name, value in given.items() if value is not None})

    def __reduce__(self) -> tuple[Any, ...]:
        own = {
            "model": None if isinstance(self._model, str) else self._model,
            "data": None if isinstance(self._data, str) else self._data,
            "loss": self._loss if self.loss_name not in LOSSES else None,
            "data_dir": self._data_dir,
        }
        return _unpickle, (self.config(), own)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Problem) and self.hash == other.hash)

    def __hash__(self) -> int:
        return int(self.hash[:15], 16)

    def _load_data(self) -> Data:
        if isinstance(self._data, str):
            raw, white = load_raw(self._data, self._data_dir)
            data = datasets.prepare(raw, white, self.seed, normalize=self._normalize, **self._split)
            self._content = datasets.content_digest(raw)  # now, since what is stored is not kept
        elif isinstance(self._data, Data):
            raw = self._data
            data = raw.split(self.seed, **self._split)
        else:
            raise InputError(f"data is {type(self._data).__name__}; expected a name or ep.Data(train=(x, y)).")
        self._given_parts = tuple(raw.parts())
        if isinstance(self._model, str):
            data = datasets.as_floats(data, self.dtype)
        return data.with_parts({part: (self._cast(x), self._cast(y)) for part, (x, y) in data.parts().items()}).to(self.device)

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _initial_network(self) -> nn.Module:
        x, y = self.data.train
        seed = seeds.integer(self.seed if self.weights_seed is None else self.weights_seed, "weights")
        with seeds.seeded(seed):
            if isinstance(self._model, str):
                outputs = y[0].numel()
                if datasets.is_labels(y) and models.MODELS[self._model].loss != "reconstruction":
                    outputs = datasets.count_classes(self.data)
                network = models.build(self._model, x.shape[1:], outputs, self._widths)
            elif isinstance(self._model, nn.Module):
                network = copy.deepcopy(self._model)
            else:
                network = self._call(self._model)
                if not isinstance(network, nn.Module):
                    raise InputError(f"model made {type(network).__name__}; expected a torch.nn.Module.")
                require_servable(network)
        network = network.to(self.dtype)
        initialize(network, self.initialization, seed)
        return network.to(self.device).train()

    def _call(self, make: Any) -> Any:
        if not callable(make):
            raise InputError(
                f"model is {type(make).__name__}; expected a name, a torch.nn.Module, or a function that makes one."
            )
        try:
            return make()
        except Exception as error:
            raise InputError(f"the model function {_describe(make)} failed: {type(error).__name__}: {error}") from error

    def _scale_w0(self) -> None:
        if self.w0_density is None:
            return
        each = self.w0_density if isinstance(self.w0_density, Mapping) else dict.fromkeys(self.shapes, self.w0_density)
        scale_for_density(self._template, dict(each))

    def _choose_loss(self, loss: str | Loss | None) -> tuple[str, Loss]:
        if loss is None:
            if isinstance(self._model, str):
                loss = models.MODELS[self._model].loss
            else:
                loss = "cross-entropy" if datasets.is_labels(self.data.train[1]) else "mse"
        if isinstance(loss, str):
            return loss, look_up("loss", loss, LOSSES)
        return _describe(loss), loss


def _place(data_dir: str | os.PathLike[str] | None) -> str | None:
    """Returns a folder that does not depend on the working folder; None where every host has its own."""
    given = data_dir or os.environ.get("EVOPRUNE_DATA")
    if given is None or (data_dir is None and os.path.isabs(given)):  # noqa: PTH117
        return None
    return os.path.abspath(os.path.expanduser(given))  # noqa: PTH100, PTH111


def _unpickle(config: Mapping[str, Any], own: Mapping[str, Any]) -> Problem:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was said where the problem was made
        return Problem.from_config(config, **own)


def _copied_module(model: nn.Module) -> nn.Module:
    require_servable(model)
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise InputError(
            f"the model ({type(model).__name__}) cannot be copied: {type(error).__name__}: {error}. Expected a module of plain "
            f"parameters and attributes; or give a function that makes it."
        ) from error


def _warn_of_unprunable(shapes: Mapping[str, torch.Size]) -> None:
    named = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    warnings.warn(
        f"not prunable, and so dense: {named}. Sparsity is of the weights of linear and convolutional layers alone; "
        f"exclude the others by name if that is meant.",
        UnprunableWarning,
        stacklevel=3,
    )


def _copied(data: Data) -> Data:
    """Returns the data with tensors of its own."""
    return data.with_parts({part: (x.clone(), y.clone()) for part, (x, y) in data.parts().items()})


def _describe(thing: object) -> str:
    kind = thing if inspect.isfunction(thing) or inspect.isclass(thing) else type(thing)
    # a module of the user's has another name where it is run as a script
    return f"{'own' if package_of_module(kind.__module__) is None else kind.__module__}.{kind.__qualname__}"


def _global_hooks() -> list[object]:
    """Returns the hooks that every module calls."""
    kinds = ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_pre_hooks", "_global_backward_hooks")
    return [hook for kind in kinds for hook in getattr(torch.nn.modules.module, kind).values()]


def _check_identity(name: str | None) -> str | None:
    if name is not None and (not isinstance(name, str) or not name):
        raise InputError(f"identity is {name!r}; expected a name for model and loss, such as 'my-net-1'.")
    return name


def _check_device(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used here: {error}. Expected 'cpu', or 'cuda' with a GPU.") from error
    return device
