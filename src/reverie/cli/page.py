"""The demo's page: one HTML file, nothing beside it, nothing from the network, readable by day and by night."""

from __future__ import annotations

import base64
import html
import io
import shlex

import torch
from PIL import Image
from torch import Tensor

from reverie.cli.charts import COLOURS, curves
from reverie.cli.scenes import Scenes
from reverie.cli.sheet import pixels
from reverie.cli.showcase import BUDGETS, COUNT, FINE, LONG, SCALE, SHOWN, SOLVERS, Findings
from reverie.cli.style import CSS

__all__ = ["page"]


def strip(x: Tensor, gap: int = 1) -> str:
    """Grey pictures `(n, 1, H, W)` in [-1, 1], ink 1, in a row as a data URI: black ink on nothing."""
    tiles = pixels(x)[..., 0]
    n, height, width = tiles.shape
    row = torch.zeros(2, height, n * (width + gap) - gap, dtype=torch.uint8)  # black, as opaque as there is ink
    for i, tile in enumerate(tiles):
        row[1, :, i * (width + gap) : i * (width + gap) + width] = tile
    buffer = io.BytesIO()
    Image.fromarray(row.permute(1, 2, 0).contiguous().numpy(), mode="LA").save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _picture(x: Tensor, label: str, note: str, colour: str) -> str:
    alt = html.escape(f"ten digits, {label}")
    return (
        f'<figure><figcaption><b style="--c:{colour}">{html.escape(label)}</b><span>{note}</span></figcaption>'
        f'<img src="{strip(x)}" alt="{alt}"></figure>'
    )


def _gallery(found: Findings, guided: bool) -> str:
    cards = []
    for budget in SHOWN:
        rows = []
        for solver in SOLVERS:
            trial = found.trials[guided, solver, budget]
            note = f"error {_short(trial.error)}" + (f" · {trial.calls} calls" if trial.calls != budget else "")
            rows.append(_picture(trial.pictures, solver, note, COLOURS[solver]))
        cards.append(f'<div class="card"><h3>{budget} <small>evaluations</small></h3>{"".join(rows)}</div>')
    fine = _picture(
        found.fine[guided], "the model's own fine solution", f"dpmpp-3m, {FINE} evaluations", "currentColor"
    )
    return f'<div class="fine">{fine}</div><div class="cards">{"".join(cards)}</div>'


