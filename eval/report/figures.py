"""Figures as inline SVG in the page's colours.

Matplotlib draws with stand-in colours, which `svg` replaces by CSS variables, so that a figure
works in light and dark mode; for the same reason heat maps are transparent at zero. Uses only
Matplotlib's object-oriented API, without pyplot's global state.
"""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Stand-in colour -> (CSS variable, value in light mode, value in dark mode).
INK, MUTED, GRID = "#010203", "#010204", "#010205"
SERIES = ("#010301", "#010302", "#010303", "#010304", "#010305", "#010306")
COLOURS = {
    INK: ("--ink", "#23231f", "#ecebe6"),
    MUTED: ("--muted", "#6f6e69", "#9b9a94"),
    GRID: ("--grid", "#e3e2dc", "#3a3935"),
    SERIES[0]: ("--blue", "#2a78d6", "#4a94ec"),
    SERIES[1]: ("--orange", "#d9591f", "#e8763f"),
    SERIES[2]: ("--green", "#12895e", "#25b083"),
    SERIES[3]: ("--violet", "#5a48bd", "#9a90ee"),
    SERIES[4]: ("--gold", "#ad7400", "#d39a1c"),
    SERIES[5]: ("--rose", "#c23a6b", "#ea6d98"),
}
_BLUE, _RED = (0.165, 0.47, 0.84), (0.86, 0.29, 0.24)
SEQUENTIAL = LinearSegmentedColormap.from_list("from_zero", [(*_BLUE, 0.0), (*_BLUE, 1.0)])
DIVERGING = LinearSegmentedColormap.from_list(
    "around_zero",
    [(0.0, (*_RED, 1.0)), (0.5, (*_RED, 0.0)), (0.5, (*_BLUE, 0.0)), (1.0, (*_BLUE, 1.0))],
)
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
}
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> (steps, values)


