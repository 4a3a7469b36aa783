"""What colour-dim shows, whatever a run leaves behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib import colormaps
from PIL import Image

from tests.tracking_tests.figures import LAYERS, TABLES, columns, drawn, row, run, table
from tracking.plots.color_dim import (
    LARGE,
    PAPER,
    SHADES,
    SMALL,
    activation_ticks,
    color_dim_figure,
    heat,
    step_ticks,
)
from tracking.plots.figures import save
from tracking.short_names import short

__all__: list[str] = []


def histograms(stats: pa.Table, layer: str) -> np.ndarray:
    """(steps, bins), of training."""
    found = [r["hist"] for r in stats.to_pylist() if (r["layer"], r["mode"]) == (layer, "train")]
    return np.array(found)


def painted(page: Image.Image) -> np.ndarray:
    """Where a page has shades: the panels and their colour bars."""
    return np.asarray(page) < SHADES


@pytest.mark.parametrize("kind", ["healthy", "collapsing", "exploding"])
def test_heat_is_the_logarithm_of_the_counts(kind: str) -> None:
    stats, _ = run(kind)
    for layer, found in columns(stats).items():
        counts = histograms(stats, layer)
        used = np.flatnonzero(counts.any(axis=0))
        logs = np.log1p(counts[:, used[0] : used[-1] + 1])
        shades, top = heat(found, 60, 2000)
        assert top == logs.max()
        assert shades.shape == (2000, 60)
        # Each bin has some of 2000 rows; the largest activations are at the top.
        changes = np.flatnonzero((np.diff(shades.astype(int), axis=0) != 0).any(axis=1))
        rows = shades[[0, *(changes + 1)]][::-1]
        expected = (logs * ((SHADES - 1) / top)).round().astype(np.uint8)
        different = [0, *(np.flatnonzero((np.diff(expected, axis=1) != 0).any(axis=0)) + 1)]
        np.testing.assert_array_equal(rows, expected[:, different].T)


@pytest.mark.parametrize("kind", ["healthy", "exploding"])
def test_page_has_a_panel_for_each_layer(kind: str, tmp_path: Path) -> None:
    stats, _ = run(kind)
    page = color_dim_figure(columns(stats))
    assert page.size == (3 * SMALL[0], SMALL[1])
    pixels = np.asarray(page)
    for panel, (layer, found) in enumerate(columns(stats).items()):
        own = pixels[:, panel * SMALL[0] : (panel + 1) * SMALL[0]]
        shades, _ = heat(found, 400, SMALL[1] - 47 - 60)
        inside = own[49:-62, 79:475]
        # White lines part what is beyond +-10 from the rest.
        same = (inside == shades[2:-2, 2:-2][: len(inside), : inside.shape[1]]) | (inside == PAPER)
        assert same.mean() > 0.99, layer
        assert np.unique(own[own >= SHADES]).size > 8, "letters have smooth edges"
    drawn(page, tmp_path / "new" / "folder" / "color_dim.png")


def test_an_exploding_layer_stays_in_the_picture() -> None:
    stats, _ = run("exploding")
    head = columns(stats, ["head"])["head"]
    overflow = histograms(stats, "head")[:, -1]
    assert overflow[-1] > 0 == overflow[0]
    shades, top = heat(head, 60, 300)
    np.testing.assert_array_equal(shades[0], (np.log1p(overflow) * 191 / top).round())
    places = {label: place for place, label in activation_ticks(head).items()}
    assert places["< -10"] < -10 < 10 < places["> 10"]
    pixels = np.asarray(color_dim_figure({"head": head}))[49:-62, 79:-117]
    white = (pixels == PAPER).all(axis=1)
    assert white.sum() == 2


def test_rows_that_stay_empty_are_cut_off() -> None:
    one = columns(table(row(0), row(1)), ["relu"])["relu"]
    assert min(activation_ticks(one)) == 0
    assert max(activation_ticks(one)) == 2.5
    shades, _ = heat(one, 2, 10)
    assert (shades[[0, 6, 9]] > 0).all()
    assert np.count_nonzero(shades) == 3 * 2
    assert not (np.asarray(color_dim_figure({"relu": one}))[49:-62, 79:-117] == PAPER).any()


def test_no_column_is_lost_where_there_are_more_than_pixels() -> None:
    counts = np.zeros((801, 82), np.int64)
    counts[np.arange(801), np.arange(801) % 82] = np.arange(801)
    one = columns(table(*[row(i, hist=h) for i, h in enumerate(counts)]), ["relu"])["relu"]
    assert len(one) == 801
    shades, top = heat(one, 401, 82)
    assert top == np.log1p(800)
    joined, _ = heat(one.joined(401), 401, 82)
    np.testing.assert_array_equal(shades, joined)
    assert heat(one, 20, 82)[1] == np.log1p(one.joined(20).hist.max())


def test_columns_stand_at_their_steps() -> None:
    # An automatic interval is not even.
    rows = [row(step, hist=np.full(82, step)) for step in (0, 1, 9, 17, 40)]
    shades, _ = heat(columns(table(*rows), ["relu"])["relu"], 63, 82)
    assert (np.flatnonzero(np.diff(shades[5].astype(int))) + 1).tolist() == [1, 9, 17, 40]


def test_evaluation_is_not_mixed_into_the_picture() -> None:
    stats, _ = run("healthy")
    train = stats.filter(pa.array([r["mode"] == "train" for r in stats.to_pylist()]))
    assert len(train) == len(stats) - len(LAYERS)
    both, alone = (color_dim_figure(columns(one)) for one in (stats, train))
    assert both.tobytes() == alone.tobytes()


def test_colours_are_viridis_on_white() -> None:
    page = color_dim_figure(columns(table(row(0)), ["relu"])).convert("RGB")
    colors = set(page.get_flattened_data())
    for end in (0.0, 1.0):
        assert tuple(round(255 * part) for part in colormaps["viridis"](end)[:3]) in colors
    assert page.getpixel((0, 0)) == (255, 255, 255)
    assert (0, 0, 0) in colors


def test_labels_of_the_scale_do_not_meet_those_of_the_outer_rows() -> None:
    ticks = activation_ticks(columns(table(row(0, hist=np.ones(82, np.int64))), ["relu"])["relu"])
    assert ticks[0] == "0"
    assert min(np.diff(sorted(ticks))) > 1.5


@pytest.mark.parametrize("last", [1, 7, 99, 99_999, 10**6, 10**9, 10**12])
@pytest.mark.parametrize("letters", [20, 42, 84])
def test_labels_of_steps_do_not_meet(last: int, letters: int) -> None:
    one = columns(table(row(0), row(last)), ["relu"])["relu"]
    ticks = step_ticks(one, letters)
    assert ticks
    assert all(float(label) == place for place, label in ticks.items())
    gaps = np.diff(sorted(ticks)) * letters / (one.edges[-1] - one.edges[0])
    assert (gaps > max(map(len, ticks.values()))).all()


@pytest.mark.parametrize("name", TABLES)
def test_whatever_a_run_leaves_can_be_drawn(name: str) -> None:
    page = color_dim_figure(columns(table(*TABLES[name]), ["relu"]))
    assert page.size == LARGE
    nothing = name in ("empty", "another layer only", "evaluation only")
    assert painted(page).any() != nothing
    # In the place of the heat are letters then, which have an ink of their own.
    middle = np.asarray(page)[200:320, 300:600]
    assert (middle >= SHADES).all() == nothing
    assert (middle == PAPER).mean() < 1


def test_no_layers_can_be_drawn(tmp_path: Path) -> None:
    path = save(color_dim_figure({}), tmp_path / "color_dim.png")
    with Image.open(path) as image:
        assert set(image.convert("L").get_flattened_data()) == {255}


@pytest.mark.parametrize("count", [2, 7])
def test_panels_of_many_layers_do_not_meet(count: int) -> None:
    names = [f"encoder.stage{i}.a_very_long_name_of_a_block.leaky_rectifier" for i in range(count)]
    hist = np.ones(82, np.int64)
    page = color_dim_figure(columns(table(*[row(10**9, n, hist=hist) for n in names]), names))
    width, height = SMALL
    pixels = np.asarray(page)
    assert page.size == (min(count, 3) * width, -(-count // 3) * height)
    for x in range(0, page.width, width):
        assert (pixels[:, [x, x + width - 1]] == PAPER).all()
    for y in range(0, page.height, height):
        assert (pixels[[y, y + height - 1]] == PAPER).all()


def test_a_page_of_very_many_layers_has_smaller_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracking.plots.color_dim.PIXELS", 3e5)
    names = [f"layer{i}" for i in range(9)]
    page = color_dim_figure(columns(table(*[row(0, name) for name in names]), names))
    assert 2e5 < page.width * page.height <= 3e5
    third = page.width // 3
    assert all(painted(page)[:, i * third : (i + 1) * third].any() for i in range(3))


def test_long_names_lose_their_middle() -> None:
    assert short("a" * 46, 46) == "a" * 46
    assert short("begin" + "x" * 100 + "end", 11) == "begin…xxend"
