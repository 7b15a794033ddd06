"""A GPU that is not there: tensors that are said to lie on ``cuda``, and are computed by the CPU. Mixing devices is an error.

Without a GPU nothing else tells a tensor that was left on the CPU. Torch's ``FakeTensorMode`` could, but a build without CUDA
aborts as soon as a fake CUDA tensor requires a gradient, and fake tensors have no values.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
# operations that may take tensors of several devices: copies, and indices that lie on the CPU
CROSSING = (aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten.set_)
# operations whose result's size or value the CPU has to wait for
WAITING = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.bincount)


class Memory:
    """The memory that is said to be the device's. Attribute ``waits`` counts the times that the CPU waits for the device."""

    def __init__(self) -> None:
        self.storages: dict[int, StorageWeakRef] = {}  # weak references keep an address from being taken anew
        self.waits: Counter[str] = Counter()
        self.is_inside = False  # a function of torch that was given tensors of the device

    def has(self, tensor: object) -> bool:
        if not isinstance(tensor, Tensor):
            return False
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
        return StorageWeakRef(tensor.untyped_storage()).cdata in self.storages

    def add(self, tensor: object) -> None:
        if isinstance(tensor, Tensor):
            while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                tensor = torch._C._functorch.get_unwrapped(tensor)
            reference = StorageWeakRef(tensor.untyped_storage())
            self.storages[reference.cdata] = reference

    def drop(self, tensor: Tensor) -> None:
        self.storages.pop(StorageWeakRef(tensor.untyped_storage()).cdata, None)


def is_cuda(device: object) -> bool:
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda"


class Operations(TorchDispatchMode):
    """Refuses operations on tensors of both devices; a result lies where its inputs do."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keeps torch from importing its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, memory = function._overloadpacket, self.memory
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        there = [memory.has(tensor) for tensor in tensors]
        if (
            any(there)
            and packet not in CROSSING
            and not all(is_there or t.ndim == 0 for is_there, t in zip(there, tensors, strict=True))
        ):
            raise RuntimeError(f"{function}: expected all tensors to be on the same device, but found cuda:0 and cpu: {there}")
        boolean = packet in (aten.index, aten.index_put_) and any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:])
        if any(there) and (packet in WAITING or boolean):
            memory.waits[str(packet)] += 1
        found = function(*args, **(kwargs or {}))
        made_inside = not tensors and memory.is_inside  # by torch itself, with the options of a tensor that it was given
        if made_inside or (there and there[0]) or (any(there) and packet not in (aten.copy_, aten.index_put_)):
            for result in pytree.tree_leaves(found):
                memory.add(result)
        return found


class Calls(TorchFunctionMode):
    """Takes ``cuda`` for the CPU in calls, remembers that the result lies there, and says so when it is asked."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def __torch_function__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        memory, kwargs = self.memory, dict(kwargs or {})
        tensor = args[0] if args else None
        if function == Tensor.device.__get__:
            return CUDA if memory.has(tensor) else function(*args)
        if function == Tensor.is_cuda.__get__:
            return memory.has(tensor)
        if function in (Tensor.numpy, Tensor.__array__) and memory.has(tensor):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if function is Tensor.tolist and memory.has(tensor):
            memory.waits["tolist"] += 1
        if function is Tensor.cpu:
            return self.moved(tensor, torch.device("cpu"))
        if function is Tensor.to:
            return self.to(args, kwargs)
        device = kwargs.get("device")
        if device is not None:
            kwargs["device"] = "cpu" if is_cuda(device) else device
        before, memory.is_inside = memory.is_inside, any(map(memory.has, pytree.tree_leaves((args, kwargs))))
        try:
            found = function(*args, **kwargs)
        finally:
            memory.is_inside = before
        if is_cuda(device):
            memory.add(found)
        return found

    def to(self, args: Any, kwargs: Any) -> Any:
        tensor, *given = args
        place, kind = kwargs.get("device"), kwargs.get("dtype")
        for each in given:
            if isinstance(each, Tensor):
                place, kind = CUDA if self.memory.has(each) else torch.device("cpu"), each.dtype
            elif isinstance(each, torch.dtype):
                kind = each
            elif isinstance(each, (str, torch.device)):
                place = each
        copied = tensor.clone() if kwargs.get("copy") else tensor
        found = copied if kind is None else copied.to(kind)
        return found if place is None else self.moved(found, torch.device(place))

    def moved(self, tensor: Any, device: torch.device) -> Any:
        if self.memory.has(tensor) == is_cuda(device):
            return tensor
        if self.memory.has(tensor):
            self.memory.waits["to the CPU"] += 1
        found = tensor.clone()
        if is_cuda(device):
            self.memory.add(found)
        else:
            self.memory.drop(found)
        return found


@contextmanager
def cuda_elsewhere(memory: Memory | None = None) -> Iterator[Memory]:
    """Lets tensors lie on ``cuda``, of which there is one, as far as mixing devices and waiting for them are concerned.

    Args:
        memory: The device's memory, if there are tensors in it already.
    """
    memory = memory or Memory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "init", lambda: None)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "get_device_name", lambda: "a GPU elsewhere")
        patch.setattr(torch.cuda, "default_generators", (torch.Generator(),))
        with Calls(memory), Operations(memory):
            yield memory
