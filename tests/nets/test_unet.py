"""The U-Net: its blocks against their formulas, its conditions, and the bits of a row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.nets import UNet, build
from reverie.nets.unet import _Attention, _Block


def _random(net: nn.Module, seed: int = 0) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * (0.1 if p.ndim > 1 else 0.5))
    return net.eval()


def _inputs(batch: int = 16, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, size, size, generator=g), torch.randn(batch, generator=g) * 3, torch.arange(batch) % 11


def test_limit_a_fresh_network_answers_zero() -> None:
    assert UNet()(*_inputs()).abs().max() == 0


@pytest.mark.parametrize("size", [8, 16, 32])
def test_shapes_and_gradients(size: int) -> None:
    net = _random(UNet(widths=(8, 16, 24), depth=1, embed=16))
    out = net(*_inputs(4, size))
    assert out.shape == (4, 1, size, size)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_oracle_the_blocks_formula() -> None:
    block = _random(_Block(8, 16, 6, dropout=0.9))
    x, e = torch.randn(3, 8, 4, 4), torch.randn(3, 6)
    h = block.conv1(F.silu(F.group_norm(x, 8, block.norm1.weight, block.norm1.bias)))
    s, b = (e @ block.embed.weight.T + block.embed.bias).split(16, dim=1)
    h = F.group_norm(h, 8, block.norm2.weight, block.norm2.bias) * (1 + s[..., None, None]) + b[..., None, None]
    want = F.conv2d(x, block.skip.weight, block.skip.bias) + block.conv2(F.silu(h))
    torch.testing.assert_close(block(x, e), want)


def test_oracle_attention_of_torch() -> None:
    layer = _random(_Attention(8, 2))
    x = torch.randn(3, 8, 4, 4)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).reshape(3, 3, 2, 4, 16).transpose(-1, -2).unbind(1)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(3, 8, 4, 4)
    torch.testing.assert_close(layer(x), x + layer.out(mixed))


def test_identity_no_class_is_the_null_class() -> None:
    net, (x, label, _) = _random(UNet()), _inputs()
    assert torch.equal(net(x, label), net(x, label, torch.full((16,), 10)))
    assert not torch.equal(net(x, label), net(x, label, torch.full((16,), 9)))


def test_every_condition_matters() -> None:
    net, (x, label, c) = _random(UNet()), _inputs()
    base = net(x, label, c)
    for other in (net(x, label + 0.5, c), net(x, label, c.roll(1)), net(x.flip(3), label, c)):
        assert (other - base).flatten(1).abs().amax(1).min() > 1e-4


def test_the_way_up_sees_the_way_down() -> None:
    """With nothing passed to the lowest level, the picture still comes through."""
    net, (x, label, c) = _random(UNet()), _inputs()
    nn.init.zeros_(net.down[1].weight)
    assert (net(x.flip(3), label, c) - net(x, label, c)).abs().amax() > 1e-3


def test_bits_of_a_row_depend_on_neither_place_nor_neighbours() -> None:
    net, (x, label, c) = _random(UNet(widths=(32, 64))), _inputs()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(net(x, label, c)[order], net(x[order], label[order], c[order]))
        other = x.clone()
        other[1:] = 7.0
        assert torch.equal(net(x, label, c)[0], net(other, label, c)[0])


def test_bits_do_not_depend_on_threads() -> None:
    net, inputs, threads = _random(UNet(widths=(32, 64))), _inputs(), torch.get_num_threads()
    try:
        with torch.no_grad():
            results = []
            for count in (1, 2):
                torch.set_num_threads(count)
                results.append(net(*inputs))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_its_configuration_rebuilds_it() -> None:
    net = _random(UNet(channels=2, widths=(8, 16), classes=3, embed=16, dropout=0.2, frequencies=(0.5, 8.0)))
    again = build("unet", net.config).eval()
    again.load_state_dict(net.state_dict())
    x, label, c = torch.randn(2, 2, 8, 8), torch.randn(2), torch.tensor([0, 3])
    assert torch.equal(net(x, label, c), again(x, label, c))


def test_unconditional_and_without_attention() -> None:
    net = _random(UNet(classes=0, heads=0, widths=(8,), depth=1, embed=8))
    assert net(torch.zeros(2, 1, 5, 7), torch.zeros(2)).shape == (2, 1, 5, 7)
    with pytest.raises(ArgumentError, match="unconditional"):
        net(torch.zeros(2, 1, 5, 7), torch.zeros(2), torch.zeros(2, dtype=torch.long))


def test_dropout_acts_while_training_only() -> None:
    net, inputs = _random(UNet(dropout=0.5)), _inputs()
    assert torch.equal(net(*inputs), net(*inputs))
    net.train()
    assert not torch.equal(net(*inputs), net(*inputs))


@pytest.mark.parametrize(
    "args", [{"widths": ()}, {"depth": 0}, {"embed": 7}, {"heads": 3}, {"dropout": 1.0}, {"frequencies": (2.0, 1.0)}]
)
def test_constructor_refuses(args: dict) -> None:
    with pytest.raises(ArgumentError, match=next(iter(args)) if "widths" not in args else "widths"):
        UNet(**args)


def test_forward_refuses() -> None:
    net, (x, label, c) = UNet(), _inputs()
    with pytest.raises(ShapeError, match=r"divisible by 2, got \(16, 1, 7, 8\)"):
        net(x[:, :, 1:], label, c)
    with pytest.raises(ShapeError, match="pictures must be"):
        net(x.expand(16, 3, 8, 8), label, c)
    with pytest.raises(ShapeError, match=r"class_labels must be \(16,\)"):
        net(x, label, c[:4])
    with pytest.raises(ArgumentError, match="0 to 9, or 10 for none, got 0 to 11"):
        net(x, label, (torch.arange(16) % 12))


def test_building_refuses() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'unet'"):
        build("unett")
    with pytest.raises(ArgumentError, match="widht"):
        build("unet", {"widht": 3})
