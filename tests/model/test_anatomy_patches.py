"""Patches: what they compute together, that they leave nothing behind, and through what a network is found."""

from __future__ import annotations

import functools
import inspect
import threading
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from test_anatomy import call, every, idle, made, noise, own, sd3, unet_2d_condition
from torch import Tensor, nn
from torch.nn import functional as F

import reverie as rv
from reverie.base import ArgumentError, ShapeError, UnknownNameError
from reverie.model.anatomy import Anatomy, Place, anatomy, attention, inputs, outputs, record_attention, replace

NAMES = ["unet-2d", "unet-2d-condition", "dit", "pixart", "sd3", "flux", "own"]


def same(place: Place, q: Tensor, k: Tensor, v: Tensor, mask: Any, attend: Any) -> Tensor:
    return attend(q, k, v, mask)


def identity(place: Place, q: Tensor, k: Tensor, v: Tensor, mask: Any, attend: Any) -> Tensor:
    return v


def trace(net: nn.Module) -> Any:
    """All that a patch could leave: attributes and their order, hooks, processors, names of weights."""
    held = {}
    for name, module in net.named_modules():
        held[name] = [(key, id(value)) for key, value in vars(module).items()]
        held[name] += [
            (key, tuple(value.items()))
            for key, value in vars(module).items()
            if "hook" in key and isinstance(value, dict)
        ]
        held[name] += [
            "forward" in vars(module),
            id(getattr(module, "processor", None)),
            inspect.signature(module.forward),
        ]
    return held, list(net.state_dict()), [id(p) for p in net.parameters()]


class Toy(nn.Module):
    """Two blocks of x -> 2x + 1, with attention over halves between them where it is asked for."""

    class Block(nn.Module):
        def forward(self, x: Tensor, times: float = 2.0) -> Tensor:
            return x * times + 1

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.told: dict[str, Any] = {}

        def forward(self, x: Tensor) -> Tensor:
            q = x.reshape(len(x), 2, 3, 2)
            k = q[:, :1] if self.told.get("enable_gqa") else q
            return F.scaled_dot_product_attention(q, k, k, **self.told).reshape(x.shape)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mix, self.b = self.Block(), self.Attention(), self.Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.mix(self.a(x)), times=3.0)


def toy() -> tuple[Toy, Anatomy]:
    net = Toy()
    return net, Anatomy.of(net, blocks={"encoder": ["a"], "decoder": ["b"]}, self_attention=["mix"])


X = noise(2, 12)


# -- nothing left behind


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left(name: str) -> None:
    net = made(name)
    a, plain, before = anatomy(net), call(net), trace(net)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("stop")

    with (
        outputs(every(a), lambda *_: None),
        inputs(every(a), lambda *_: None),
        replace(a.blocks, idle),
        attention(a.attention, same),
    ):
        assert trace(net) != before
    assert trace(net) == before
    for manager in (
        outputs(every(a), fail),
        inputs(every(a), fail),
        replace(every(a), fail),
        attention(a.attention, fail),
    ):
        with (
            pytest.raises(KeyError, match="stop"),
            record_attention(a.attention),
            outputs(a.blocks, lambda *_: None),
            manager,
        ):
            call(net)
        assert trace(net) == before
    with pytest.raises(RuntimeError, match="body"), attention(a.attention, identity), attention(a.attention[0], same):
        raise RuntimeError("body")
    assert trace(net) == before
    assert torch.equal(call(net), plain)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)])
def test_managers_may_be_closed_in_any_order(order: tuple[int, ...]) -> None:
    net = made("unet-2d-condition")
    a, plain, before = anatomy(net), call(net), trace(net)
    managers = [
        outputs(every(a), lambda *_: None),
        attention(a.attention, same),
        inputs(every(a), lambda *_: None),
        attention(a.self_attention, identity),
        replace(a.blocks, lambda place, original, *args, **kwargs: original(*args, **kwargs)),
    ]
    for manager in managers:
        manager.__enter__()
    with attention(a.self_attention, identity):
        perturbed = call(net)
    assert torch.equal(call(net), perturbed)
    for i in order:
        managers[i].__exit__(None, None, None)
        closed = order[: order.index(i) + 1]
        assert torch.equal(call(net), plain if 3 in closed else perturbed)
    assert trace(net) == before


def test_a_forward_of_the_instance_comes_back() -> None:
    net, a = toy()
    net.a.forward = lambda x: x * 5  # as accelerate's hooks do
    before, plain = trace(net), net(X)
    with outputs(a.blocks, lambda place, out, args, kwargs: out + 1):
        assert not torch.equal(net(X), plain)
    assert trace(net) == before
    assert torch.equal(net(X), plain)


