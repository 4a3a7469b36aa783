"""Batch normalisation on batches too small for it."""

from __future__ import annotations

from collections.abc import Iterator

from tracking.diagnosis.evidence import NormFigures, RunContext, Stretch
from tracking.diagnosis.rule import Rule
from tracking.records import Finding, Remedy

__all__ = ["SmallBatchNorm"]


class SmallBatchNorm(Rule):
    """Normalisation by the statistics of a few samples.

    ``samples``: in a training batch, at most; ``values``: of a channel in it, at most, in the layer
    that has the fewest; ``shift``, ``scale``: how far that layer's running statistics are from
    those of a validation batch, where it has more values (see NormFigures).
    """

    name = "small_batch_norm"
    severity = "warning"
    needs = "norms"
    cause = (
        "Statistics of a few samples are mostly chance: training normalises by them, validation by "
        "running averages, so the network is validated in a state in which it never was."
    )
    explains = frozenset(
        {
            "worse_than_chance",
            "constant_predictions",
            "overfitting",
            "loss_not_decreasing",
            "lr_too_low",
            "high_final_lr",
        }
    )

    def __init__(
        self,
        run: RunContext,
        *,
        samples: float = 4,
        values: float = 32,
        shift: float = 0.5,
        scale: float = 0.7,
    ) -> None:
        super().__init__(run)
        self._samples, self._values = samples, values
        self._shift, self._scale = shift, scale
        self._latest: dict[str, NormFigures] = {}

    def observe(self, stretch: Stretch) -> None:
        self._latest.update({one.layer: one for one in stretch.norms})

    def findings(self, ended: bool) -> Iterator[Finding]:
        trained = [one for one in self._latest.values() if one.values]
        if not trained:
            return
        worst = min(trained, key=lambda one: one.values)
        astray = worst.shift >= self._shift or worst.scale >= self._scale
        if worst.samples <= self._samples and (worst.values <= self._values or astray):
            yield self.finding(
                f"{self.named(worst.layer)} normalises each channel by only {worst.values} values "
                f"({worst.samples} images)",
                0,
                worst.step,
                Remedy("use larger batches", "batch_size", "32"),
                Remedy("do without batch normalisation", "norm", "none"),
                layers=(worst.layer,),
                samples=worst.samples,
                values=worst.values,
                shift=worst.shift,
                scale=worst.scale,
            )
