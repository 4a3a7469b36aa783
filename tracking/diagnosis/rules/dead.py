"""Rules about units that do nothing: single channels, whole layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracking.diagnosis.evidence import LayerTrace, RunContext, Stretch
from tracking.diagnosis.rule import Rule, Spell, and_more
from tracking.diagnosis.rules.advice import gentler_lr, kaiming, leaky, with_norm
from tracking.diagnosis.rules.layer_kinds import RECTIFIERS
from tracking.records import Finding, Remedy
from tracking.statistics.lasting import LASTING

__all__ = ["DeadLayer", "DeadUnits"]


class DeadLayer(Rule):
    """A layer behind a non-linearity in which every unit has stopped.

    ``steps``: consecutive recorded steps.
    """

    name = "dead_layer"
    severity = "critical"
    about_layers = True
    needs = "layers"
    cause = (
        "No input of the non-linearity is above zero, so nothing passes and no gradient comes "
        "back: the layer cannot recover, and all layers before it learn nothing."
    )
    explains = frozenset(
        {
            "dead_units",
            "constant_predictions",
            "worse_than_chance",
            "loss_not_decreasing",
            "lr_too_low",
            "vanishing_gradients",
            "small_updates",
            "small_batch_norm",
            "lr_too_high",
            "collapse_cycles",
            "high_final_lr",
        }
    )

    def __init__(self, run: RunContext, *, steps: float = 4) -> None:
        super().__init__(run)
        self._steps = int(steps)
        self._spells: dict[str, Spell] = {}

    def observe(self, stretch: Stretch) -> None:
        for layer, trace in stretch.layers.items():
            if self.run.kinds.get(layer) in RECTIFIERS:
                spell = self._spells.setdefault(layer, Spell(self._steps))
                spell.add(trace.step, (trace.dead_channels == 1) & (trace.near_zero == 1))

    def findings(self, ended: bool) -> Iterator[Finding]:
        dead = [layer for layer, spell in self._spells.items() if spell.length >= self._steps]
        if dead:
            spells = [self._spells[layer] for layer in dead]
            first = min(spell.first for spell in spells)
            yield self.finding(
                f"{self.named(dead[0])}{and_more(len(dead) - 1)} "
                f"{'give' if len(dead) > 1 else 'gives'} nothing but zeros "
                f"since step {first}",
                first,
                max(spell.ended for spell in spells),
                *(_mended(self.run, first), leaky(), kaiming(self.run) if first else None),
                layers=tuple(dead),
                steps=max(spell.length for spell in spells),
                layers_dead=len(dead),
            )


def _mended(run: RunContext, began: int) -> Remedy | None:
    """What killed them: the first weights, or an update, of which there was none at step 0."""
    return gentler_lr(run) if began else kaiming(run)


@dataclass
class _Dying:
    spell: Spell
    last: float = 0.0
    """Share of the channels, at the last step."""


class DeadUnits(Rule):
    """Channels that have been at zero in every one of the last 20 recorded steps.

    ``share``: of a layer's channels; ``steps``: consecutive recorded steps.
    """

    name = "dead_units"
    severity = "warning"
    about_layers = True
    needs = "layers"
    cause = (
        "A large step, or the first weights, left no input of these channels above zero for any "
        "image; no gradient comes back to them, so the network has fewer channels than it was "
        "given."
    )
    explains = frozenset({"vanishing_gradients"})

    def __init__(self, run: RunContext, *, share: float = 0.35, steps: float = 10) -> None:
        super().__init__(run)
        self._share = share
        self._steps = int(steps)
        self._layers: dict[str, _Dying] = {}

    def observe(self, stretch: Stretch) -> None:
        for layer, trace in stretch.layers.items():
            if self.run.kinds.get(layer) in RECTIFIERS:
                self._look(layer, trace)

    def _look(self, layer: str, trace: LayerTrace) -> None:
        state = self._layers.setdefault(layer, _Dying(Spell(self._steps)))
        state.spell.add(trace.step, trace.dead_lasting >= self._share)
        state.last = float(trace.dead_lasting[-1])

    def findings(self, ended: bool) -> Iterator[Finding]:
        died = {
            layer: state
            for layer, state in self._layers.items()
            if state.spell.length >= self._steps and state.last < 1
        }
        if died:
            worst = max(died, key=lambda layer: died[layer].last)
            began = max(0, min(state.spell.first for state in died.values()) - LASTING + 1)
            yield self.finding(
                f"{died[worst].last:.0%} of the channels of {self.named(worst)} have died"
                + and_more(len(died) - 1, ", and many in"),
                began,
                max(state.spell.ended for state in died.values()),
                *(_mended(self.run, began), leaky(), with_norm()),
                layers=tuple(died),
                dead=died[worst].last,
            )