def svg(figure: Figure, name: str) -> str:
    """Return the figure as an inline `<svg>` element; `name`, unique on the page, salts its ids."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1
    )
    # A style sheet inside an inline SVG applies to the whole page; the page has the same rule.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.S)
    text = text.replace("xlink:href", "href")
    # Ids such as "axes_1" are not salted and would be duplicated; nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = _minify(text)
    for stand_in, (variable, _, _) in COLOURS.items():
        text = text.replace(stand_in, f"var({variable})")
    return text


def _minify(text: str) -> str:
    """Shorten coordinates and font lists, and remove indentation."""
    text = re.sub(
        r' (d|x|y|width|height|transform)="[^"]*"',
        lambda attribute: re.sub(r"(\.\d\d)\d+", r"\1", attribute[0]).replace("\n", " "),
        text,
    )
    text = re.sub(r"font-family: [^;\"]*", "font-family: 'DejaVu Sans', sans-serif", text)
    return re.sub(r"\s*\n\s*", "\n", text)


@matplotlib.rc_context(STYLE)
def curves(
    lines: Series,
    *,
    ylabel: str,
    xlabel: str = "step",
    levels: Mapping[str, float] | None = None,
    markers: bool = False,
    height: float = 2.6,
) -> Figure:
    """Draw lines over steps, labelled at their ends, with dashed horizontal `levels`.

    A `ylabel` that starts with % clamps the y axis to 0 to 100.
    """
    figure, axes, ends = _lines(lines, height, xlabel=xlabel, ylabel=ylabel, markers=markers)
    for name, value in (levels or {}).items():
        axes.axhline(value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        ends.append((value, f"{name} {value:.2f}", MUTED))
    axes.margins(x=0.01, y=0.08)
    if levels:
        _crop_start(axes, lines, levels)
    if ylabel.startswith("%"):
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.5), min(high, 100.5))
    if list(lines) != [ylabel] or levels:
        _name_ends(figure, axes, ends)
    return figure


def _lines(lines: Series, height: float, *, xlabel: str, ylabel: str, markers: bool = False):
    """Return the figure, its axes, and (last finite value, name, colour) of each line."""
    figure, axes = _figure(height, xlabel=xlabel, ylabel=ylabel)
    ends = []
    for index, (name, (steps, values)) in enumerate(lines.items()):
        colour = SERIES[index % len(SERIES)]
        style = "-" if index < len(SERIES) else "--"
        steps, values = np.asarray(steps, float), np.asarray(values, float)
        marker = "o" if markers or len(steps) == 1 else None
        axes.plot(steps, values, style, color=colour, marker=marker, markersize=3.5)
        if np.isfinite(values).any():
            ends.append((values[np.isfinite(values)][-1], name, colour))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    return figure, axes, ends


def _crop_start(axes, lines, levels):
    """Let the first few values of a falling curve leave the axes at the top."""
    settled = [values[max(1, len(values) // 20) :] for _, values in lines.values()]
    settled = [value for values in settled for value in values if np.isfinite(value)]
    low, high = axes.get_ylim()
    top = max([*settled, *levels.values()])
    if high > top:
        bottom = min([*settled, *levels.values()])
        axes.set_ylim(max(low, bottom - 0.06 * (top - bottom)), top + 0.08 * (top - bottom))


def _name_ends(figure, axes, ends):
    """Write each name to the right of the axes at its line's last value, without overlaps."""
    low, high = axes.get_ylim()
    line = 11 / 72 / (figure.get_figheight() * 0.75)  # one line of text in axes units
    ends = sorted(ends)
    heights = [(value - low) / ((high - low) or 1) for value, _, _ in ends]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + line)
    overflow = heights[-1] - 1.02 if heights else 0
    if overflow > 0:
        for i, above in enumerate(reversed(range(len(heights)))):
            heights[i] = min(heights[i], 1.02 - line * above)
    for height, (_, name, colour) in zip(heights, ends, strict=True):
        axes.annotate(
            name,
            (1, height),
            xycoords="axes fraction",
            xytext=(7, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            annotation_clip=False,
        )


@matplotlib.rc_context(STYLE)
def over_text(
    values: np.ndarray, labels: Sequence[str], *, ylabel: str, signed: bool = False
) -> Figure:
    """Draw a heat map of values (time, rows) over a text, with one label per time step."""
    time, rows = values.shape
    figure, axes = _figure(min(4.6, max(1.1, 0.75 + rows * 0.055)), ylabel=ylabel, grid=None)
    image = _heat(axes, values.T, signed, aspect="auto")
    axes.set_xticks(range(time), labels, fontsize=7.5 if time <= 80 else 5)
    axes.tick_params(length=0, pad=2)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _colour_bar(figure, axes, image)
    return figure


@matplotlib.rc_context(STYLE)
def along_text(lines: Mapping[str, np.ndarray], labels: Sequence[str], *, ylabel: str) -> Figure:
    """Draw one value per time step over a text: a single series as bars, several as lines."""
    figure, axes = _figure(1.9, ylabel=ylabel)
    ends = []
    for colour, (name, values) in zip(itertools.cycle(SERIES), lines.items(), strict=False):
        if len(lines) == 1:
            axes.bar(range(len(values)), values, width=0.8, color=colour)
        else:
            axes.plot(values, color=colour, marker="o", markersize=2.5)
            ends.append((values[-1], name, colour))
    axes.set_xticks(range(len(labels)), labels, fontsize=7.5 if len(labels) <= 80 else 5)
    axes.tick_params(axis="x", length=0, pad=2)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlim(-0.6, len(labels) - 0.4)
    _name_ends(figure, axes, ends)
    return figure


@matplotlib.rc_context(STYLE)
def moments(
    values: np.ndarray, titles: Sequence[str], *, xlabel: str, ylabel: str, signed: bool = False
) -> Figure:
    """Draw a grid of small heat maps of values (n, rows, columns) on one colour scale."""
    columns = min(len(values), 5)
    rows = math.ceil(len(values) / columns)
    figure = Figure(figsize=(7.4, 0.3 + 1.62 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(values) :]:
        axes.set_visible(False)
    grid = list(grid[: len(values)])
    top = float(np.abs(values).max()) or 1.0
    for index, axes in enumerate(grid):
        image = _heat(axes, values[index], signed, aspect="equal", top=top)
        axes.set_title(titles[index], fontsize=8.5)
        axes.set(xticks=[], yticks=[])
        if index % columns == 0:
            axes.set_ylabel(ylabel, fontsize=8)
        if index + columns >= len(grid):
            axes.set_xlabel(xlabel, fontsize=8)
    _colour_bar(figure, grid, image)
    return figure


@matplotlib.rc_context(STYLE)
def scatter(points: Mapping[str, np.ndarray], *, xlabel: str, ylabel: str) -> Figure:
    """Draw points, name -> (n, 2), one colour for each name."""
    figure, axes = _figure(3.6, xlabel=xlabel, ylabel=ylabel, grid=None)
    for colour, (name, xy) in zip(itertools.cycle(SERIES), points.items(), strict=False):
        label = f"{name} ({len(xy)})"
        axes.scatter(*xy.T, s=14, color=colour, alpha=0.75, linewidths=0, label=label)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return figure


@matplotlib.rc_context(STYLE)
def bars(values: Mapping[str, tuple[float, float]], *, xlabel: str, origin: float) -> Figure:
    """Draw horizontal bars from `origin`, name -> (mean, spread), the spread as a whisker."""
    names = list(values)
    mean, spread = np.array(list(values.values())).T
    figure, axes = _figure(0.6 + 0.32 * len(names), xlabel=xlabel, grid="x")
    axes.barh(names, mean - origin, left=origin, height=0.55, color=SERIES[0])
    if spread.any():
        axes.errorbar(mean, names, xerr=spread, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3)
    axes.axvline(origin, color=MUTED, linewidth=1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    return figure


@matplotlib.rc_context(STYLE)
def bands(lines: Mapping[str, tuple[Sequence[float], np.ndarray]], *, ylabel: str) -> Figure:
    """Draw means over seeds, labelled at their ends, each in a band from lowest to highest seed.

    lines: name -> (steps, values (seeds, steps)). The y axis fits the last two thirds of the steps.
    """
    means = {name: (steps, values.mean(0)) for name, (steps, values) in lines.items()}
    figure, axes, ends = _lines(means, 3.6, xlabel="step", ylabel=ylabel)
    settled = []
    for line, (steps, values) in zip(axes.lines, lines.values(), strict=True):
        low, high = values.min(0), values.max(0)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
        settled += list(values[:, len(steps) // 3 :].ravel())
    room = 0.06 * (max(settled) - min(settled)) or 1.0
    axes.set_ylim(min(settled) - room, max(settled) + room)
    _name_ends(figure, axes, ends)
    return figure


def _figure(height: float, *, xlabel: str = "", ylabel: str = "", grid: str | None = "y"):
    """Return a figure of the page's width and its axes, with grid lines along one axis."""
    figure = Figure(figsize=(7.4, height), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    if grid:
        axes.grid(axis=grid)
    return figure, axes


def _heat(axes, values, signed, *, aspect, top=None):
    top = top or float(np.abs(values).max()) or 1.0
    image = axes.imshow(
        values,
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=-top if signed else 0.0,
        vmax=top,
        aspect=aspect,
        interpolation="nearest",
    )
    axes.spines[:].set_visible(True)
    return image


def _colour_bar(figure, axes, image):
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.02, aspect=14)
    bar.outline.set_edgecolor(GRID)
    bar.ax.tick_params(length=0, labelsize=7.5)
    bar.ax.yaxis.set_major_locator(MaxNLocator(3))
