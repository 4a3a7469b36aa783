"""Colour-dim as a picture: histograms by step, painted directly, with the axes that they need.

A page of twenty panels takes a tenth of a second. Plotting libraries lay out every tick, so theirs
takes seconds. The page is an image of 256 colours, which also makes a small file: shades of viridis
first, then greys from black to white, in which letters have smooth edges like anywhere else.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from tracking.short_names import short
from tracking.statistics.kernels import HIST_EDGES
from tracking.tables.layer_columns import LayerColumns

__all__ = ["NAME", "SHADES", "activation_ticks", "color_dim_figure", "heat", "step_ticks"]

SHADES = 192
"""Colours for counts; those after them are greys."""
INK, PAPER = SHADES, 255
LARGE, SMALL = (992, 550), (592, 352)
"""Pixels of a layer's picture alone and among others, with what is around it."""
LEFT, TOP, RIGHT, BOTTOM = 77, 47, 115, 60
LETTERS = 15
"""Height of letters in pixels."""
PIXELS = 40e6
"""A picture of a thousand layers must not need gigabytes: its panels are smaller."""
OUTER = 0.75
"""Height of the rows for what is below -10 and above 10: enough for a label of their own."""
NAME = 46
"""Letters of a layer's name that fit on one line."""


def color_dim_figure(layers: Mapping[str, LayerColumns]) -> Image.Image:
    """Colour-dim: x = recorded step of training, y = activation, colour = log(1 + count).

    One panel for each layer, with a colour scale of its own. The lowest row of a panel holds what
    is below -10, the highest what is above 10, so an exploding layer stays in the picture; rows
    that stay empty throughout are cut off at the top and the bottom. Source of the idea: Stefano
    Giomo, fastai forum, 2018.
    """
    across = min(len(layers), max(3, math.ceil(math.sqrt(len(layers) / 3)))) or 1
    down = math.ceil(len(layers) / across) or 1
    width, height = LARGE if len(layers) == 1 else SMALL
    scale = min(1.0, math.sqrt(PIXELS / (width * height * across * down)))
    width, height = int(width * scale), int(height * scale)
    page = Image.new("L", (width * across, height * down), PAPER)
    for position, layer in enumerate(layers.values()):
        row, column = divmod(position, across)
        _Panel(page, layer, scale, column * width, row * height, width, height).draw()
    page.putpalette(_palette())
    return page


def heat(layer: LayerColumns, width: int, height: int) -> tuple[npt.NDArray[np.uint8], float]:
    """(height, width) shades of log(1 + count), the largest activations first; and the largest log.

    Where there are more columns than pixels, neighbours are joined, so that none is lost.
    """
    layer = layer.joined(width)
    logs = np.log1p(layer.hist[:, slice(*layer.used_bins)])
    top = float(logs.max()) or 1.0
    shades = (logs * ((SHADES - 1) / top)).round().astype(np.uint8)
    columns, rows = _places(layer.edges, width), _places(_bounds(layer), height)
    return shades[columns][:, rows[::-1]].T, top


def step_ticks(layer: LayerColumns, width: float) -> dict[float, str]:
    """Labels of the steps' axis, which is ``width`` letters wide, by their places."""
    low, high = layer.edges[[0, -1]]
    room = int(width / (len(f"{high:.0f}") + 2))
    ticks = MaxNLocator(max(1, min(8, room)), integer=True, steps=[1, 2, 5, 10])
    places = ticks.tick_values(low, high)
    return {place: f"{place:.0f}" for place in places if low <= place <= high}


def activation_ticks(layer: LayerColumns) -> dict[float, str]:
    """Labels of the activations' axis by their places."""
    low, high = _bounds(layer)[[0, -1]]
    inner = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(max(low, -10.0), min(high, 10.0))
    ticks = {tick: f"{tick:g}" for tick in inner if low <= tick <= high}
    for sign, text, edge in ((-1, "< -10", low), (1, "> 10", high)):
        if abs(edge) > 10:
            # Its label takes the place of the nearest one of the scale.
            ticks = {tick: label for tick, label in ticks.items() if sign * tick < 9}
            ticks[sign * (10 + OUTER / 2)] = text
    return ticks