def _short(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def _chart(found: Findings, guided: bool) -> str:
    lines = {
        s: [(float(t.calls), t.error) for b in BUDGETS if (t := found.trials[guided, s, b]).calls > 1] for s in SOLVERS
    }
    title = f"Guided, scale {SCALE:g}" if guided else "Unguided"
    return f'<div class="chart"><h3>{title}</h3>{curves(lines, BUDGETS, f"g{int(guided)}")}</div>'


def _quality(found: Findings) -> str:
    best = min(q.frechet for q in found.quality)
    rows = [
        f"<tr><td><b style='--c:{COLOURS[q.solver]}'>{q.solver}</b></td><td>{q.calls}</td><td>{q.right:.1%}</td><td>{q.frechet:.2f}"
        f"<i style='--w:{min(1.0, best / q.frechet):.3f}'></i></td></tr>"
        for q in found.quality
    ]
    real = f"<tr class='real'><td>real, held out</td><td>–</td><td>{found.real:.1%}</td><td>{found.frechet_real:.2f}</td></tr>"
    head = "<tr><th>solver</th><th>evaluations</th><th>read as their class</th><th>Fréchet distance</th></tr>"
    return f"<table>{head}{''.join(rows)}{real}</table>"


def _orders(found: Findings) -> str:
    rows = []
    for variant, check in found.orders:
        colour = COLOURS.get(check.solver, "currentColor") if not variant else "transparent"
        verdict = "not 3" if variant and check.order != 3 else "as declared" if check.holds else "not as declared"
        rows.append(
            f"<tr><td><b style='--c:{colour}'>{check.solver}</b>{variant}</td><td>{check.declared}</td>"
            f"<td>{check.measured:.2f}</td><td>{verdict}</td></tr>"
        )
    return f"<table><tr><th>solver</th><th>declared</th><th>measured</th><th></th></tr>{''.join(rows)}</table>"


def _colour(x: Tensor) -> str:
    """One picture `(3, H, W)` in [-1, 1] as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(x[None])[0].numpy()).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _scenes(scenes: Scenes | None) -> str:
    """The section of pictures from words; nothing without them."""
    if scenes is None:
        return ""
    cards = []
    for x, text, met in zip(scenes.pictures, scenes.prompts, scenes.rewards, strict=True):
        mark = "<i title='all that was asked for'>✓</i>" if met == 1 else f"<i>{met:.0%}</i>"
        said = html.escape(text)
        kind = "" if met == 1 else ' class="missed"'
        cards.append(
            f'<figure{kind}><img class="colour" src="{_colour(x)}" alt="{said}"><figcaption>{said} {mark}</figcaption></figure>'
        )
    guided = f", guided {html.escape(scenes.guide)}" if scenes.guide else ""
    cost = f"{scenes.calls} calls{guided}, {scenes.forwards} network forwards each, {scenes.seconds:.0f} s for all {len(scenes.prompts)}"
    return f"""<section><h2>Pictures from words</h2>
<p>The model <code>{html.escape(scenes.model)}</code> is a Stable Diffusion in small: text encoder, U-Net and autoencoder in the layout that
diffusers loads. Here: {cost}. A program reads each picture: ✓ is all that was asked for, else the share of it.</p>
<div class="scenes">{"".join(cards)}</div></section>"""


def page(found: Findings, seconds: float, scenes: Scenes | None = None) -> str:
    """The whole page as text."""
    import reverie

    eight, long = found.of("dpmpp-2m", 8), found.of("dpmpp-2m", LONG)
    ddim = found.trials[False, "ddim", BUDGETS[-1]].error
    reached = min(
        (b for b in BUDGETS if min(found.trials[False, s, b].error for s in SOLVERS) <= ddim), default=BUDGETS[-1]
    )
    keys = "".join(f'<b style="--c:{COLOURS[s]}">{s}</b>' for s in SOLVERS)
    figures = (
        (
            f"{eight.right:.1%}",
            f"of {found.samples} samples at 8 evaluations are read as their class; real held-out digits: {found.real:.1%}",
        ),
        (f"{eight.frechet / long.frechet:.2f}×", f"the Fréchet distance at 8 evaluations, in units of that at {LONG}"),
        (f"{reached}", f"evaluations are as near to the fine solution as {BUDGETS[-1]} of DDIM"),
    )
    own = ", ".join(f"{key} {value}" for key, value in found.recommended.items())
    how = (
        f" dpmpp-2m is sampled as the model recommends ({html.escape(own)}), the errors above on each solver's default grid."
        if own
        else ""
    )
    words = (
        ""
        if scenes is None
        else html.escape(
            f'reverie sample {shlex.quote(scenes.source)} "{scenes.prompts[0]}" -n 16 -o scene.png\n', False
        )
    )
    big = "".join(f"<div><strong>{a}</strong><span>{b}</span></div>" for a, b in figures)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Reverie: handwritten digits in a few evaluations</title><style>{CSS}</style></head><body><main>
<header><p class="brand">Reverie</p><h1>Handwritten digits in a few evaluations</h1>
<p>A trained diffusion model turns noise into a picture by asking its network again and again. A good solver asks seldom. Every row
below starts from the same ten noises, on the model <code>{html.escape(found.model)}</code>: what differs
is only the solver, and how often it asks.</p></header>
<section class="figures">{big}</section>
{_scenes(scenes)}
<section><h2>The pictures</h2>
<p>The error is the median relative distance, over {COUNT} samples, to the model's own fine solution from the same
noise: it is the solver's alone.</p>
<div class="tabs"><input type="radio" name="g" id="plain" checked><label for="plain">unguided</label>
<input type="radio" name="g" id="guided"><label for="guided">guided, scale {SCALE:g}</label>
<div class="tab plain">{_gallery(found, False)}</div><div class="tab guided">{_gallery(found, True)}</div></div></section>
<section><h2>The errors</h2><p class="keys">{keys}</p>
<div class="charts">{_chart(found, False)}{_chart(found, True)}</div>
<p>Each call of a guided model takes two forwards of the network; evaluations count calls.</p></section>
<section class="two"><div><h2>The quality</h2>
<p>{found.samples} samples, read by a classifier that the model never saw; Fréchet distances in its features, to the training pictures
(lower is better; bars: relative to the best). The real held-out digits are fewer, which raises their distance.{how}</p>{_quality(found)}</div>
<div><h2>The orders</h2>
<p>A solver is a table of numbers, so its order of accuracy can be measured by algebra: the rate at which one step's error falls with
its size. The third-order update in wide use lacks a factor 2.</p>{_orders(found)}</div></section>
<section><h2>The same by hand</h2>
<pre><code>{words}reverie sample digits -n 40 --steps 6 -o out.png
reverie sample digits 7 --guide cfg:{SCALE:g} --solver dpmpp-3m --steps 8 -o sevens.png
reverie plan dpmpp-3m --process digits --steps 8 --check-order</code></pre>
<pre><code>import reverie as rv

m = rv.load("digits")
x = rv.sample(m, n=16, steps=6, guide=rv.guide.CFG({SCALE:g}), cond=m.embed("7"))</code></pre></section>
<footer>Reverie {reverie.__version__}, torch {torch.__version__}; seed {found.seed}; measured in {seconds:.0f} s on this machine. The page holds
everything it shows.</footer></main></body></html>
"""
