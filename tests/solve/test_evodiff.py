"""EVODiff: the recipe as a plain loop, DPM-Solver++(2M) where the decisions are replaced, and decisions that belong to one sample."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import reverie as rv
from reverie.base import UnknownNameError
from reverie.solve import evodiff
from reverie.solve.unroll import unroll

from . import reference as ref
from .problem import DATA, P, oracle, x_of

W = torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def mixed(x: Tensor, t: float, p: Any) -> Tensor:
    """A smooth prediction of x0 `(B, 3, H, W)` that mixes channels, not samples, and not by a product of matrices."""
    a, s = p.alpha(float(t)), p.sigma(float(t))
    w = W.to(x)
    y = x / math.hypot(a, s)
    return (
        torch.stack([torch.tanh(y[:, 0] * w[i, 0] + y[:, 1] * w[i, 1] + y[:, 2] * w[i, 2]) for i in range(3)], 1)
        + 0.2 * y
    )


def model(p: Any) -> rv.Model:
    return rv.Model(lambda x, t: mixed(x, float(t[0]), p), p, predicts="x0", label="t")


def images(p: Any, b: int = 4, side: int = 4) -> Tensor:
    z = torch.randn(b, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return z * p.prior_std(p.t_max)


def clip(a: Tensor, b: Tensor, dims: tuple[int, ...]) -> Tensor:
    return ((a * b).sum(dims, keepdim=True) / (b * b).sum(dims, keepdim=True)).clamp(-2, 2)


def loop(p: Any, data: Any, times: Any, x: Tensor, last: str = "ddim", dims: tuple[int, ...] = (2, 3)) -> Tensor:
    """The record's recipe, in kappa and H, line by line."""
    times, tail = list(times), None
    if p.sigma(times[-1]) == 0:
        tail, times = times[-1], times[:-1]
    n = len(times) - 1 + (tail is not None)
    start, end = times[0], p.t_min if tail is not None else times[-1]
    kappa, sigma = ({t: f(t) for t in times} for f in (lambda t: p.sigma(t) / p.alpha(t), p.sigma))
    sig = torch.sigmoid
    m1, m0 = None, data(x, times[0])
    for i, (s, t) in enumerate(itertools.pairwise(times)):
        H = 1 / kappa[t] - 1 / kappa[s]
        E = sigma[t] / sigma[s] * x + sigma[t] * H * m0
        final = i == len(times) - 2
        if i == 0 or (final and last == "ddim" and tail is None):
            x = E
        elif final and last == "released":
            q = sigma[t] / sigma[s]
            rd = 1 - 0.5 * math.sqrt(q if q < 0.5 else q - 0.5)
            x = (1 - math.sqrt(sigma[t] * sigma[s])) * E + sigma[t] * H / 2 * (m0 - rd * m1)
        else:
            q0, q1 = sigma[t] / sigma[s], sigma[s] / sigma[times[i - 1]]
            r = math.log(kappa[times[i - 1]] / kappa[s]) / math.log(kappa[s] / kappa[t])
            w = (1 - ((t + end) / (start + end)) ** 2) / 2
            base = math.sqrt(q0 / q1)
            b1 = (1 - w) * base + w * clip(m0, m1, dims)
            D1 = m0 - b1 * m1
            ri = (sig(b1.abs() / 4) * r).clamp(r / 4, 1.5 * r)
            X = E + sigma[t] * H / 2 * D1 / ri
            mt = data(X, t)
            D2 = mt - ((1 - w) * base + w * clip(mt, m0, dims)) * m0
            before, after = D1 / (r * H), r * D2 / H
            eta = sig((clip(after + before, after - before, dims) / 2).abs()) / 2
            G = -eta / r * D1 + r * (1 - eta) * D2
            z = clip(X - E - sigma[t] * H / 2 * G / ri, D1, dims) / (H * sigma[t])
            if n > 20:
                D = (m0 - m1) / H
                zeta = sig(-(z.abs() - 0.5) * sig(clip(m0, D, dims) * (2 - q0**2)))
            else:
                zeta = sig(z.abs() - 0.5)
            x = E + sigma[t] * H / 2 * G / zeta
            m1, m0 = m0, mt
            continue
        m1, m0 = m0, data(x, t) if not final or tail is not None else m0
    return x if tail is None else p.alpha(tail) * m0


