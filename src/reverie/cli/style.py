"""The style sheet of the demo's page."""

from __future__ import annotations

__all__ = ["CSS"]

CSS = """
:root { color-scheme: light dark; --serif: "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, serif;
  --paper: #fbfaf7; --card: #ffffff; --ink: #1b1b20; --soft: #66666f; --line: #e5e2da; --accent: #3f7fe0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #131317; --card: #1b1b21; --ink: #ecebe6; --soft: #9c9ca6; --line: #2e2e37; --accent: #7aa9f2; }
  img { filter: invert(1); } img.colour { filter: none; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 ui-sans-serif, system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; -webkit-font-smoothing: antialiased; }
main { max-width: 1200px; margin: 0 auto; padding: 64px 28px 48px; }
header { max-width: 46rem; }
.brand { margin: 0 0 6px; color: var(--accent); font-weight: 600; letter-spacing: .02em; }
h1 { margin: 0 0 14px; font: 500 clamp(2rem, 4.6vw, 3.1rem)/1.12 var(--serif); letter-spacing: -.015em; }
h2 { margin: 0 0 8px; font: 500 1.65rem/1.2 var(--serif); }
h3 { margin: 0 0 10px; font-size: 1rem; font-weight: 600; }
h3 small { color: var(--soft); font-weight: 400; font-size: .9rem; }
p { margin: 0 0 16px; max-width: 46rem; }
header p, section > p, section > div > p, footer { color: var(--soft); }
header p.brand { color: var(--accent); }
code { font: .875em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
section { margin-top: 60px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 28px; margin-top: 36px;
  border-block: 1px solid var(--line); padding: 24px 0; }
.figures strong { display: block; font: 500 2.6rem/1.1 var(--serif); font-variant-numeric: lining-nums; }
.figures span { display: block; margin-top: 6px; color: var(--soft); font-size: .92rem; max-width: 21rem; }
b { font-weight: 600; }
b[style]::before { content: ""; display: inline-block; width: .62em; height: .62em; margin-right: .5em; border-radius: 50%; background: var(--c); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 20px; }
.card, .fine, .chart { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; }
.card h3 { font: 500 1.5rem/1 var(--serif); margin-bottom: 16px; }
.card h3 small { font: 400 .95rem ui-sans-serif, system-ui, sans-serif; }
.fine { margin-bottom: 20px; }
.fine figure { display: grid; grid-template-columns: minmax(200px, 1fr) 2.2fr; gap: 20px; align-items: center; }
.fine figcaption { display: block; } .fine figcaption span { display: block; }
@media (max-width: 720px) { .fine figure { grid-template-columns: 1fr; gap: 8px; } }
figure { margin: 0 0 14px; } .fine figure, figure:last-child { margin-bottom: 0; }
figcaption { display: flex; justify-content: space-between; gap: 12px; margin-bottom: 5px; font-size: .86rem; }
figcaption span { color: var(--soft); font-variant-numeric: tabular-nums; }
img { display: block; width: 100%; image-rendering: pixelated; }
.scenes { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 20px 16px; margin-bottom: 16px; }
.scenes figure { margin: 0; } .scenes img { border-radius: 8px; margin-bottom: 6px; }
.scenes figcaption { display: block; line-height: 1.35; } .scenes figcaption i { font-style: normal; color: var(--accent); }
.scenes .missed i { color: var(--soft); }
.tabs > input { position: absolute; opacity: 0; }
.tabs > label { display: inline-block; padding: 6px 16px; margin: 0 6px 18px 0; border: 1px solid var(--line); border-radius: 99px;
  cursor: pointer; color: var(--soft); font-size: .92rem; }
.tabs > input:checked + label { background: var(--ink); border-color: var(--ink); color: var(--paper); }
.tabs > input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
.tab { display: none; } #plain:checked ~ .plain, #guided:checked ~ .guided { display: block; }
.keys { display: flex; flex-wrap: wrap; gap: 6px 22px; font-size: .92rem; }
.keys b { font-weight: 500; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 20px; margin-bottom: 16px; }
.chart svg { display: block; width: 100%; height: auto; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 48px; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: .86rem; }
th, td { padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line); }
td:not(:first-child), th:not(:first-child) { text-align: right; } td:last-child, th:last-child { padding-right: 0; }
td i { display: inline-block; vertical-align: middle; width: 64px; height: 6px; margin-left: 12px; border-radius: 3px;
  background: linear-gradient(90deg, var(--accent) calc(100% * var(--w)), var(--line) 0); }
tr.real td { color: var(--soft); }
tr.real td:last-child { padding-right: 76px; }
pre { margin: 0 0 14px; padding: 16px 20px; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  overflow-x: auto; line-height: 1.6; }
footer { margin-top: 64px; padding-top: 18px; border-top: 1px solid var(--line); font-size: .86rem; }
@media print { main { padding: 0; } .tab { display: block; } }
"""
