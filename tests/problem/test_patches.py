import pytest
import torch
from support.models import CIFAR, MNIST, NARROW, images, narrow
from torch import nn
from torch.nn import functional as F

import evoprune as ep
from evoprune import seeds
from evoprune.errors import InputError, UnprunableWarning
from evoprune.problem.models import build
from evoprune.problem.patches import Attention, Mixer, MixerBlock, TransformerBlock, VisionTransformer
from evoprune.problem.prunable import prunable, unprunable, uses


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


# Sizes


def test_deit_ti_at_its_own_size_has_5_7_million_parameters():
    with torch.device("meta"):
        network = VisionTransformer((3, 224, 224), 1000, 192, 16, blocks=12, heads=3)
    assert count(network) == 5_717_416  # as timm's deit_tiny_patch16_224 has; the paper says 5M


def test_mixer_s_16_at_its_own_size_has_18_million_parameters():
    with torch.device("meta"):
        network = Mixer((3, 224, 224), 1000, 512, 16, blocks=8)
    assert count(network) == 18_528_264  # as timm's mixer_s16_224 has; the paper says 18M


@pytest.mark.parametrize(("name", "parameters"), [("mlp-mixer", 1_132_170), ("vit-tiny", 5_362_762)])
def test_small_images_need_the_stated_numbers_of_parameters(name, parameters):
    assert count(build(name, CIFAR, 10)) == parameters


@pytest.mark.parametrize("shape", [CIFAR, MNIST])
def test_vit_tiny_by_hand(shape):
    d, patches = 192, shape[1] * shape[2] // 16
    layers = 4 * d * d + 2 * 4 * d * d  # attention's four products, and the perceptron's two
    norms_and_biases = 2 * 2 * d + (3 * d + d) + (4 * d + d)
    network = build("vit-tiny", shape, 10)
    weights = 16 * shape[0] * d + 12 * layers + d * 10
    assert sum(size.numel() for size in prunable(network).values()) == weights
    assert count(network) == weights + d + (1 + 1 + patches) * d + 12 * norms_and_biases + 2 * d + 10