@pytest.mark.parametrize("last", ["ddim", "released"])
@pytest.mark.parametrize("end", ["denoise", "sigma_min", "zero"])
@pytest.mark.parametrize("process", ["vp", "edm", "flow3", "ddpm"])
def test_the_run_is_the_recipe(process: str, end: str, last: str) -> None:
    p = ref.PROCESSES[process]
    for n in (3, 6, 20, 21, 24):
        plan = rv.solve.plan("evodiff", p, steps=n, end=end, last=last)
        assert plan.nfe == n
        grid = [plan.start, *dict.fromkeys(s.to for s in plan.table)]
        x = images(p)[:2] * (p.sigma(plan.start) / p.prior_std(p.t_max))
        want = loop(p, lambda x, t, p=p: mixed(x, t, p), grid, x, last)
        torch.testing.assert_close(rv.run(plan, model(p), x), want, rtol=1e-8, atol=1e-8)


def test_predictions_that_turn_round() -> None:
    """A model whose answers change sign from node to node: negative shares, of which the absolute value decides."""
    plan, x, seen = rv.solve.plan("evodiff", P, steps=8, grid="time"), images(P), list[float]()
    grid = [plan.start, *dict.fromkeys(s.to for s in plan.table)]

    def turning(x: Tensor, t: float) -> Tensor:
        return mixed(x, t, P) * (-1.5) ** min(range(9), key=lambda i: abs(grid[i] - t))

    m = rv.Model(lambda x, t: turning(x, float(t[0])), P, predicts="x0", label="t")
    want = loop(P, turning, grid, x)
    torch.testing.assert_close(rv.run(plan, m, x), want, rtol=1e-8, atol=1e-8)

    class Watch:
        def after(self, run: Any) -> None:
            memory = run.memory["evodiff"]
            if "d1" in memory:
                m_p, m_s = memory["said"]
                seen.append(float(((m_s - memory["d1"]) / m_p).min()))

    rv.run(plan, m, x, hooks=Watch())
    assert min(seen) < -0.2