@dataclass(frozen=True)
class _Panel:
    """A layer's place on a page; all measures in pixels."""

    page: Image.Image
    layer: LayerColumns
    scale: float
    x: int
    y: int
    width: int
    height: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what is painted, without what is around it."""
        left, top, right, bottom = (round(self.scale * m) for m in (LEFT, TOP, RIGHT, BOTTOM))
        return (
            *(self.x + left, self.y + top),
            *(self.x + self.width - right, self.y + self.height - bottom),
        )

    def draw(self) -> None:
        left, top, right, bottom = self.box
        lines = textwrap.wrap(short(self.layer.layer, 2 * NAME), NAME)
        for above, line in enumerate(reversed(lines)):
            self._text((left + right) / 2, top - (6 + 18 * above) * self.scale, line, "ms")
        self._text((left + right) / 2, bottom + 40 * self.scale, "step", "ms")
        self._upright(self.x + 11 * self.scale, "activation")
        if len(self.layer):
            largest = self._paint()
            self._axes()
            self._bar(largest)
        else:
            self._text((left + right) / 2, (top + bottom) / 2, "nothing recorded", "mm")
        self._frame(left, right)

    def _paint(self) -> float:
        left, top, right, bottom = self.box
        shades, largest = heat(self.layer, right - left, bottom - top)
        self.page.paste(Image.fromarray(shades), (left, top))
        bounds = _bounds(self.layer)
        for edge in (-10.0, 10.0):
            if bounds[0] < edge < bounds[-1]:
                y = _between(edge, bounds, bottom, top)
                self._pen.line((left, y, right, y), fill=PAPER)
        return largest

    def _axes(self) -> None:
        left, top, right, bottom = self.box
        tick = 5 * self.scale
        for step, label in step_ticks(self.layer, (right - left) / self._letter).items():
            x = _between(step, self.layer.edges, left, right)
            self._pen.line((x, bottom, x, bottom + tick), fill=INK)
            self._text(x, bottom + 1.8 * tick, label, "mt")
        for value, label in activation_ticks(self.layer).items():
            y = _between(value, _bounds(self.layer), bottom, top)
            self._pen.line((left - tick, y, left, y), fill=INK)
            self._text(left - 1.8 * tick, y, label, "rm")

    def _bar(self, largest: float) -> None:
        _, top, right, bottom = self.box
        begin, end = (round(right + self.scale * x) for x in (10, 28))
        ramp = np.linspace(SHADES - 1, 0, bottom - top).round().astype(np.uint8)
        self.page.paste(Image.fromarray(np.tile(ramp[:, None], (1, end - begin))), (begin, top))
        for value in MaxNLocator(6).tick_values(0, largest):
            if 0 <= value <= largest:
                y = _between(value, np.array([0, largest]), bottom, top)
                self._pen.line((end, y, end + 4 * self.scale, y), fill=INK)
                self._text(end + 8 * self.scale, y, f"{value:g}", "lm")
        self._frame(begin, end)
        self._upright(self.x + self.width - 25 * self.scale, "log(1 + count)")

    @property
    def _pen(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.page)

    @property
    def _letter(self) -> float:
        """Width of a digit."""
        return _font(self.scale * LETTERS).getlength("0")

    def _text(self, x: float, y: float, text: str, anchor: str) -> None:
        # On whole pixels letters are sharp.
        place = (round(x), round(y))
        self._pen.text(place, text, fill=INK, font=_font(self.scale * LETTERS), anchor=anchor)

    def _upright(self, x: float, text: str) -> None:
        """Text that reads upwards, in the middle of the panel's height."""
        letters = _upright(text, self.scale * LETTERS)
        middle = (self.box[1] + self.box[3] - letters.height) // 2
        self.page.paste(letters, (round(x - letters.width / 2), middle))

    def _frame(self, left: int, right: int) -> None:
        _, top, _, bottom = self.box
        self._pen.rectangle((left, top, right, bottom), outline=INK)


def _bounds(layer: LayerColumns) -> npt.NDArray[np.float64]:
    """The limits of the bins in use, from below; the two outer bins have a width for a label."""
    low, high = layer.used_bins
    return np.concatenate([[-10.0 - OUTER], HIST_EDGES, [10.0 + OUTER]])[low : high + 1]


def _places(edges: npt.NDArray[np.float64], pixels: int) -> npt.NDArray[np.int64]:
    """(pixels,) Between which two of the edges the middle of each pixel lies."""
    middles = edges[0] + (np.arange(pixels) + 0.5) / pixels * (edges[-1] - edges[0])
    places: npt.NDArray[np.int64] = np.searchsorted(edges, middles, side="right") - 1
    return places


def _between(value: float, edges: npt.NDArray[np.float64], begin: float, end: float) -> int:
    share = (value - edges[0]) / (edges[-1] - edges[0])
    return round(float(begin + share * (end - begin)))


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _upright(text: str, size: float) -> Image.Image:
    _, _, width, height = _font(size).getbbox(text)
    letters = Image.new("L", (math.ceil(width), math.ceil(height)), PAPER)
    ImageDraw.Draw(letters).text((0, 0), text, fill=INK, font=_font(size))
    return letters.transpose(Image.Transpose.ROTATE_90)


@cache
def _palette() -> list[int]:
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 1, SHADES))[:, :3]
    greys = np.repeat(np.linspace(0, 1, 256 - SHADES)[:, None], 3, axis=1)
    values: list[int] = (255 * np.concatenate([colors, greys])).round().astype(int).ravel().tolist()
    return values