def test_a_forward_changed_meanwhile_is_an_error_and_goes_on_working() -> None:
    net, a = toy()
    plain = net(X)
    manager = outputs(a.blocks, lambda place, out, args, kwargs: out + 1)
    manager.__enter__()
    inner = net.a.forward
    net.a.forward = lambda x: inner(x)
    with pytest.raises(
        ArgumentError, match="the forward of a Block was changed by something else while it was patched"
    ):
        manager.__exit__(None, None, None)
    assert "forward" not in vars(net.b)
    assert torch.equal(net(X), plain)
    with outputs(a.blocks[0], lambda place, out, args, kwargs: out + 1):
        assert not torch.equal(net(X), plain)
    assert torch.equal(net(X), plain)


def test_signatures_stay_readable() -> None:
    net = made("unet-2d-condition")
    a = anatomy(net)
    with outputs(a.blocks, lambda *_: None), attention(a.attention, same):
        assert list(inspect.signature(a.blocks[0].module.forward).parameters)[:2] == ["input_tensor", "temb"]
        assert "encoder_hidden_states" in inspect.signature(net.forward).parameters


# -- what they compute together


def test_later_is_outer() -> None:
    net, a = toy()
    first, order = a.blocks[0], []

    def note(word: str) -> Any:
        return lambda place, out, args, kwargs: order.append((word, float(out[0, 0])))

    x = torch.ones(1, 12)
    with (
        outputs(first, note("inner")),
        replace(first, lambda place, original, x: original(x, times=10.0) + 100),
        inputs(first, lambda place, args, kwargs: ((args[0] + 1,), kwargs)),
        outputs(first, note("outer")),
    ):
        net(x)
    assert order == [("inner", 21.0), ("outer", 121.0)]  # (1 + 1) * 10 + 1, then + 100


def test_functions_of_attention_chain() -> None:
    net, a = toy()
    out = {}

    def keep(word: str) -> Any:
        def f(place: Place, q: Tensor, k: Tensor, v: Tensor, mask: Any, attend: Any) -> Tensor:
            out[word] = attend(q, k, v, mask)
            return out[word]

        return f

    with (
        attention(a.self_attention, keep("earlier")),
        attention(a.self_attention, lambda p, q, k, v, m, attend: attend(q, k, v * 2, m) + 1),
    ):
        y = net(X)
    q = (X * 2 + 1).reshape(2, 2, 3, 2)
    assert torch.equal(out["earlier"], F.scaled_dot_product_attention(q, q, q * 2))
    assert torch.equal(y, (out["earlier"] + 1).reshape(X.shape) * 3 + 1)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"is_causal": True},
        {"scale": 0.1},
        {"enable_gqa": True},
        {"attn_mask": noise(3, 3)},
        {"attn_mask": torch.eye(3) > 0},
    ],
)
def test_what_the_network_told_the_product_is_kept(told: dict[str, Any]) -> None:
    net, a = toy()
    net.mix.told = told
    plain = net(X)

    def by_hand(place: Place, q: Tensor, k: Tensor, v: Tensor, mask: Any, attend: Any) -> Tensor:
        assert mask is told.get("attn_mask")
        return attend.weights(q, k, mask) @ v

    with attention(a.self_attention, same):
        assert torch.equal(net(X), plain)
    with attention(a.self_attention, by_hand):
        assert torch.allclose(net(X), plain, atol=1e-5)


@pytest.mark.parametrize("mask", [torch.eye(16) > 0, torch.where(torch.eye(16) > 0, 0.0, -torch.inf)])
def test_a_mask_at_a_product_that_is_written_out(mask: Tensor) -> None:
    net = made("own")
    a = anatomy(net)
    with attention(a.self_attention, lambda place, q, k, v, none, attend: attend(q, k, v, mask)):
        only_itself = call(net)
    with attention(a.self_attention, identity):  # each token attends to itself alone: the output is v
        assert torch.allclose(only_itself, call(net), atol=1e-6)


def test_rows_of_a_batch_are_rows_of_q() -> None:
    net = made("unet-2d-condition")
    a, plain = anatomy(net), call(net)

    def second(place: Place, q: Tensor, k: Tensor, v: Tensor, mask: Any, attend: Any) -> Tensor:
        out = attend(q, k, v, mask)
        return torch.cat([out[:1], v[1:]])

    with attention(a.self_attention, second):
        half = call(net)
    assert torch.equal(half[0], plain[0])
    assert not torch.allclose(half[1], plain[1])


