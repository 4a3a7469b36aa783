"""Rules about what validation shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tracking.diagnosis.evidence import EpochFigures, RunContext, Stretch
from tracking.diagnosis.losses import Validations, guessing, usual_answer
from tracking.diagnosis.rule import Rule
from tracking.diagnosis.rules.advice import lr, usual_lr, with_norm
from tracking.records import Finding, Remedy

__all__ = ["ConstantPredictions", "Overfitting", "WorseThanChance"]


class _EpochRule(Rule):
    """Keeps the validations of a run, under the last step before each."""

    needs = "epochs"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._seen = Validations()

    def observe(self, stretch: Stretch) -> None:
        for epoch in stretch.epochs:
            # They come with the number of steps before them, which is one more than the last.
            figures = replace(epoch, step=max(0, epoch.step - 1))
            self._seen.add(figures)
            self._take(figures)

    def _take(self, figures: EpochFigures) -> None:
        """Note what else is to be known of a validation."""


class ConstantPredictions(_EpochRule):
    """One answer for nearly all images, in two validations on end or the last.

    ``share``: of the validation images; ``steps``: optimizer steps done by then, before the end.
    """

    name = "constant_predictions"
    severity = "critical"
    about_layers = True
    cause = "What reaches the last layer does not depend on the image."
    explains = frozenset({"worse_than_chance", "loss_not_decreasing"})

    def __init__(self, run: RunContext, *, share: float = 0.97, steps: float = 100) -> None:
        super().__init__(run)
        self._share, self._steps = share, steps
        self._often = 0
        self._began = 0

    def _take(self, figures: EpochFigures) -> None:
        self._began = self._began if self._often else figures.step
        self._often = self._often + 1 if self._shows(figures) else 0

    def _shows(self, figures: EpochFigures) -> bool:
        # Where one class makes up most of the data, its name is no bad answer.
        return figures.top_class >= max(self._share, min(0.999, usual_answer(self.run) + 0.05))

    def findings(self, ended: bool) -> Iterator[Finding]:
        last = self._seen.last
        if last is None or not self._often:
            return
        if ended or (self._often >= 2 and last.step >= self._steps):
            yield self.finding(
                f"{last.top_class:.0%} of the validation images get the same answer",
                self._began,
                last.step,
                with_norm(),
                lr(usual_lr(self.run), "take a learning rate that is usual for the optimizer"),
                share=last.top_class,
                accuracy=last.accuracy,
            )


class WorseThanChance(_EpochRule):
    """Validation no better than guessing. ``margin``: accuracy beside that of guessing."""

    name = "worse_than_chance"
    severity = "warning"
    cause = "Validation images or labels differ from those of training, or nothing was learned."
    explains = frozenset({"overfitting", "loss_not_decreasing"})

    def __init__(self, run: RunContext, *, margin: float = 1.5) -> None:
        super().__init__(run)
        self._margin = margin

    def findings(self, ended: bool) -> Iterator[Finding]:
        last = self._seen.last
        if not ended or last is None or not self.run.classes or self.run.classes < 2:
            return
        chance = 1 / self.run.classes
        if last.accuracy < min(self._margin * chance, (1 + chance) / 2):
            yield self.finding(
                f"validation accuracy is {last.accuracy:.1%}, "
                f"{'hardly' if last.accuracy > chance else 'no'} better than guessing "
                f"({chance:.1%})",
                0,
                last.step,
                Remedy("check that labels and images belong together", "dataset"),
                lr(usual_lr(self.run), "take a learning rate that is usual for the optimizer"),
                accuracy=last.accuracy,
                chance=chance,
            )


class Overfitting(_EpochRule):
    """Validation that gets worse while training gets better.

    ``rise``: of the validation loss above its lowest; ``gap``: of validation above training loss;
    ``loss``: smallest validation loss beside that of guessing; ``lr``: the learning rate beside
    the peak, below which a falling one is judged before the end: validation loss jumps about while
    it is high, and comes down with it; ``fewer``: share of the errors at the lowest loss that are
    errors no more, with which it is no finding.
    """

    name = "overfitting"
    severity = "warning"
    also = frozenset({"steps"})
    cause = "The network has learned the training images by heart, with what is chance in them."
    explains = frozenset({"stopped_too_early"})

    def __init__(
        self,
        run: RunContext,
        *,
        rise: float = 0.25,
        gap: float = 1.0,
        loss: float = 0.05,
        lr: float = 0.2,
        fewer: float = 0.3,
    ) -> None:
        super().__init__(run)
        self._rise, self._gap, self._fewer = rise, gap, fewer
        self._loss, self._lr = loss, lr

    def _shorter(self, best_step: int, steady: bool) -> Remedy:
        """To end where validation was best: with the learning rate low by then, if it falls."""
        if steady:
            return Remedy("stop when validation gets no better", "patience", "2")
        epochs, total = self.run.options.get("epochs", ""), self.run.total_steps
        enough = (
            max(1, round(int(epochs) * best_step / total)) if epochs.isdigit() and total else ""
        )
        return Remedy("train for a shorter time", "epochs", str(enough))

    def findings(self, ended: bool) -> Iterator[Finding]:
        last, best, curve = self._seen.last, self._seen.best, self.curve
        if last is None or best is None or self._seen.count < 3 or not curve.steps:
            return
        if not (curve.from_start and curve.positive):
            return
        now = curve.level(0.9, 1.0)
        steady = now.lr > 0.99 * curve.peak_lr and curve.first_lr > 0.99 * curve.peak_lr
        if not (ended or steady or now.lr < self._lr * curve.peak_lr):
            return
        train = now.mean
        better = 1 - last.accuracy < (1 - self._fewer) * (1 - best.accuracy)
        risen = last.loss > (1 + self._rise) * best.loss and not better
        apart = last.loss > max((1 + self._gap) * train, self._loss * guessing(self.run, curve))
        fitted = train < 0.5 * curve.first
        if risen and apart and fitted:
            yield self.finding(
                f"validation loss is {last.loss:.3g}, its best was {best.loss:.3g} after step "
                f"{best.step}; training loss is {train:.2g}",
                best.step,
                last.step,
                self._shorter(best.step, steady),
                Remedy("vary the images", "augment", "crop-flip"),
                Remedy("decay the weights more", "weight_decay", "0.1"),
                validation=last.loss,
                best=best.loss,
                training=train,
            )
