"""The style sheet of a page, in light and dark mode."""

from eval.report.figures import COLOURS


def _variables(column: int) -> str:
    return " ".join(f"{entry[0]}: {entry[column]};" for entry in COLOURS.values())


CSS = """
:root { color-scheme: light dark; --page: #fbfaf7; --card: #ffffff; LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #171715; --card: #1f1f1c; DARK } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 56rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.1rem; margin: 2.75rem 0 .5rem; }
.sub { color: var(--muted); margin: 0 0 1.5rem; }
.lead { font-size: 1.05rem; max-width: 46rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0; }
.tile { background: var(--card); border: 1px solid var(--grid); border-radius: .6rem;
  padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3; font-weight: 650; }
.tile span { color: var(--muted); font-size: .82rem; }
figure { background: var(--card); border: 1px solid var(--grid); border-radius: .6rem;
  margin: .75rem 0 0; padding: 1rem; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; min-width: 34rem; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { color: var(--muted); font-size: .85rem; margin-top: .5rem; max-width: 46rem; }
.missing { color: var(--muted); border-left: 3px solid var(--grid); padding: .1rem .75rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--grid);
  vertical-align: top; }
th { font-weight: 500; color: var(--muted); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  padding: .35rem 0 .35rem 1rem; }
tr.strong td { font-weight: 650; }
tr.dim td, td.dim { color: var(--muted); }
td.good { color: var(--green); }
td.warn { color: var(--gold); }
td.bad { color: var(--rose); font-weight: 650; }
pre, code { font: .85rem/1.55 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); border: 1px solid var(--grid); border-radius: .6rem; padding: 1rem;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: .75rem 0 0; }
code { overflow-wrap: anywhere; }
.prompt { color: var(--blue); }
details summary { cursor: pointer; color: var(--muted); margin-top: .75rem; }
""".replace("LIGHT", _variables(1)).replace("DARK", _variables(2))
