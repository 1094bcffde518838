"""Anatomy by class of network: what is counted follows from the configuration, the order and the tokens from what the network does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reverie as rv
from reverie.base import ArgumentError, UnknownNameError
from reverie.model.anatomy import Anatomy, Places, anatomy, attention, inputs, outputs, record_attention, replace
from reverie.nets import UNet

TEXT = 5
"""Tokens of text, where there is text."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spread(net: nn.Module) -> Any:
    """The network with every weight random, in evaluation mode: none of its layers is idle."""
    torch.manual_seed(0)
    for q in net.parameters():
        q.data.normal_(0, 0.3)
    return net.eval()


def unet_2d(**config: Any) -> Any:
    from diffusers import UNet2DModel

    base = {
        "sample_size": 8, "in_channels": 2, "out_channels": 2, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "attention_head_dim": 4, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return spread(UNet2DModel(**base | config))


def unet_2d_condition(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    base = {
        "sample_size": 8, "in_channels": 2, "out_channels": 2, "block_out_channels": (8, 16), "layers_per_block": 2, "norm_num_groups": 4,
        "attention_head_dim": 2, "cross_attention_dim": 6, "transformer_layers_per_block": (1, 2),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return spread(UNet2DConditionModel(**base | config))


def dit(**config: Any) -> Any:
    from diffusers import DiTTransformer2DModel

    base = {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "in_channels": 2,
        "num_layers": 3,
        "sample_size": 8,
        "num_embeds_ada_norm": 10,
    }
    return spread(DiTTransformer2DModel(**base | config))


def pixart(**config: Any) -> Any:
    from diffusers import PixArtTransformer2DModel

    base = {
        "num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 2, "out_channels": 2, "num_layers": 3, "sample_size": 8,
        "cross_attention_dim": 8, "caption_channels": 6, "use_additional_conditions": False,
    }  # fmt: skip
    return spread(PixArtTransformer2DModel(**base | config))


def sd3(**config: Any) -> Any:
    from diffusers import SD3Transformer2DModel

    base = {
        "num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 2, "out_channels": 2, "num_layers": 3, "sample_size": 8, "patch_size": 2,
        "joint_attention_dim": 6, "caption_projection_dim": 8, "pooled_projection_dim": 4, "pos_embed_max_size": 8, "dual_attention_layers": (0,),
    }  # fmt: skip
    return spread(SD3Transformer2DModel(**base | config))


def flux(**config: Any) -> Any:
    from diffusers import FluxTransformer2DModel

    base = {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 2, "num_layers": 2, "num_single_layers": 3, "joint_attention_dim": 6,
        "pooled_projection_dim": 4, "axes_dims_rope": (2, 2, 4),
    }  # fmt: skip
    return spread(FluxTransformer2DModel(**base | config))


def own(**config: Any) -> Any:
    return spread(
        UNet(**{"channels": 2, "widths": (8, 16), "depth": 2, "embed": 16, "heads": 2, "classes": 10} | config)
    )


def ids(rows: int, columns: int) -> Tensor:
    grid = torch.zeros(rows, columns, 3)
    grid[..., 1], grid[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    return grid.reshape(-1, 3)


def call(net: nn.Module, x: Tensor | None = None, text: Tensor | None = None) -> Tensor:
    """The network's output for two rows, whatever it asks for besides."""
    kind = type(net).__name__
    x = noise(2, 2, 8, 8) if x is None else x
    text = noise(2, TEXT, 6, seed=1) if text is None else text
    t, some = torch.tensor([1.0, 5.0]), noise(2, 4, seed=2)
    with torch.no_grad():
        if kind == "UNet":
            return net(x, t, torch.tensor([3, 10]))
        if kind == "UNet2DModel":
            return net(x, t, return_dict=False)[0]
        if kind == "DiTTransformer2DModel":
            return net(x, t.long(), class_labels=torch.tensor([3, 9]), return_dict=False)[0]
        if kind == "SD3Transformer2DModel":
            return net(x, text, pooled_projections=some, timestep=t, return_dict=False)[0]
        if kind == "FluxTransformer2DModel":
            packed, at = x.flatten(2).transpose(1, 2), ids(*x.shape[2:])
            told = {"pooled_projections": some, "timestep": t, "img_ids": at, "txt_ids": torch.zeros(text.shape[1], 3)}
            return net(packed, text, return_dict=False, **told)[0]
        return net(x, timestep=t, encoder_hidden_states=text, return_dict=False)[0]


NETS: dict[str, Callable[..., Any]] = {
    "unet-2d": unet_2d, "unet-2d-condition": unet_2d_condition, "dit": dit, "pixart": pixart, "sd3": sd3, "flux": flux, "own": own,
}  # fmt: skip
# Kinds of U-Net levels that differ in what they hold or in the order in which they run it.
VARIANTS: dict[str, Callable[[], Any]] = {
    "score-sde": lambda: unet_2d(
        block_out_channels=(32, 32), norm_num_groups=32, in_channels=3, out_channels=3, layers_per_block=2, time_embedding_type="fourier",
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"), up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    ),
    "resnet-resamplers": lambda: unet_2d(downsample_type="resnet", upsample_type="resnet", add_attention=False),
    "added-kv": lambda: unet_2d_condition(
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", down_block_types=("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"), transformer_layers_per_block=1,
    ),
    "k-upscaler": lambda: unet_2d_condition(
        mid_block_type=None, down_block_types=("KDownBlock2D", "KCrossAttnDownBlock2D"), up_block_types=("KCrossAttnUpBlock2D", "KUpBlock2D"),
        block_out_channels=(32, 32), resnet_time_scale_shift="scale_shift", time_embedding_type="fourier", timestep_post_act="gelu",
        transformer_layers_per_block=1, attention_head_dim=4, act_fn="gelu", time_embedding_dim=32, conv_in_kernel=1, conv_out_kernel=1,
    ),
    "only-cross": lambda: unet_2d_condition(only_cross_attention=(True, False)),
    "linear": lambda: unet_2d_condition(use_linear_projection=True, attention_head_dim=(2, 4)),
}  # fmt: skip
_MADE: dict[str, Any] = {}


def made(name: str) -> Any:
    """A network of a name, built once; tests leave it as it was, which is what they test."""
    if name not in _MADE:
        _MADE[name] = (NETS | VARIANTS)[name]()
    return _MADE[name]


def x_of(net: nn.Module) -> Tensor:
    return noise(2, 3, 8, 8) if getattr(getattr(net, "config", None), "in_channels", 2) == 3 else noise(2, 2, 8, 8)


def every(a: Anatomy) -> Places:
    return a.blocks + a.attention + a.feedforward


@pytest.fixture(params=[*NETS, *VARIANTS])
def any_net(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


# -- counts

# Of unet-2d: a level is a residual block and, where it attends, an attention block; the middle two and one; levels on the way up have one layer more.
# Of unet-2d-condition: levels of 2 (up: 3) layers, transformers of 1 layer at the upper level and 2 in the middle.
COUNTS = {
    "unet-2d": {"self_attention": 1 + 1 + 2, "blocks": (1 + 1) + 2 + 3 + (2 * 2 + 1) + 2, "skips": 2 * 2},
    "unet-2d-condition": {
        "self_attention": 2 + 2 + 3, "cross_attention": 2 + 2 + 3, "feedforward": 2 + 2 + 3,
        "blocks": (2 * 2 + 1) + 2 + 3 + (3 + 1) + 3 * 2, "skips": 3 * 2,
    },
    "dit": {"self_attention": 3, "blocks": 3, "feedforward": 3},
    "pixart": {"self_attention": 3, "cross_attention": 3, "blocks": 3, "feedforward": 3},
    "sd3": {"self_attention": 1, "joint_attention": 3, "blocks": 3, "feedforward": 2 * 3 - 1},  # the last block has no text to feed forward
    "flux": {"joint_attention": 2 + 3, "blocks": 2 + 3, "feedforward": 2 * 2},
    "own": {"self_attention": 1, "blocks": (2 + 1) + (3 + 1) + 2, "skips": 1},
    "added-kv": {"joint_attention": 2 + 1 + 3, "blocks": (2 * 2 + 1) + 2 + 3 + (3 + 1) + 3 * 2, "skips": 3 * 2},
    "only-cross": {"self_attention": 2, "cross_attention": 2 * (2 + 3) + 2, "feedforward": 7, "blocks": 20, "skips": 6},
    "linear": {"self_attention": 7, "cross_attention": 7, "feedforward": 7, "blocks": 20, "skips": 6},
    "resnet-resamplers": {"self_attention": 3, "blocks": 13, "skips": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_counts_follow_from_the_configuration(name: str) -> None:
    a = anatomy(made(name))
    lists = ("self_attention", "cross_attention", "joint_attention", "blocks", "feedforward", "skips")
    found = {what: len(getattr(a, what)) for what in lists if what in COUNTS[name] or len(getattr(a, what))}
    assert found == COUNTS[name], every(a)
    assert all(dict(made(name).named_modules())[p.name] is p.module for p in every(a))
    for what in lists[:-1]:
        assert [p.index for p in getattr(a, what)] == list(range(len(getattr(a, what))))


def test_kinds_parts_and_scales_of_a_unet() -> None:
    a = anatomy(made("unet-2d-condition"))
    said = [(p.kind[0], p.part[0], p.scale) for p in a.blocks]
    up = [("r", "e", 1), ("t", "e", 1)] * 2 + [("d", "e", 1)] + [("r", "e", 2)] * 2
    middle = [("r", "m", 2), ("t", "m", 2), ("r", "m", 2)]
    assert said == up + middle + [("r", "d", 2)] * 3 + [("u", "d", 2)] + [("r", "d", 1), ("t", "d", 1)] * 3
    assert a.kind == "U-Net"
    assert [p.scale for p in a.self_attention] == [1, 1, 2, 2, 1, 1, 1]
    assert [(p.scale, p.part) for p in anatomy(made("sd3")).blocks] == [(2, "body")] * 3
    assert [p.kind for p in anatomy(made("flux")).blocks] == ["joint"] * 2 + ["single"] * 3


# -- what the network does


def ran(net: Any, places: Places) -> list[str]:
    """Names of the places in the order in which a call of the network comes out of them."""
    order: list[str] = []
    with outputs(places, lambda place, out, args, kwargs: order.append(place.name)):
        call(net, x_of(net))
    return order


def test_places_are_in_the_order_of_execution(any_net: Any) -> None:
    a = anatomy(any_net)
    for places in (a.blocks, a.self_attention, a.cross_attention, a.joint_attention, a.feedforward):
        if places:
            assert ran(any_net, places) == [p.name for p in places]


def test_scales_and_widths_are_those_of_the_features(any_net: Any) -> None:
    a, x = anatomy(any_net), x_of(any_net)

    def check(place: Any, out: Any, args: Any, kwargs: Any) -> None:
        given, got = place.input(args, kwargs), place.output(out)
        if given.ndim == 4:
            assert given.shape[-1] * place.scale == x.shape[-1]
            assert place.widths in (None, (given.shape[1], got.shape[1]))
        else:
            assert given.shape[1] * place.scale**2 == x.shape[-1] ** 2
            assert got.shape == given.shape

    with outputs(a.blocks, check):
        call(any_net, x)


def test_identity_attention_changes_the_output_and_passing_on_does_not(any_net: Any) -> None:
    a, x = anatomy(any_net), x_of(any_net)
    plain = call(any_net, x)
    for places in (a.self_attention, a.cross_attention, a.joint_attention):
        if not places:
            continue
        with attention(places, lambda place, q, k, v, mask, attend: attend(q, k, v, mask)):
            assert torch.equal(call(any_net, x), plain)
        with attention(
            places, lambda place, q, k, v, mask, attend: v[:, :, : q.shape[2]] if v.shape[2] >= q.shape[2] else q
        ):
            assert not torch.allclose(call(any_net, x), plain)
        for place in places:  # each by itself has a say
            with attention(place, lambda place, q, k, v, mask, attend: attend(q, k, v * 2, mask)):
                assert not torch.equal(call(any_net, x), plain), place
    assert torch.equal(call(any_net, x), plain)


def test_replacing_by_the_original_changes_nothing(any_net: Any) -> None:
    x = x_of(any_net)
    plain = call(any_net, x)
    with replace(every(anatomy(any_net)), lambda place, original, *args, **kwargs: original(*args, **kwargs)):
        assert torch.equal(call(any_net, x), plain)


def test_writing_back_what_was_read_changes_nothing(any_net: Any) -> None:
    a, x = anatomy(any_net), x_of(any_net)
    plain = call(any_net, x)
    with (
        inputs(every(a), lambda place, args, kwargs: place.with_input(args, kwargs, place.input(args, kwargs).clone())),
        outputs(every(a), lambda place, out, args, kwargs: place.with_output(out, place.output(out).clone())),
    ):
        assert torch.equal(call(any_net, x), plain)
    for place in a.blocks:
        with outputs(place, lambda place, out, args, kwargs: place.with_output(out, place.output(out) * 1.5)):
            assert not torch.equal(call(any_net, x), plain), place


def idle(place: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
    return place.idle(args, kwargs)


@pytest.mark.parametrize("name", ["unet-2d", "unet-2d-condition", "own", "added-kv"])
def test_a_skipped_middle_is_a_network_without_one(name: str) -> None:
    net = made(name)
    plain = call(net)
    with replace(anatomy(net).blocks.where(part="middle"), idle):
        skipped = call(net)
    assert not torch.allclose(skipped, plain)
    bare = NETS.get(name, VARIANTS.get(name))()
    if name == "own":
        bare.middle, bare.attention = nn.ModuleList(), nn.Identity()
    else:
        bare.mid_block = None
    assert torch.equal(skipped, call(bare))


@pytest.mark.parametrize("name", ["dit", "pixart", "sd3", "flux"])
def test_a_skipped_block_is_a_network_without_it(name: str) -> None:
    net = made(name)
    plain = call(net)
    for place in anatomy(net).blocks[1:]:  # the first of DiT embeds the time for its end
        with replace(place, idle):
            skipped = call(net)
        assert not torch.allclose(skipped, plain)
        bare = NETS[name]()
        holder, _, at = place.name.rpartition(".")
        del bare.get_submodule(holder)[int(at)]
        assert torch.equal(skipped, call(bare))


def test_a_cached_middle_is_not_computed() -> None:
    net = made("unet-2d-condition")
    a, seen, ran = anatomy(net), {}, []
    with outputs(a.blocks, lambda place, out, args, kwargs: seen.__setitem__(place.name, out)):
        plain = call(net)
    deep = a.blocks.where(scale=2)
    with (
        outputs(a.attention.where(scale=2), lambda place, out, args, kwargs: ran.append(place.name)),
        replace(deep, lambda place, original, *args, **kwargs: seen[place.name]),
    ):
        assert torch.equal(call(net), plain)
    assert not ran


def test_skips_split_into_backbone_and_encoder_as_in_freeu() -> None:
    net = made("unet-2d-condition")

    def widen(place: Any, args: Any, kwargs: Any) -> Any:
        hidden, skip = place.input(args, kwargs).split((place.widths[0] - place.skip, place.skip), 1)
        half = hidden.shape[1] // 2
        return place.with_input(args, kwargs, torch.cat([hidden[:, :half] * 1.4, hidden[:, half:], skip], 1))

    with inputs(anatomy(net).skips.where(scale=2), widen):
        ours = call(net)
    theirs = unet_2d_condition()
    theirs.enable_freeu(s1=1.0, s2=1.0, b1=1.4, b2=1.0)  # at factor 1 its filter of the skips is the identity
    assert torch.allclose(ours, call(theirs), atol=1e-5)
    assert not torch.allclose(ours, call(net), atol=1e-3)


def test_what_is_no_skip_is_what_the_block_before_returned(any_net: Any) -> None:
    a, x, last, seen = anatomy(any_net), x_of(any_net), [], []

    def check(place: Any, args: Any, kwargs: Any) -> None:
        if place.skip:
            given = place.input(args, kwargs)
            hidden = given[:, : given.shape[1] - place.skip]
            before = last[-1]
            if before.shape[-1] != hidden.shape[-1]:  # Reverie's own network doubles the picture without a module
                before = nn.functional.interpolate(before, scale_factor=2.0)
            assert torch.equal(hidden, before)
            seen.append(place)

    with (
        inputs(a.blocks, check),
        outputs(a.blocks, lambda place, out, args, kwargs: last.append(place.output(out))),
    ):
        call(any_net, x)
    assert tuple(seen) == a.skips


def test_a_decoder_that_takes_skips_otherwise_has_none() -> None:
    assert anatomy(made("k-upscaler")).skips == ()


# -- tokens and maps


@pytest.mark.parametrize("name", ["sd3", "flux", "flux-single", "added-kv", "pixart", "unet-2d-condition"])
def test_text_tokens_are_those_that_a_change_of_text_moves(name: str) -> None:
    net = flux(num_layers=0, num_single_layers=1) if name == "flux-single" else made(name)
    a = anatomy(net)
    first = a.blocks.where(kind=("joint", "single", "transformer", "attention"))[0].name
    place = (a.joint_attention or a.cross_attention).where(name=f"^{first}(\\.|$)")[0]
    seen: list[tuple[Tensor, Tensor, Any, Any]] = []

    def look(place: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, attend: Any) -> Tensor:
        seen.append((q, k, attend.queries, attend.keys))
        return attend(q, k, v, mask)

    with attention(place, look):
        call(net)
        call(net, text=noise(2, TEXT, 6, seed=7))
    for which in (0, 1):
        moved = (seen[0][which] != seen[1][which]).any(-1).all(1).all(0)
        tokens = seen[0][2 + which]
        assert moved[tokens.text].all()
        assert not moved[tokens.picture].any()
        assert moved[tokens.text].numel() + moved[tokens.picture].numel() == moved.numel()
    keys = seen[0][3]
    assert keys.text.stop - keys.text.start == TEXT
    order = {"sd3": "last", "flux": "first", "flux-single": "first", "added-kv": "first"}
    if name in order:
        assert (keys.text.start == 0) == (order[name] == "first")


@pytest.mark.parametrize("name", ["pixart", "sd3", "dit"])
def test_the_grid_places_a_token_where_its_patch_is(name: str) -> None:
    net, shape = made(name), (2, 2, 8, 8) if name == "dit" else (2, 2, 8, 12)
    x, seen = noise(*shape), []
    place = (anatomy(net).joint_attention or anatomy(net).self_attention)[0]

    def look(place: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, attend: Any) -> Tensor:
        seen.append((k[:, :, attend.keys.picture], attend.grid))
        return attend(q, k, v, mask)

    other = x.clone()
    other[:, :, 5, 6] += 1  # row 2, column 3 of patches of 2
    with attention(place, look):
        call(net, x)
        call(net, other)
    rows, columns = seen[0][1]
    assert (rows, columns) == (shape[2] // 2, shape[3] // 2)
    moved = (seen[0][0] != seen[1][0]).any(-1).all(1).all(0)
    assert moved.nonzero().tolist() == [[2 * columns + 3]]


@pytest.mark.parametrize("name", ["unet-2d", "unet-2d-condition", "own", "added-kv", "linear", "flux"])
def test_grids_of_pictures_that_are_not_square(name: str) -> None:
    net = made(name)
    with record_attention(anatomy(net).attention) as maps:
        call(net, noise(2, 2, 8, 16))
    for place in anatomy(net).attention:
        (found,) = maps[place.name]
        assert found.grid == (8 // place.scale, 16 // place.scale)
        assert found.weights[:, :, found.queries.picture].shape[2] == 8 * 16 // place.scale**2


def test_ids_that_are_no_grid_have_none() -> None:
    net, at = made("flux"), ids(3, 4)
    told = {
        "pooled_projections": noise(1, 4),
        "timestep": torch.ones(1),
        "txt_ids": torch.zeros(TEXT, 3),
        "encoder_hidden_states": noise(1, TEXT, 6),
    }
    for picture, grid in (
        (at, (3, 4)),
        (at + 7, (3, 4)),
        (at[torch.randperm(12)], None),
        (torch.cat([at[:6], at[:6]]), None),
    ):
        with torch.no_grad(), record_attention(anatomy(net).joint_attention) as maps:
            net(noise(1, 12, 2), img_ids=picture, **told)
        assert [m[0].grid for m in maps.values()] == [grid] * 5
        assert all(m[0].keys.text == slice(0, TEXT) for m in maps.values())


def test_recorded_probabilities_times_v_are_the_output(any_net: Any) -> None:
    x = x_of(any_net)
    plain, places = call(any_net, x), anatomy(any_net).attention

    def by_hand(place: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, attend: Any) -> Tensor:
        out = attend.weights(q, k, mask) @ v
        assert torch.allclose(out, attend(q, k, v, mask), atol=1e-4, rtol=1e-4)
        return out

    with attention(places, by_hand):
        assert torch.allclose(call(any_net, x), plain, atol=1e-3, rtol=1e-3)
    with record_attention(places) as maps:
        assert torch.equal(call(any_net, x), plain)
    assert list(maps) == [p.name for p in places]
    for (found,) in maps.values():
        assert found.weights.shape[0] == 2
        assert found.weights.ndim == 4
        assert torch.allclose(found.weights.sum(-1), torch.ones(()), atol=1e-5)


def test_a_mask_over_text_is_seen_in_the_probabilities() -> None:
    net, x, text = made("pixart"), noise(2, 2, 8, 8), noise(2, TEXT, 6)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with (
        torch.no_grad(),
        record_attention(anatomy(net).cross_attention, keep=lambda place, found: found.weights.mean(1)) as maps,
    ):
        net(x, text, timestep=torch.ones(2), encoder_attention_mask=mask, return_dict=False)
    for (mean,) in maps.values():
        assert mean[0, :, 3:].max() == 0 < mean[1, :, 3:].max()


# -- selection


def test_selection() -> None:
    a = anatomy(made("unet-2d-condition"))
    assert {p.part for p in a.blocks.where(part=("encoder", "middle"))} == {"encoder", "middle"}
    assert [p.index for p in a.blocks.where(index=range(3, 6))] == [3, 4, 5]
    assert [p.name for p in a.self_attention.where(name=r"^mid_block.*\.1\.attn1$")] == [
        "mid_block.attentions.0.transformer_blocks.1.attn1"
    ]
    assert a.blocks.where(kind="resnet", part="decoder", scale=2) == a.skips[:3]
    assert isinstance(a.blocks[:2] + a.skips, Places)
    assert a.blocks.where(index=10**6) == ()
    assert repr(a.blocks.where(index=10**6)) == "no places"
    assert repr(a.skips[0]) == "<up_blocks.0.resnets.0: resnet 10, decoder, scale 2, skip 16, ResnetBlock2D>"
    with pytest.raises(UnknownNameError, match="unknown part 'mid'; did you mean 'middle'"):
        a.blocks.where(part="mid")
    with pytest.raises(UnknownNameError, match="unknown kind of place 'conv'"):
        a.blocks.where(kind=("resnet", "conv"))
    with pytest.raises(ArgumentError, match=r"name='\(' is no regular expression"):
        a.blocks.where(name="(")


def test_what_cannot_pass_its_input_on() -> None:
    a = anatomy(made("unet-2d-condition"))
    with (
        replace(a.skips[0], idle),
        pytest.raises(
            ArgumentError, match=r"up_blocks\.0\.resnets\.0 turns 32 channels into 16 and cannot pass its input on"
        ),
    ):
        call(made("unet-2d-condition"))
    with (
        replace(a.feedforward[0], idle),
        pytest.raises(ArgumentError, match="is of kind 'feedforward'; only blocks with a residual connection"),
    ):
        call(made("unet-2d-condition"))
    with pytest.raises(ArgumentError, match="was given NoneType first, not features"):
        a.blocks[0].input((), {})
    with pytest.raises(ArgumentError, match="returned dict, in which no features were found"):
        a.blocks[1].output({})


def test_the_house_model() -> None:
    m = rv.load("digits")
    a = anatomy(m | rv.guide.CFG(2.0))
    assert a.net is m.net
    assert len(a.self_attention) == 1
    x = noise(2, *m.shape)
    plain = m(x, 0.5).x0
    with torch.no_grad(), attention(a.self_attention, lambda place, q, k, v, mask, attend: v):
        assert not torch.equal(m(x, 0.5).x0, plain)
