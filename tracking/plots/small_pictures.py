"""Colour-dim in a few milliseconds, for pictures while a network trains: no axes, no matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tracking.statistics.kernels import HIST_EDGES
from tracking.tables.columns import LayerColumns

__all__ = ["MOST_LAYERS", "color_dim_image"]

MOST_LAYERS = 24
WIDTH, HEIGHT = 288, 128
"""Of a layer's picture in pixels; text is around it."""
LEFT, TOP, BOTTOM, GAP = 40, 22, 20, 14
INK, PAPER = (60, 60, 67), (255, 255, 255)
LETTERS = 44

# Every eighth of matplotlib's viridis.
_STOPS = np.array(
    [
        *((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142)),
        *((31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37)),
    ]
)
VIRIDIS = np.column_stack(
    [np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(_STOPS)), c) for c in _STOPS.T]
).astype(np.uint8)


def color_dim_image(layers: Mapping[str, LayerColumns]) -> Image.Image:
    """Colour-dim of the layers so far; of a deeper network, 24 layers evenly spaced."""
    shown = _spaced([one for one in layers.values() if len(one)])
    panel = (LEFT + WIDTH + GAP, TOP + HEIGHT + BOTTOM)
    # About as high as wide: MLflow shows it in the middle of a square.
    across = math.ceil(math.sqrt(len(shown) * panel[1] / panel[0])) or 1
    down = math.ceil(len(shown) / across) or 1
    page = Image.new("RGB", (across * panel[0], down * panel[1] + GAP), PAPER)
    draw = _Pen(ImageDraw.Draw(page), ImageFont.load_default(11))
    for position, one in enumerate(shown):
        row, column = divmod(position, across)
        x, y = column * panel[0] + LEFT, row * panel[1] + TOP
        page.paste(Image.fromarray(_pixels(one)), (x, y))
        draw.labels(one, x, y)
    return page


@dataclass(frozen=True)
class _Pen:
    draw: ImageDraw.ImageDraw
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont

    def labels(self, layer: LayerColumns, x: int, y: int) -> None:
        """The layer's name, the range of its activations and of the steps, around its picture."""
        low, high = layer.used_bins
        bounds = ["< -10", *(f"{edge:g}" for edge in HIST_EDGES), "> 10"]
        name = layer.layer if len(layer.layer) <= LETTERS else f"…{layer.layer[1 - LETTERS :]}"
        self._write((x, y - 6), name, "ls")
        self._write((x - 4, y + 1), bounds[high], "rt")
        self._write((x - 4, y + HEIGHT - 1), bounds[low], "rb")
        self._write((x, y + HEIGHT + 4), f"step {layer.first[0]}", "lt")
        self._write((x + WIDTH, y + HEIGHT + 4), str(layer.last[-1]), "rt")

    def _write(self, place: tuple[int, int], text: str, anchor: str) -> None:
        self.draw.text(place, text, fill=INK, font=self.font, anchor=anchor)


def _pixels(layer: LayerColumns) -> npt.NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3): log(1 + count) of the bins in use, the largest at the top."""
    low, high = layer.used_bins
    edges = layer.edges
    steps = np.linspace(edges[0], edges[-1], WIDTH, endpoint=False)
    columns = np.searchsorted(edges, steps, side="right") - 1
    bins = low + (np.arange(HEIGHT)[::-1] * (high - low)) // HEIGHT
    heat = np.log1p(layer.hist)
    heat *= 255 / (heat.max() or 1)
    return VIRIDIS[heat.astype(np.uint8)[columns][:, bins].T]


def _spaced(layers: list[LayerColumns]) -> list[LayerColumns]:
    places = np.linspace(0, len(layers) - 1, min(len(layers), MOST_LAYERS)).round().astype(int)
    return [layers[place] for place in places]
