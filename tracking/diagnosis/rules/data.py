"""Rules about the data: what goes in, and which answers belong to it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from tracking.diagnosis.evidence import InputFigures, RunContext, Stretch
from tracking.diagnosis.rule import Rule
from tracking.records import Finding, Remedy

__all__ = [
    "ConstantInputs",
    "InputsNotNormalised",
    "LabelsOutOfRange",
    "OneClassBatches",
    "TrainValidOverlap",
]

OUTCOMES = frozenset(
    {
        "constant_predictions",
        "worse_than_chance",
        "loss_not_decreasing",
        "lr_too_low",
        "overfitting",
        "stopped_too_early",
        "high_final_lr",
        "small_batch_norm",
    }
)
LAYERS = frozenset(
    {
        "poor_initialisation",
        "vanishing_start",
        "dead_layer",
        "dead_units",
        "saturated",
        "exploding_activations",
        "vanishing_gradients",
        "exploding_gradients",
        "collapse_cycles",
    }
)
TRAINING = frozenset({"lr_too_high", "short_warm_up", "large_updates", "small_updates"})


class _InputRule(Rule):
    """Counts the looked-at batches that show something."""

    needs = "inputs"

    def __init__(self, run: RunContext, batches: float) -> None:
        super().__init__(run)
        self._needed = batches
        self._count = 0
        self._first: InputFigures | None = None
        self._last: InputFigures | None = None

    def observe(self, stretch: Stretch) -> None:
        for one in stretch.inputs:
            if self._shows(one):
                self._first, self._last = self._first or one, one
                self._count += 1

    def findings(self, ended: bool) -> Iterator[Finding]:
        if self._first is not None and self._last is not None and self._count >= self._needed:
            yield self._tell(self._first, self._last)

    @abstractmethod
    def _shows(self, one: InputFigures) -> bool:
        """Whether it shows what the rule is about."""

    @abstractmethod
    def _tell(self, first: InputFigures, last: InputFigures) -> Finding:
        """The finding that such batches make."""


class ConstantInputs(_InputRule):
    """Samples without any content: all their values are the same.

    ``share``: of a batch's samples; ``batches``: looked-at batches that must show it.
    """

    name = "constant_inputs"
    severity = "critical"
    cause = "The images are blank as the model gets them: wrong files, or a preparation that wipes."
    explains = OUTCOMES | LAYERS | TRAINING

    def __init__(self, run: RunContext, *, share: float = 0.5, batches: float = 2) -> None:
        super().__init__(run, batches)
        self._share = share

    def _shows(self, one: InputFigures) -> bool:
        return one.constant >= self._share

    def _tell(self, first: InputFigures, last: InputFigures) -> Finding:
        return self.finding(
            f"{last.constant:.0%} of the images in a batch are blank",
            first.step,
            last.step,
            Remedy("look at what the loader gives, and at the files it reads", "dataset"),
            constant=last.constant,
        )


class InputsNotNormalised(_InputRule):
    """Inputs whose mean is far from 0, or whose scale is far from 1.

    ``mean``: largest distance from 0, in units of a deviation of 1; ``low``, ``high``: bounds of
    the standard deviation; ``batches``: looked-at batches that must show it.
    """

    name = "inputs_not_normalised"
    severity = "warning"
    cause = (
        "Weights are drawn for inputs around 0 with a scale of 1; others make the first layer's "
        "outputs too large or too small, and its gradients badly conditioned."
    )
    explains = OUTCOMES | LAYERS | TRAINING

    def __init__(
        self,
        run: RunContext,
        *,
        mean: float = 1.5,
        low: float = 0.2,
        high: float = 4.0,
        batches: float = 2,
    ) -> None:
        super().__init__(run, batches)
        self._mean, self._low, self._high = mean, low, high

    def _shows(self, one: InputFigures) -> bool:
        # Blank images are another matter, and those beyond float32's reach yet another.
        if one.constant > 0.5 or one.nonfinite:
            return False
        return abs(one.mean) > self._mean or not self._low <= one.std <= self._high

    def _tell(self, first: InputFigures, last: InputFigures) -> Finding:
        return self.finding(
            f"the inputs have mean {last.mean:.3g} and standard deviation {last.std:.3g}",
            first.step,
            last.step,
            Remedy("subtract the training set's mean and divide by its deviation", "dataset"),
            Remedy("let batch normalisation do it", "norm", "batch"),
            mean=last.mean,
            std=last.std,
        )


class LabelsOutOfRange(_InputRule):
    """Labels below 0, or beyond the model's classes."""

    name = "labels_out_of_range"
    severity = "critical"
    cause = "Labels do not fit the model's outputs, so the loss has no meaning."
    explains = OUTCOMES

    def __init__(self, run: RunContext) -> None:
        super().__init__(run, 1)

    def _shows(self, one: InputFigures) -> bool:
        classes = self.run.classes
        if not one.classes or classes is None:
            return False
        return one.lowest_label < 0 or one.highest_label >= classes

    def _tell(self, first: InputFigures, last: InputFigures) -> Finding:
        return self.finding(
            f"labels go from {first.lowest_label} to {first.highest_label}; "
            f"the model has {self.run.classes} outputs",
            first.step,
            last.step,
            Remedy("number the classes from 0, and give the model an output for each", "dataset"),
            lowest=first.lowest_label,
            highest=first.highest_label,
        )


class OneClassBatches(_InputRule):
    """Batches whose samples are all of one class.

    ``samples``: smallest batch that is looked at; ``batches``: looked-at batches that must show it.
    """

    name = "one_class_batches"
    severity = "warning"
    cause = "Each step pulls the network towards one answer; the next batch pulls it elsewhere."
    explains = OUTCOMES | LAYERS | TRAINING

    def __init__(self, run: RunContext, *, samples: float = 6, batches: float = 3) -> None:
        super().__init__(run, batches)
        self._samples = samples

    def _shows(self, one: InputFigures) -> bool:
        return one.classes == 1 and one.samples >= self._samples

    def _tell(self, first: InputFigures, last: InputFigures) -> Finding:
        return self.finding(
            f"all images of a batch are of class {last.lowest_label}",
            first.step,
            last.step,
            Remedy("shuffle the training data before each epoch", "dataset"),
            label=last.lowest_label,
        )


class TrainValidOverlap(Rule):
    """Validation images that are training images too. ``share``: of the validation images."""

    name = "train_valid_overlap"
    severity = "warning"
    needs = "data"
    cause = "Validation measures what was learned by heart, so its figures are too good."

    def __init__(self, run: RunContext, *, share: float = 0.02) -> None:
        super().__init__(run)
        self._share = share

    def findings(self, ended: bool) -> Iterator[Finding]:
        data = self.run.data
        if data is not None and data.overlap and data.overlap >= self._share * data.valid:
            yield self.finding(
                f"{data.overlap:,} of {data.valid:,} validation images are training images too",
                0,
                0,
                Remedy("remove duplicates before the data is split", "dataset"),
                overlap=data.overlap,
                valid=data.valid,
            )
