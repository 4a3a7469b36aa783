"""Optuna's plots of a study for its page: what plotly.js draws there.

They are made by ``optuna.visualization``. Colours that do for a light and a dark page alike, hover
texts that say what matters, and names as everywhere else take the place of Optuna's; the rest of
the look is the page's own (report_page/page.js).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Study, visualization
from optuna.trial import FrozenTrial
from plotly.graph_objects import Figure

from search.outcome import STATE_NAMES, Outcome
from search.reports.plot_kinds import PlotKind, Snapshot, kinds_of, quiet, why_not
from search.reports.trial_text import as_result, end_of, parameters_text
from tracking.reasons import one_line

__all__ = ["BLUE", "GREY", "RED", "Chart", "charts_of", "packed_figure"]

BLUE, RED, GREY = "#4a8fd0", "#dc5b52", "#9aa3ad"
COLORS = {
    "complete": BLUE,
    "pruned": "#e0963a",
    "failed": RED,
    "running": "#4fae6a",
    "waiting": GREY,
    "infeasible": "#b99ad6",
}
MARKUP = re.compile(r"<(?!/?(?:br|b|extra)>)")
"""What plotly.js could take for markup and Optuna has not written."""


@dataclass(frozen=True)
class Chart:
    """One of the plots: figures side by side, or why there is none."""

    kind: PlotKind
    figures: Sequence[dict[str, Any]]
    """Each with ``data``, ``layout`` and ``height``, and ``width``, the least one in pixels."""
    problem: str = ""


def charts_of(shot: Snapshot) -> list[Chart]:
    """All plots that suit the study, in the order of the page."""
    return [_chart(kind, shot) for kind in kinds_of(shot)]


def _chart(kind: PlotKind, shot: Snapshot) -> Chart:
    problem = why_not(kind, shot)
    if problem:
        return Chart(kind, (), problem)
    try:
        with quiet():
            return Chart(kind, [packed_figure(figure) for figure in DRAW[kind.name](shot)])
    except Exception as error:  # of two libraries: a chart is not worth a study's report
        return Chart(kind, (), f"It could not be drawn: {one_line(error)}")


def packed_figure(figure: Figure) -> dict[str, Any]:
    """A figure for the page: its numbers and texts, without the look, which is the page's."""
    layout = figure.layout
    height, width = layout.height or 380, layout.width or 0
    figure.update_layout(template="none", title=None, height=None, width=None, plot_bgcolor=None)
    packed: dict[str, Any] = json.loads(figure.to_json())
    packed["layout"].pop("template", None)
    escaped: dict[str, Any] = _escaped(packed)
    return escaped | {"height": height, "width": width}


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _escaped(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return MARKUP.sub("&lt;", value) if isinstance(value, str) else value


def _history(shot: Snapshot) -> list[Figure]:
    figure = visualization.plot_optimization_history(shot.judged, target_name=shot.labels[0])
    points, line, *_ = figure.data
    hover = f"trial %{{x}}: %{{y:{_form(shot)}}}<extra></extra>"
    points.update(name="complete trial", marker={"color": BLUE, "size": 8}, hovertemplate=hover)
    line.update(name="best so far", line={"color": RED, "shape": "hv"}, hovertemplate=hover)
    figure.update_xaxes(title_text="trial")
    return [_in_percent(figure, shot)]


def _pareto_front(shot: Snapshot) -> list[Figure]:
    labels = list(shot.labels)
    figure = visualization.plot_pareto_front(shot.judged, target_names=labels)
    texts = _hover_texts(shot, shot.judged)
    for trace in figure.data:
        on_front = "Best" in trace.hovertemplate  # Optuna gives them no other name
        color = RED if on_front else BLUE
        numbers = [int(json.loads(text.replace("<br>", ""))["number"]) for text in trace.text]
        trace.update(
            name="on the front" if on_front else "other trial",
            showlegend=True,
            marker={"color": color, "size": 9, "showscale": False, "colorscale": None},
            text=[texts[number] for number in numbers],
            hovertemplate="%{text}<extra></extra>",
        )
    return [figure]


def _importances(shot: Snapshot) -> list[Figure]:
    figure, *others = [
        visualization.plot_param_importances(shot.judged, target=shot.cost(i), target_name=label)
        for i, label in enumerate(shot.labels)
    ]
    figure.add_traces([trace for other in others for trace in other.data])
    names = {name for trace in figure.data for name in trace.y}
    for trace, label, color in zip(figure.data, shot.labels, (BLUE, RED), strict=False):
        trace.update(name=label, marker={"color": color}, hovertemplate="%{y}: %{x:.3f}")
    figure.update_layout(height=110 + 38 * len(names) * len(figure.data))
    most = max(value for trace in figure.data for value in trace.x)
    figure.update_xaxes(title_text="importance (all together: 1)", range=[0, 1.2 * most])
    figure.update_yaxes(title_text="")
    return [figure]


def _slice(shot: Snapshot) -> list[Figure]:
    """One figure for each parameter, so that the page can put them in rows of its own."""
    names = sorted({name for trial in shot.complete for name in trial.params})
    figures = [_in_percent(_one_slice(shot, name), shot) for name in names]
    values = [trial.values[0] for trial in shot.complete]
    edge = 0.06 * (max(values) - min(values)) or 0.01
    for figure in figures:  # as high as each other, to be compared
        figure.update_yaxes(range=[min(values) - edge, max(values) + edge])
    return figures


def _one_slice(shot: Snapshot, name: str) -> Figure:
    label = shot.labels[0]
    figure = visualization.plot_slice(
        shot.judged, params=[name], target=lambda trial: trial.values[0], target_name=label
    )
    hover = f"trial %{{marker.color}}<br>%{{x}}: %{{y:{_form(shot)}}}<extra></extra>"
    figure.update_traces(marker={"showscale": False, "size": 9}, hovertemplate=hover)
    figure.update_layout(height=290)
    if figure.layout.xaxis.type == "log":
        values = [trial.params[name] for trial in shot.complete if name in trial.params]
        figure.update_xaxes(dtick=1 if max(values) > 100 * min(values) else None)
    if figure.layout.xaxis.type == "category":  # which Optuna writes as Python does, in quotes
        for trace in figure.data:
            trace.x = [_choice(value) for value in trace.x]
        names = [_choice(value) for value in figure.layout.xaxis.categoryarray]
        figure.update_xaxes(categoryarray=names)
    return figure


def _parallel_coordinates(shot: Snapshot) -> list[Figure]:
    shot.judged.set_metric_names(list(shot.labels))
    figure = visualization.plot_parallel_coordinate(shot.judged, target_name=shot.labels[0])
    figure.update_traces(opacity=0.75)
    figure.data[-1].update(marker={"colorbar": {"title": {"side": "right"}}})  # the scale's own
    figure.update_annotations(font={"color": None, "size": 11})
    figure.update_layout(width=100 + 125 * len(figure.layout.shapes), height=430)
    figure.update_xaxes(tickangle=0)
    return [figure]


def _timeline(shot: Snapshot) -> list[Figure]:
    figure = visualization.plot_timeline(shot.study)
    texts = _hover_texts(shot, shot.study)
    names = {state.name: name for state, name in STATE_NAMES.items()}
    for trace in figure.data:
        name = names.get(trace.name, trace.name.lower())
        trace.update(
            name=name,
            text=[texts[number] for number in trace.y],
            hovertemplate="%{text}<extra></extra>",
            marker={"color": COLORS[name]},
        )
    figure.update_layout(height=min(900, 200 + 9 * len(texts)))
    figure.update_xaxes(title_text="local time")
    figure.update_yaxes(title_text="trial")
    return [figure]


def _intermediate_values(shot: Snapshot) -> list[Figure]:
    figure = visualization.plot_intermediate_values(shot.judged)
    hover = f"%{{fullData.name}}: %{{y:{_form(shot)}}}<extra></extra>"
    for trace in figure.data:
        trace.update(name=trace.name.replace("Trial", "trial "), hovertemplate=hover)
        trace.update(line={"width": 1.2})
    steps = sorted({step for trace in figure.data for step in trace.x})
    figure.update_xaxes(title_text="rung", tickvals=steps)
    figure.update_yaxes(title_text=f"{shot.labels[0]} at the rung")
    return [_in_percent(figure, shot)]


def _choice(value: object) -> str:
    """A value of a category as text; what a trial's other choices leave unused is None there."""
    text = str(value).strip("'")
    return "not used" if text == "None" else text


def _form(shot: Snapshot) -> str:
    """How plotly.js writes the first objective."""
    return ".2%" if shot.objectives[0] == "accuracy" else ".5g"


def _in_percent(figure: Figure, shot: Snapshot) -> Figure:
    """The same with accuracies along the y axis as they are written everywhere else."""
    if shot.objectives[0] == "accuracy":
        figure.update_yaxes(tickformat=".3~%")
    return figure


def _hover_texts(shot: Snapshot, study: Study) -> dict[int, str]:
    """What the pointer shows of each trial, by number."""
    outcome = Outcome.of(study)
    return {t.number: _hover_text(shot, t, outcome.states[t.number]) for t in outcome.trials}


def _hover_text(shot: Snapshot, trial: FrozenTrial, state: str) -> str:
    lines = [f"trial {trial.number}: {state}"]
    if lines[0].endswith("complete"):
        pairs = zip(shot.objectives, shot.labels, trial.values, strict=True)
        lines += [f"{label} {as_result(name, value)}" for name, label, value in pairs]
    reason = end_of(trial)
    lines += [] if reason is None else [reason[:100]]
    lines += [parameters_text({name: value}) for name, value in trial.params.items()]
    return "<br>".join(line.replace("<", "&lt;") for line in lines)


DRAW: dict[str, Callable[[Snapshot], list[Figure]]] = {
    "history": _history,
    "pareto_front": _pareto_front,
    "importances": _importances,
    "slice": _slice,
    "parallel_coordinates": _parallel_coordinates,
    "timeline": _timeline,
    "intermediate_values": _intermediate_values,
}