def test_gradients_pass_through() -> None:
    net, a = toy()
    x = X.clone().requires_grad_()
    with record_attention(a.self_attention) as maps, outputs(a.blocks, lambda place, out, args, kwargs: out * 2):
        net(x)
    maps["mix"][0].weights[..., 0].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_a_block_that_is_replaced_need_not_attend() -> None:
    net = made("dit")
    a = anatomy(net)
    with attention(a.self_attention, identity), replace(a.blocks, idle), record_attention(a.self_attention) as maps:
        call(net)
    assert all(not found for found in maps.values())


def test_other_threads_meet_a_patch_and_keep_their_own_calls() -> None:
    net = made("flux")
    a, grids, start = anatomy(net), {}, threading.Barrier(2)

    def look(place: Place, q: Tensor, k: Tensor, v: Tensor, mask: Any, attend: Any) -> Tensor:
        grids.setdefault(threading.get_ident(), set()).add((attend.grid, attend.keys.text.stop))
        return attend(q, k, v, mask)

    def work(rows: int) -> None:
        start.wait()
        for _ in range(3):
            call(net, noise(2, 2, rows, 4), noise(2, rows, 6))

    with attention(a.joint_attention, look):
        threads = [threading.Thread(target=work, args=(rows,)) for rows in (3, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(map(sorted, grids.values()), key=str) == [[((rows, 4), rows)] for rows in (3, 5)]


# -- errors


def test_errors_of_the_managers() -> None:
    net, a = toy()
    for manager in (outputs, inputs, replace, attention, record_attention):
        with (
            pytest.raises(ArgumentError, match="no place was selected, so nothing would be patched"),
            manager(a.blocks.where(part="middle"), len),
        ):
            pass
        with pytest.raises(ArgumentError, match=r"places are those of an Anatomy, .* not str"), manager(["a"], len):
            pass
        with pytest.raises(ArgumentError, match="a function is needed, got int"), manager(a.self_attention, 3):
            pass
    with pytest.raises(ArgumentError, match="a is of kind 'block', not attention"), attention(a.blocks, same):
        pass
    with (
        pytest.raises(ArgumentError, match="two places have one name"),
        record_attention((*a.self_attention, *a.self_attention)),
    ):
        pass
    with (
        inputs(a.blocks, lambda place, args, kwargs: args),
        pytest.raises(ArgumentError, match=r"at a must return \(args, kwargs\).* got tuple"),
    ):
        net(X)
    with (
        attention(a.self_attention, lambda *_: None),
        pytest.raises(ShapeError, match=r"returned NoneType; .*return attend\(q, k, v, mask\)"),
    ):
        net(X)
    with (
        attention(anatomy(made("pixart")).cross_attention, identity),
        pytest.raises(
            ShapeError, match=r"\(cross-attention\) returned \(2, 2, 5, 4\); a tensor \(2, 2, 16, 4\) is needed"
        ),
    ):
        call(made("pixart"))


def test_attention_that_cannot_be_seen_is_an_error() -> None:
    from diffusers.models.attention_processor import AttnProcessor

    net = unet_2d_condition()
    before = net.attn_processors
    net.set_attn_processor(AttnProcessor())
    with (
        attention(anatomy(net).self_attention, same),
        pytest.raises(
            ArgumentError,
            match=r"attn1 ran without a call of .*scaled_dot_product_attention \(its processor is AttnProcessor\)",
        ),
    ):
        call(net)
    net.set_attn_processor(before)
    with attention(anatomy(net).self_attention, same):
        call(net)


def test_a_product_of_another_form_is_an_error() -> None:
    net, a = toy()
    net.mix.forward = lambda x: F.scaled_dot_product_attention(*[x.reshape(2, 6, 2)] * 3).reshape(x.shape)
    with attention(a.self_attention, same), pytest.raises(ShapeError, match=r"mix multiplies q of shape \(2, 6, 2\)"):
        net(X)


def test_tokens_that_are_not_known_are_an_error() -> None:
    net = made("flux")
    place = anatomy(net).joint_attention[-1]
    with (
        record_attention(place),
        pytest.raises(ArgumentError, match=r"which of the 9 tokens at .* call the whole network"),
    ):
        place.module(noise(1, 9, 16))
    with attention(place, lambda p, q, k, v, m, attend: attend(q, k, v, m) if attend.grid is None else q):
        place.module(noise(1, 9, 16))


# -- found through what is around a network


class Adapter(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, label: Tensor, **cond: Any) -> Tensor:
        return self.unet(x, label, return_dict=False, **cond)[0]


class Holder:
    def __init__(self, net: nn.Module) -> None:
        self.adapter = Adapter(net)

    def denoise(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.adapter(x, t, **cond)


def test_found_through_models_adapters_and_functions() -> None:
    net = made("unet-2d-condition")
    adapter, p = Adapter(net), rv.process.vp()
    text = noise(2, 5, 6)
    nets: list[Any] = [
        adapter,
        nn.DataParallel(adapter),
        lambda x, t, **cond: adapter(x, t, **cond),
        functools.partial(Adapter.forward, adapter),
        Holder(net).denoise,
    ]
    for one in nets:
        m = rv.Model(one, p, null={"encoder_hidden_states": torch.zeros(1, 5, 6)})
        for model in (m, m | rv.guide.CFG(3.0), m.with_net(one)):
            a = anatomy(model)
            assert a.net is net
            assert a == anatomy(net)
        guided = m | rv.guide.CFG(3.0)
        with torch.no_grad():
            plain = guided(noise(2, 2, 8, 8), 0.5, encoder_hidden_states=text).x0
            with record_attention(anatomy(guided).cross_attention[:1]) as maps:
                assert torch.equal(guided(noise(2, 2, 8, 8), 0.5, encoder_hidden_states=text).x0, plain)
            with attention(anatomy(guided).self_attention, identity):
                assert not torch.equal(guided(noise(2, 2, 8, 8), 0.5, encoder_hidden_states=text).x0, plain)
        ((found,),) = maps.values()
        assert found.weights.shape == (4, 2, 64, 5)  # the branches of the guide are rows
    assert anatomy(Holder(net)).net is net


def test_found_with_lora_injected() -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv_in", "proj_in"], init_lora_weights=False
    )
    plain = unet_2d_condition()
    known = anatomy(plain)
    torch.manual_seed(1)
    injected = unet_2d_condition()
    injected.add_adapter(config)
    wrapped = get_peft_model(unet_2d_condition(), config)
    for net, whole in ((injected, injected), (wrapped.base_model.model, wrapped)):
        a = anatomy(rv.Model(Adapter(whole), rv.process.vp()))
        assert a.net is net
        for group in ("self_attention", "cross_attention", "blocks", "feedforward"):
            ours, theirs = getattr(a, group), getattr(known, group)
            assert [(p.name, p.kind, p.part, p.scale, p.widths, p.skip) for p in ours] == [
                (p.name, p.kind, p.part, p.scale, p.widths, p.skip) for p in theirs
            ]
        assert type(a.self_attention[0].module.to_q).__name__ == "Linear"
        assert hasattr(a.self_attention[0].module.to_q, "lora_A")
        before, out = trace(net), call(net)
        assert not torch.allclose(out, call(plain))
        with attention(a.attention, same):
            assert torch.equal(call(net), out)
        with attention(a.self_attention, identity):
            assert not torch.allclose(call(net), out)
        with replace(a.blocks.where(part="middle"), idle):
            assert not torch.allclose(call(net), out)
        assert trace(net) == before


def test_lora_in_reveries_own_network() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    net = inject_adapter_in_model(LoraConfig(r=2, target_modules=["qkv", "conv1", "conv2"]), own())
    assert repr(anatomy(net)) == repr(anatomy(made("own")))
    assert [p.skip for p in anatomy(net).blocks] == [p.skip for p in anatomy(made("own")).blocks]


def test_found_in_a_pipeline_by_its_parts() -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.unet, self.vae, self.scheduler = made("unet-2d-condition"), nn.Conv2d(3, 3, 1), object()

    assert anatomy(Pipeline()).net is made("unet-2d-condition")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["around", "in place", "inside", "inside, in place", "elsewhere"])
def test_what_is_compiled_runs_as_written_while_it_is_patched(how: str) -> None:
    net = own()
    plain = call(net)
    with (
        attention(anatomy(net).self_attention, identity),
        outputs(anatomy(net).blocks, lambda place, out, args, kwargs: out * 1.5),
    ):
        wanted = call(net)
    compiled: Any = net
    graphs: list[int] = []

    def backend(graph: Any, example: Any) -> Any:
        def forward(*args: Any) -> Any:
            graphs.append(1)
            return graph.forward(*args)

        return forward

    if how in ("around", "elsewhere"):
        compiled = torch.compile(net, backend=backend)
    elif how == "in place":
        net.compile(backend=backend)
    elif how == "inside":
        net.middle[0], net.attention = (
            torch.compile(net.middle[0], backend=backend),
            torch.compile(net.attention, backend=backend),
        )
    else:
        net.middle[0].compile(backend=backend)
        net.attention.compile(backend=backend)
    x, t, labels = noise(2, 2, 8, 8), torch.tensor([1.0, 5.0]), torch.tensor([3, 10])
    with torch.no_grad():
        assert torch.allclose(compiled(x, t, labels), plain, atol=1e-5)
        assert graphs
        a = anatomy(net if how == "elsewhere" else rv.Model(compiled, rv.process.vp()))
        assert a.net is net
        assert [p.name for p in a.blocks] == [p.name for p in anatomy(own()).blocks]
        before = trace(net), list(vars(compiled).items())
        graphs.clear()
        with ExitStack() as stack:
            stack.enter_context(attention(a.self_attention, identity))
            stack.enter_context(outputs(a.blocks, lambda place, out, args, kwargs: out * 1.5))
            assert torch.equal(compiled(x, t, labels), wanted)
            assert not graphs or how == "elsewhere"
        assert (trace(net), list(vars(compiled).items())) == before
        graphs.clear()
        assert torch.allclose(compiled(x, t, labels), plain, atol=1e-5)
        assert graphs
    torch._dynamo.reset()


# -- networks that are not known


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](x))


