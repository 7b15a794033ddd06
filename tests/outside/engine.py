"""An engine: a copy of the network for each mask, called one after another."""

import torch
from torch import nn

import evoprune as ep
from evoprune.engines.dense import DensePopulation
from evoprune.engines.module import ModulePopulation


@ep.register.engine("looped")
class Looped(DensePopulation):
    def __init__(self, problem, masks):
        super().__init__()
        self.copies = nn.ModuleList(ModulePopulation(problem, [mask]) for mask in masks)
        self.size, self.masks = len(masks), list(masks)
        self.weights = [weight for copy in self.copies for weight in copy.weights]
        self.remove()

    def forward(self, x):
        return torch.cat([copy(x) for copy in self.copies])

    def find_removed(self):
        return [torch.from_numpy(~layer) for mask in self.masks for layer in mask.layers.values()]

    def part(self, k, tensors):
        count = len(tensors) // self.size
        return tensors[k * count : (k + 1) * count]

    def survivor_values(self, k, tensors):
        pairs = zip(self.part(k, tensors), self.part(k, self.removed), strict=True)
        return torch.cat([tensor.detach()[~removed] for tensor, removed in pairs])

    def state(self, k):
        return self.copies[k].state(0)

    def load(self, states):
        for copy, state in zip(self.copies, states, strict=True):
            copy.load([state])

    def unpack(self, k, tensors):
        return self.copies[k].unpack(0, self.part(k, tensors))

    def pack(self, dense):
        return [tensor for copy, tensors in zip(self.copies, dense, strict=True) for tensor in copy.pack([tensors])]