@pytest.mark.parametrize("shape", [CIFAR, MNIST])
def test_mlp_mixer_by_hand(shape):
    w, patches = 128, shape[1] * shape[2] // 16
    network = build("mlp-mixer", shape, 10)
    weights = 16 * shape[0] * w + 8 * (2 * patches * w // 2 + 2 * w * 4 * w) + w * 10
    assert sum(size.numel() for size in prunable(network).values()) == weights
    assert count(network) == weights + w + 8 * (4 * w + w // 2 + patches + 4 * w + w) + 2 * w + 10


def test_queries_keys_and_values_are_prunable_and_positions_stay_dense():
    network = build("vit-tiny", MNIST, 10, [6])
    block = [f"blocks.0.{name}.weight" for name in ("attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2")]
    assert [name for name in prunable(network) if "blocks.0." in name] == block
    assert unprunable(network) == {"positions": (1, 50, 6)}
    with pytest.warns(UnprunableWarning, match=r"not prunable, and so dense: positions \[1, 50, 6\]\."):
        ep.Problem("vit-tiny", images(MNIST), widths=(6,))


def test_every_patch_uses_the_weights_of_a_block():
    x = torch.randn(1, 1, 8, 8)  # 4 patches
    network = build("vit-tiny", (1, 8, 8), 10, [6])
    found = uses(network, list(prunable(network)), x)
    assert (found["embed.weight"], found["blocks.3.attention.qkv.weight"], found["fc.weight"]) == (4, 5, 1)
    network = build("mlp-mixer", (1, 8, 8), 10, [6])
    found = uses(network, list(prunable(network)), x)
    assert (found["blocks.0.patches.fc1.weight"], found["blocks.0.channels.fc2.weight"]) == (6, 4)


# The forward pass


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_that_of_torch(heads):
    attention = Attention(6, heads)
    expected = nn.MultiheadAttention(6, heads, batch_first=True)
    with torch.no_grad():
        expected.in_proj_weight.copy_(attention.qkv.weight)
        expected.in_proj_bias.copy_(attention.qkv.bias.normal_())
        expected.out_proj.load_state_dict(attention.proj.state_dict())
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(attention(x), expected(x, x, x)[0])


def test_a_transformer_block_is_that_of_torch():
    block = TransformerBlock(6, 3)
    expected = nn.TransformerEncoderLayer(
        6, 3, 24, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    names = {
        "norm1": "norm1", "norm2": "norm2", "attention.proj": "self_attn.out_proj", "mlp.fc1": "linear1", "mlp.fc2": "linear2",
    }  # fmt: skip
    state = {f"{to}.{kind}": block.state_dict()[f"{name}.{kind}"] for name, to in names.items() for kind in ("weight", "bias")}
    state |= {f"self_attn.in_proj_{kind}": block.state_dict()[f"attention.qkv.{kind}"] for kind in ("weight", "bias")}
    expected.load_state_dict(state)
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(block(x), expected(x))


def test_the_class_token_reads_the_patches():
    network = build("vit-tiny", (1, 8, 12), 3, [6])
    x = torch.randn(2, 1, 8, 12)
    patches = F.unfold(x, 4, stride=4).transpose(1, 2) @ network.embed.weight.reshape(6, 16).T + network.embed.bias
    features = torch.cat((network.token.expand(2, 1, 6), patches), 1) + network.positions
    assert features.shape == (2, 7, 6)
    for block in network.blocks:
        features = block(features)
    torch.testing.assert_close(network(x), network.fc(network.norm(features[:, 0])))


def test_a_mixer_block_by_hand():
    block = MixerBlock(5, 6)
    x = torch.randn(2, 5, 6)
    columns = block.norm1(x).mT.reshape(12, 5)  # the patches of each channel of each image
    hidden = x + block.patches.fc2(F.gelu(block.patches.fc1(columns))).reshape(2, 6, 5).mT
    expected = hidden + block.channels.fc2(F.gelu(block.channels.fc1(block.norm2(hidden))))
    torch.testing.assert_close(block(x), expected)
    assert [layer.out_features for layer in (block.patches.fc1, block.channels.fc1)] == [3, 24]


def test_the_mixer_averages_the_patches():
    network = build("mlp-mixer", (1, 8, 12), 3, [4])
    x = torch.randn(2, 1, 8, 12)
    features = network.embed(x).reshape(2, 4, 6).mT
    for block in network.blocks:
        features = block(features)
    torch.testing.assert_close(network(x), network.fc(network.norm(features).mean(1)))


# Initial weights


@pytest.mark.filterwarnings("ignore::evoprune.errors.UnprunableWarning")
def test_positions_and_token_are_drawn_by_the_seed_of_w0():
    def drawn(seed):
        with seeds.seeded(seeds.integer(seed, "weights")):
            network = build("vit-tiny", CIFAR, 4, NARROW["vit-tiny"])
        return torch.cat([network.token, network.positions], 1)

    network = narrow("vit-tiny").network()
    assert torch.equal(torch.cat([network.token, network.positions], 1), drawn(0).double())
    assert not (drawn(0) == drawn(1)).any()
    assert 0 < drawn(0).abs().max() < 0.1  # a standard deviation of 0.02


# Input that does not fit


@pytest.mark.parametrize("shape", [(1, 30, 32), (3, 32, 9)])
@pytest.mark.parametrize("name", ["mlp-mixer", "vit-tiny"])
def test_images_of_broken_patches_are_refused(name, shape):
    with pytest.raises(InputError, match=rf"{name} cuts images into patches of 4 x 4 .* multiples of 4, .* Crop or pad"):
        build(name, shape, 10)


@pytest.mark.parametrize(("name", "width", "expected"), [("mlp-mixer", 5, "an even number"), ("vit-tiny", 8, "its 3 heads")])
def test_widths_that_cannot_be_shared_out_are_refused(name, width, expected):
    with pytest.raises(InputError, match=rf"widths are \({width},\) for {name}; expected .*{expected}"):
        build(name, CIFAR, 10, [width])


# Pruned


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp-mixer", "vit-tiny"])
def test_k_starts_of_a_few_steps(name):
    exclude = ["positions"] if name == "vit-tiny" else []
    problem = ep.Problem(name, images((1, 8, 8), 8), ep.Recipe(epochs=2, batch_size=4), widths=(6,), exclude=exclude)
    result = ep.k_starts(problem, k=2, sparsity=0.9, fitness_epochs=1, engine="module", controls=False)
    assert result.mask.survivors == round(0.1 * problem.prunable_count)
    state = result.model.state_dict()
    for layer, kept in result.mask.layers.items():
        assert not state[layer][torch.from_numpy(~kept)].any()