def test_an_unknown_network_names_its_class_and_the_remedy() -> None:
    remedy = r"the parts of Unknown are not known, .*UNet2DModel, .*FluxTransformer2DModel, UNet\. Name its modules by hand: Anatomy\.of\("
    for thing in (Unknown(), rv.Model(Unknown(), rv.process.vp())):
        with pytest.raises(ArgumentError, match=remedy):
            anatomy(thing)
    with pytest.raises(ArgumentError, match="the parts of function are not known"):
        anatomy(rv.Model(lambda x, t: x, rv.process.vp()))

    class UNet(nn.Module):  # another network that happens to have a known name
        pass

    with pytest.raises(ArgumentError, match="the parts of UNet are not known"):
        anatomy(UNet())


def test_of_two_networks_one_must_be_given() -> None:
    with pytest.raises(
        ArgumentError, match=r"ModuleList holds 2 networks \(UNet, SD3Transformer2DModel\); give the one that is meant"
    ):
        anatomy(nn.ModuleList([own(), sd3()]))


def test_a_derived_class_is_known() -> None:
    class Mine(type(made("own"))):  # type: ignore[misc]
        pass

    assert len(anatomy(Mine(widths=(8, 16), embed=16)).self_attention) == 1


def test_places_by_hand() -> None:
    net = Unknown()
    m = rv.Model(net, rv.process.vp())
    a = Anatomy.of(m, blocks={"encoder": ["layers.0"], "decoder": "layers.1"}, patch=2)
    assert a.net is net
    assert a.kind == "by hand"
    assert [(p.name, p.part, p.scale, p.index) for p in a.blocks] == [
        ("layers.0", "encoder", 2, 0),
        ("layers.1", "decoder", 2, 1),
    ]
    with replace(a.blocks, idle):
        assert torch.equal(net(X[:, :2], X), X[:, :2])
    assert Anatomy.of(made("own")) == anatomy(made("own"))
    with pytest.raises(
        UnknownNameError, match=r"unknown module 'layers\.9'; did you mean .*listed by Unknown\.named_modules"
    ):
        Anatomy.of(net, blocks=["layers.9"])
    with pytest.raises(UnknownNameError, match="unknown part 'top'"):
        Anatomy.of(net, blocks={"top": ["layers.0"]})
    with pytest.raises(ArgumentError, match=r"text is 'first' or 'last', .* got 'left'"):
        Anatomy.of(net, blocks=["layers.0"], text="left")
    with pytest.raises(ArgumentError, match="patch is a whole number of pixels of at least 1, got 0"):
        Anatomy.of(net, blocks=["layers.0"], patch=0)
    with pytest.raises(ArgumentError, match="object holds 0 modules at its surface"):
        Anatomy.of(object(), blocks=["layers.0"])


def test_tokens_by_hand() -> None:
    net = made("sd3")
    names = [p.name for p in anatomy(net).joint_attention]
    a = Anatomy.of(net, joint_attention=names, text="last", patch=2)
    with record_attention(a.joint_attention) as by_hand, record_attention(anatomy(net).joint_attention) as found:
        call(net)
    for name in names:
        assert by_hand[name][0][1:] == found[name][0][1:]
        assert torch.equal(by_hand[name][0].weights, found[name][0].weights)