def test_what_decides_together() -> None:
    """A whole sample, or a channel; a vector is one channel."""
    p, x = P, images(P)
    plan = rv.solve.plan("evodiff", p, steps=6, over="sample")
    grid = [plan.start, *dict.fromkeys(s.to for s in plan.table)]
    want = loop(p, lambda x, t: mixed(x, t, p), grid, x, dims=(1, 2, 3))
    torch.testing.assert_close(rv.run(plan, model(p), x), want, rtol=1e-9, atol=1e-9)
    assert (want - rv.run(rv.solve.plan("evodiff", p, steps=6), model(p), x)).abs().max() > 1e-3
    vectors = [
        rv.run(rv.solve.plan("evodiff", p, steps=6, over=over), oracle(), x_of()) for over in ("channel", "sample")
    ]
    assert torch.equal(*vectors)
    torch.testing.assert_close(vectors[0], loop(p, DATA, grid, x_of(), dims=(1,)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", ["vp", "cosine", "edm", "flow3", "ddpm"])
def test_with_the_decisions_replaced_it_is_dpmpp_2m(process: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """share = 1, R = r and G / Z = D1 / r: the same trajectory."""
    p, x = ref.PROCESSES[process], images(ref.PROCESSES[process])
    monkeypatch.setattr(evodiff, "_share", lambda m, n, w, base, over: torch.ones(()))
    monkeypatch.setattr(evodiff, "_reach", lambda share, r: torch.tensor(r))
    monkeypatch.setattr(evodiff, "_direction", lambda d1, d2, reach, ahead, old, at: d1 / at["r"])
    for n, end in itertools.product((5, 12, 24), ("denoise", "sigma_min")):
        one = rv.run(rv.solve.plan("evodiff", p, steps=n, end=end), model(p), x)
        two = rv.run(rv.solve.plan("dpmpp-2m", p, steps=n, end=end, lower_final=True), model(p), x)
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", ["vp", "edm", "flow3"])
def test_without_adapting_its_table_is_that_of_dpmpp_2m(process: str) -> None:
    p = ref.PROCESSES[process]
    for end in ("denoise", "sigma_min"):
        one, two = (
            unroll(rv.solve.plan(name, p, steps=7, end=end, **options))
            for name, options in (("evodiff", {"adapt": False}), ("dpmpp-2m", {"lower_final": False}))
        )
        assert one.distance(two) == 0


def test_a_sample_decides_for_itself() -> None:
    """The same bits alone, beside others, in another order and another batch size."""
    x = images(P, 5).float()
    plan, m = rv.solve.plan("evodiff", P, steps=7), model(P)
    whole = rv.run(plan, m, x)
    for rows in ([3], [4, 3], [0, 0, 0, 3, 2, 1, 4]):
        assert torch.equal(rv.run(plan, m, x[rows]), whole[rows])
    m.shape = (3, 4, 4)
    many = rv.sample(m, 9, plan=plan, batch=4)
    assert torch.equal(rv.sample(m, 1, start=6, plan=plan, batch=4)[0], many[6])


def test_samples_differ_in_what_they_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Tensor] = []
    reach = evodiff._reach

    def watched(share: Tensor, r: float) -> Tensor:
        found.append(share)
        return reach(share, r)

    monkeypatch.setattr(evodiff, "_reach", watched)
    rv.run(rv.solve.plan("evodiff", P, steps=6), model(P), images(P))
    assert [s.shape for s in found] == [(4, 3, 1, 1)] * 4
    assert all(s.std() > 1e-3 for s in found)


def test_guidance_half_precision_and_gradients() -> None:
    p = P
    net = model(p)

    def conditioned(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return mixed(x, float(t[0]), p) + 0.1 * y.reshape(-1, 1, 1, 1)

    m = rv.Model(conditioned, p, predicts="x0", label="t", null={"y": torch.zeros(())}, shape=(3, 4, 4))
    y, x, plan = torch.linspace(0, 1, 4), images(p), rv.solve.plan("evodiff", p, steps=6)
    merged = rv.Model(
        lambda x, t, y: mixed(x, float(t[0]), p) + 0.3 * y.reshape(-1, 1, 1, 1), p, predicts="x0", label="t"
    )
    guided = rv.run(plan, m | rv.guide.CFG(3.0), x, cond={"y": y})
    torch.testing.assert_close(guided, rv.run(plan, merged, x, cond={"y": y}), rtol=1e-6, atol=1e-6)
    half = net.with_net(lambda x, t: mixed(x, float(t[0]), p), dtype=torch.bfloat16)
    low = rv.run(plan, half, x.float())
    assert low.dtype == torch.float32
    assert (low - rv.run(plan, net, x)).abs().median() < 0.05
    leaf = x.clone().requires_grad_()
    rv.run(plan, net, leaf, grad="full").sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_selected_samples_take_their_history_along() -> None:
    plan, x = rv.solve.plan("evodiff", P, steps=7), images(P)
    rows = torch.tensor([2, 2, 0, 1])
    plain = rv.run(plan, model(P), x)
    for k in (2, 3, 4, 5):

        class Select:
            def after(self, run: Any, k: int = k) -> None:
                if run.k == k:
                    run.select(rows)

        torch.testing.assert_close(rv.run(plan, model(P), x, hooks=Select()), plain[rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [6, 24])
def test_equal_predictions_and_zeros_divide_nothing(n: int) -> None:
    """Where a model always says zero there is nothing to weigh: the first-order step, exactly."""
    zero = rv.Model(lambda x, t: 0 * x, P, predicts="x0")
    x = images(P)
    for end in ("sigma_min", "denoise"):
        made = rv.run(rv.solve.plan("evodiff", P, steps=n, end=end), zero, x)
        assert torch.equal(made, rv.run(rv.solve.plan("ddim", P, steps=n, end=end), zero, x))
    p = rv.process.edm()
    same = rv.Model(lambda x, t: torch.ones_like(x), p, predicts="x0")  # on even lam every share is 1
    made = rv.run(rv.solve.plan("evodiff", p, steps=n), same, 80 * x)
    torch.testing.assert_close(made, torch.ones_like(x), rtol=1e-12, atol=1e-12)


def test_time_travel_begins_a_new_history() -> None:
    plan = rv.solve.plan("evodiff", P, steps=9)
    for blocks, count in (({"length": 3}, 3), ({"first": 1, "last": 3}, 1), ({"first": 2, "last": 5}, 1)):
        again = plan.repeat(2, **blocks)
        kept = [s.rule[1] for s in again.table if s.rule is not None and s.rule[0] == "evodiff-keep"]
        jumps = sum(s.t is None and any(key[0] == "n" for key in s.row.terms) for s in again.table)
        assert jumps == count
        assert sum(r.get("first", False) for r in kept) == jumps + 1
        assert rv.run(again, model(P), images(P)).isfinite().all()


def test_a_saved_plan_is_the_same(tmp_path: Any) -> None:
    plan = rv.solve.plan("evodiff", P, steps=6, last="released", over="sample")
    plan.save(tmp_path / "plan.json")
    back = rv.Plan.load(tmp_path / "plan.json")
    assert torch.equal(rv.run(back, model(P), images(P)), rv.run(plan, model(P), images(P)))
    assert "evodiff-probe" in str(back)
    assert plan.papers == ("evodiff",)


def test_names_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="channel"):
        rv.solve.plan("evodiff", P, steps=5, over="chanel")
    with pytest.raises(UnknownNameError, match="released"):
        rv.solve.plan("evodiff", P, steps=5, last="release")
    with pytest.raises(rv.base.ArgumentError, match="not linear"):
        rv.solve.check_order("evodiff", P)
