"""Networks on the patches of an image: MLP-Mixer and the vision transformer, of any width."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evoprune.errors import InputError
from evoprune.problem.convolutional import image_of, one_width

# Side of a patch, in pixels, that gives a 32 x 32 image 64 patches.
PATCH = 4
# The term in the denominator of layer normalisation, in the published code of both networks.
_EPSILON = 1e-6


def mlp_mixer(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> Mixer:
    """Returns a small MLP-Mixer for small images; see :class:`Mixer`.

    It has the 8 blocks of the paper's smallest network, S, and a quarter of its width, 128 channels, in 4 x 4 patches. As in
    the paper, hidden layers have half as many units between the patches, and four times as many between the channels.

    On 32 x 32 images of 3 channels, with 10 classes, it has 1,132,170 parameters (ours: none are published at this size).

    Args:
        input_shape: Channels, height and width of an image.
        classes: Number of outputs.
        widths: One number, the channels of a patch, which are 512 in the paper's S; the other widths are its multiples.

    Raises:
        InputError: Not exactly one width, an odd one, or inputs that are no images of whole patches.
    """
    width = one_width("mlp-mixer", widths, 128)
    if width % 2:
        raise InputError(f"widths are {tuple(widths)} for mlp-mixer; expected an even number, such as 128.")
    return Mixer(_image_of_patches("mlp-mixer", input_shape), classes, width, PATCH, blocks=8)


def vit_tiny(input_shape: Sequence[int], classes: int, widths: Sequence[int]) -> VisionTransformer:
    """Returns the smallest published vision transformer for small images; see :class:`VisionTransformer`.

    It is DeiT-Ti of Touvron et al. (2021, "Training data-efficient image transformers", table 1): 12 blocks of dimension 192
    with 3 heads, but with 4 x 4 patches.

    On 32 x 32 images of 3 channels, with 10 classes, it has 5,362,762 parameters (ours: none are published at this size). At
    the paper's size, 224 x 224 in 16 x 16 patches with 1000 classes, it has 5,717,416; the paper states 5M.

    Args:
        input_shape: Channels, height and width of an image.
        classes: Number of outputs.
        widths: One number, the dimension of a patch, a multiple of the 3 heads.

    Raises:
        InputError: Not exactly one width, one that the heads cannot share, or inputs that are no images of whole patches.
    """
    width = one_width("vit-tiny", widths, 192)
    if width % 3:
        raise InputError(f"widths are {tuple(widths)} for vit-tiny; expected a multiple of its 3 heads, such as 192.")
    return VisionTransformer(_image_of_patches("vit-tiny", input_shape), classes, width, PATCH, blocks=12, heads=3)


class Mixer(nn.Module):
    """MLP-Mixer of Tolstikhin et al. (2021, "MLP-Mixer: An all-MLP Architecture for Vision", figure 1).

    Each patch becomes a vector of channels. Blocks mix first the patches of each channel, and then the channels of each patch.
    Then the mean over all patches enters a linear layer.

    Args:
        shape: Channels, height and width of an image.
        classes: Number of outputs.
        width: Channels of a patch.
        patch: Side of a patch, in pixels.
        blocks: Number of blocks.
    """

    def __init__(self, shape: Sequence[int], classes: int, width: int, patch: int, blocks: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        patches = (height // patch) * (breadth // patch)
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.blocks = nn.Sequential(*(MixerBlock(patches, width) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width, _EPSILON)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [batch, classes]."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        logits: Tensor = self.fc(self.norm(self.blocks(x)).mean(1))
        return logits


class MixerBlock(nn.Module):
    """A perceptron on the patches of each channel, and one on the channels of each patch, each with a shortcut.

    Args:
        patches: Number of patches.
        width: Channels of a patch. The hidden layers have half and four times as many units (section 2 and table 1).
    """

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, _EPSILON)
        self.patches = _perceptron(patches, width // 2)
        self.norm2 = nn.LayerNorm(width, _EPSILON)
        self.channels = _perceptron(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns features [batch, patches, width]."""
        x = x + self.patches(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = x + self.channels(self.norm2(x))
        return mixed


class VisionTransformer(nn.Module):
    """The vision transformer of Dosovitskiy et al. (2021, "An Image is Worth 16x16 Words", section 3.1).

    Each patch becomes a vector, to which a vector of its position is added. A further vector, the class token, reads the others
    through the blocks, and enters a linear layer. Class token and positions are drawn from a normal distribution of standard
    deviation 0.02, truncated, as in DeiT's code. They are parameters outside of layers, and so stay dense.

    Args:
        shape: Channels, height and width of an image.
        classes: Number of outputs.
        width: Dimension of a patch.
        patch: Side of a patch, in pixels.
        blocks: Number of blocks.
        heads: Heads of attention, which share the width.
    """

    def __init__(self, shape: Sequence[int], classes: int, width: int, patch: int, blocks: int, heads: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        patches = (height // patch) * (breadth // patch)
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + patches, width))
        for parameter in (self.token, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width, _EPSILON)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits [batch, classes]."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.positions
        logits: Tensor = self.fc(self.norm(self.blocks(x))[:, 0])
        return logits


class TransformerBlock(nn.Module):
    """Attention and a perceptron of four times the width, each behind layer normalisation and with a shortcut.

    Args:
        width: Dimension of a patch.
        heads: Heads of attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, _EPSILON)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, _EPSILON)
        self.mlp = _perceptron(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns features [batch, patches, width]."""
        x = x + self.attention(self.norm1(x))
        changed: Tensor = x + self.mlp(self.norm2(x))
        return changed


class Attention(nn.Module):
    """Self-attention of several heads (Vaswani et al. 2017, section 3.2), whose weights lie in two linear layers.

    ``qkv`` makes queries, keys and values, one after another, and ``proj`` joins the heads. Both are prunable.

    Args:
        width: Dimension of a patch.
        heads: Number of heads, which divides the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns features [batch, patches, width]."""
        parts = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3, batch, heads, patches, size]
        shares = torch.softmax(parts[0] @ parts[1].transpose(2, 3) * self.scale, -1)
        joined: Tensor = self.proj((shares @ parts[2]).transpose(1, 2).flatten(2))
        return joined


def _perceptron(width: int, hidden: int) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module](fc1=nn.Linear(width, hidden), gelu=nn.GELU(), fc2=nn.Linear(hidden, width))
    return nn.Sequential(layers)


def _image_of_patches(name: str, input_shape: Sequence[int]) -> tuple[int, int, int]:
    channels, height, breadth = image_of(name, input_shape)
    if height % PATCH or breadth % PATCH:
        raise InputError(
            f"inputs have the shape {tuple(input_shape)}; {name} cuts images into patches of {PATCH} x {PATCH} pixels, and "
            f"expects heights and widths that are multiples of {PATCH}, such as 28 and 32. Crop or pad the images."
        )
    return channels, height, breadth
