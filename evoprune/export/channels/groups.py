"""Groups of channels, and the values of a network's graph that have them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reader:
    """A layer that reads channels.

    Attributes:
        layer: Its name.
        constant: The value of each channel that it reads, [channels]; NaN where the value varies.
    """

    layer: str
    constant: Tensor


@dataclass(eq=False)
class Group:
    """Channels (or neurons) that several values of a network share, so that each goes from all of them or stays.

    Attributes:
        size: Number of channels.
        writers: Names of the layers whose outputs they are; several where outputs are added.
        norms: Names of the batch normalisations on them.
        readers: The layers whose inputs they are.
        pinned: Why none of them can go: the names of what else uses them. Empty if they can.
        merged: The group that this one became a part of.
    """

    size: int
    writers: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    pinned: list[str] = field(default_factory=list)
    merged: Group | None = None

    @property
    def whole(self) -> Group:
        """The group that has all of these channels by now."""
        return self if self.merged is None else self.merged.whole

    def merge(self, other: Group) -> Group:
        """Makes two groups one, and returns it."""
        one, two = self.whole, other.whole
        if one is not two:
            one.writers += two.writers
            one.norms += two.norms
            one.readers += two.readers
            one.pinned += two.pinned
            two.merged = one
        return one


@dataclass(frozen=True)
class Value:
    """A tensor in a network, as far as its channels are followed.

    Attributes:
        group: Its channels; None if they are not followed.
        ndim: Its number of dimensions, that of the batch among them; None if that is not known.
        is_last: The channels are the last dimension; else the second.
        is_flat: Behind each other in that dimension lie several features of each channel.
        constant: The value of each channel, [channels]; NaN where it varies, between examples or positions.
    """

    group: Group | None = None
    ndim: int | None = None
    is_last: bool = True
    is_flat: bool = False
    constant: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def is_maps(self) -> bool:
        """Whether the channels are the second of more dimensions, as convolutions have them."""
        return not self.is_last
