"""The look of a report: one column of text, tables that need no lines but hair, two colours that mean kept and lost.

Contrasts are at least 4.5 to 1 for text and 3 to 1 for bars, in light and in dark; only the pale part of a bar has
less, and its figure stands beside it.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fdfdfc; --ink: #1d2125; --quiet: #5c646c; --hair: #dfe2e4; --panel: #f3f4f3;
  --kept: #1f6f8b; --lost: #d06a45; --faint: #ecc7b6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171a; --ink: #e6e4e0; --quiet: #a1a8af; --hair: #31363b; --panel: #1d2125;
    --kept: #58b0cc; --lost: #e08a66; --faint: #5d3a2c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 72rem; background: var(--ground); color: var(--ink);
  font: 0.9375rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  -webkit-text-size-adjust: 100%; text-size-adjust: 100%;
}
h1, h2, h3, p, dl, dd, ul, figure, blockquote { color: var(--ink); margin: 0; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; }
h3 { display: inline; font-size: 1rem; overflow-wrap: anywhere; }
code, blockquote {
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.8125rem;
}
code { overflow-wrap: anywhere; }
a { color: var(--kept); text-underline-offset: 0.2em; }
:focus-visible { outline: 2px solid var(--kept); outline-offset: 3px; border-radius: 2px; }
.eyebrow { color: var(--quiet); }
.headline { margin-top: 0.5rem; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.digest { margin-top: 0.25rem; color: var(--quiet); }
dl {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); gap: 0 1.5rem;
  margin-top: 1.5rem;
}
dl div { padding: 0.5rem 0; border-top: 1px solid var(--hair); }
dt { color: var(--quiet); font-size: 0.8125rem; }
dd { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin-top: 1.25rem; }
section { margin-top: 3rem; scroll-margin-top: 1rem; }
.about { max-width: 44rem; text-wrap: pretty; margin-top: 0.25rem; color: var(--quiet); }
.grid {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem 2.5rem;
  align-items: start;
}
.card, section > .scroll { margin-top: 1rem; min-width: 0; }
summary span { margin-left: 0.5rem; color: var(--quiet); font-variant-numeric: tabular-nums; }
summary { cursor: pointer; width: fit-content; max-width: 100%; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption, .hidden {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap;
}
th, td {
  padding: 0.25rem 0 0.25rem 1rem; text-align: right; font-weight: 400; white-space: nowrap;
  vertical-align: baseline;
}
th:first-child, td:first-child { padding-left: 0; text-align: left; white-space: normal; min-width: 6rem; }
thead th { color: var(--quiet); font-size: 0.8125rem; border-bottom: 1px solid var(--hair); vertical-align: bottom; }
tfoot th, tfoot td { border-top: 1px solid var(--hair); font-weight: 600; }
.named {
  display: grid; grid-template-columns: minmax(6.5rem, 11rem) minmax(3rem, 1fr); gap: 0.75rem;
  align-items: center;
}
.grid .named { grid-template-columns: minmax(3.5rem, 7rem) minmax(2.5rem, 1fr); }
#languages .named { grid-template-columns: 4rem minmax(2.5rem, 1fr); }
td { width: 8.5rem; }
.grid td { width: auto; }
.bar { display: block; width: 100%; height: 0.625rem; }
.histogram { display: block; overflow: visible; width: 100%; margin-top: 0.75rem; }
.histogram text { fill: var(--quiet); font-size: 0.75rem; }
rect.kept { fill: var(--kept); }
rect.lost { fill: var(--lost); }
#steps rect.lost { fill: var(--faint); }
.legend { display: flex; gap: 1.5rem; margin-top: 0.75rem; color: var(--quiet); }
.legend span { display: flex; align-items: center; gap: 0.5rem; }
.legend .bar { width: 0.75rem; height: 0.75rem; }
.samples { display: flex; flex-wrap: wrap; gap: 0.125rem 1rem; margin-top: 0.5rem; }
.samples > details[open] { flex-basis: 100%; min-width: 0; }
.samples, figcaption summary { color: var(--quiet); font-size: 0.8125rem; }
.samples span, .samples summary, figcaption summary { padding: 0.125rem 0; }
.sample { margin: 0.5rem 0 0.75rem; padding: 0.625rem 0.75rem; background: var(--panel); border-radius: 4px; }
.sample p { color: var(--quiet); font-size: 0.8125rem; overflow-wrap: anywhere; }
.samples ul { padding: 0.25rem 0 0.5rem 1.25rem; }
blockquote {
  margin-top: 0.375rem; max-height: 20rem; overflow: hidden; white-space: pre-wrap; overflow-wrap: anywhere;
  text-align: start;
}
.code {
  padding: 0 0.2em; border: 1px solid var(--hair); border-radius: 3px; color: var(--quiet);
  font-style: normal; font-size: 0.85em;
}
@media (max-width: 36rem) {
  body { padding: 1.5rem 1rem 3rem; font-size: 0.875rem; }
  .headline { font-size: 1.0625rem; }
  dl { grid-template-columns: 1fr 1fr; }
  table { font-size: 0.8125rem; }
  thead th { font-size: 0.75rem; white-space: normal; }
  th, td { padding-left: 0.5rem; }
  .named, .grid .named, #languages .named { grid-template-columns: 1fr; gap: 0.125rem; }
  td { width: auto; }
  #steps table { font-size: 0.75rem; }
  #steps th, #steps td { padding-left: 0.375rem; }
  #steps th:first-child { padding-left: 0; min-width: 5.25rem; }
  .named .bar { height: 0.375rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 9pt; }
  nav { display: none; }
  .scroll { overflow: visible; }
  td { width: auto; }
  tfoot { display: table-row-group; }
  h2, h3 { break-after: avoid; }
  tr, .sample, figure { break-inside: avoid; }
  rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
