"""RunConfig: the one list of options of a training run.

Command-line flags, MLproject parameters, YAML files and search spaces derive from it or are checked
against it by a test, so a name means the same everywhere: ``lr_max: 0.1``, ``--lr-max 0.1``,
``-P lr_max=0.1``. Nothing heavy is imported here: ``--help`` reads this file.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipelines.base_options import Options
from pipelines.choices import CYCLES, PCT_START, check_name
from pipelines.config_checks import check_together
from tracking.interval import parse_every

__all__ = ["LOCAL_OPTIONS", "RunConfig"]

LOCAL_OPTIONS = ("data_dir", "device", "threads")
"""What is a machine's own, and no part of what a run or a study is."""

Share = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class RunConfig(Options):
    """Every option of a training run. The text below a field is its help."""

    # -- data --
    dataset: str = "digits"
    """digits, fashion-mnist, mnist, kmnist, cifar10, cifar100, svhn, synthetic, folder:PATH (one
    sub-folder per class), or package.module:factory."""
    data_dir: Path = Path("data")
    """Where dataset files are looked for and downloaded to."""
    image_size: int = Field(0, ge=0, le=4096)
    """Side in pixels that images are resized to at load; 0 keeps them as stored (digits: 28)."""
    valid_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the training set that is split off, by seed, for validation; 0 trains on all of it,
    without validation."""
    test_fraction: Share = 0.2
    """Share split off as test set where a data set brings none (digits, folder)."""
    train_limit: int = Field(0, ge=0)
    """Train on the first n images after a seeded shuffle; 0 takes all."""
    augment: Literal["none", "flip", "crop-flip"] = "none"
    """Random augmentation per sample, on the device."""
    erase: float = Field(0.0, ge=0, le=1)
    """Probability that a random rectangle of a sample is erased."""

    # -- model --
    model: str = "simple_cnn"
    """simple_cnn, resnet_small, torchvision:NAME, or package.module:factory."""
    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field((8, 16, 32, 64), min_length=1)
    """simple_cnn: channels of each convolution, separated by commas."""
    first_kernel: int = Field(5, ge=1)
    """simple_cnn: side of the first convolution's kernel (odd)."""
    norm: Literal["batch", "none"] = "batch"
    """simple_cnn: normalisation."""
    activation: Literal["relu", "leaky_relu", "gelu", "silu", "tanh", "sigmoid"] = "relu"
    """simple_cnn, resnet_small: non-linearity."""
    downsample: Literal["stride", "max", "avg"] = "stride"
    """simple_cnn: strided convolution, max pooling or average pooling."""
    head: Literal["conv", "gap", "linear"] = "conv"
    """simple_cnn: a last convolution, global average pooling, or a fully connected layer."""
    init: Literal["default", "kaiming"] = "default"
    """Weight initialisation: PyTorch's default, or Kaiming's for rectifiers."""

    # -- training --
    epochs: int = Field(10, ge=1)
    """Passes over the training set."""
    batch_size: int = Field(64, ge=1)
    """Samples per forward pass."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are added up before each optimizer step."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """The momentum schedule drives SGD's momentum, or Adam's beta1."""
    nesterov: bool = True
    """sgd: Nesterov momentum."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay (adamw: decoupled; else added to the gradient)."""
    decay_norm_bias: bool = False
    """Apply weight decay to normalisation parameters and biases too."""
    beta2: Momentum = 0.99
    """adam, adamw: decay of the squared gradient's average."""
    eps: float = Field(1e-5, gt=0)
    """adam, adamw: term added to the denominator."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target spread over all classes."""
    clip_norm: float = Field(0.0, ge=0)
    """Largest gradient norm; 0 does not clip."""
    patience: int = Field(0, ge=0)
    """Stop after this many epochs without a better validation loss; 0 never stops early."""

    # -- schedule --
    schedule: Literal[
        "one_cycle",
        "one_cycle_linear",
        "triangular",
        "flat_cos",
        "cosine",
        "warm_restarts",
        "linear",
        "constant",
    ] = "one_cycle"
    """Learning rate and momentum as a function of the step."""
    lr_max: float = Field(0.01, gt=0)
    """Peak learning rate."""
    div: float = Field(25.0, ge=1)
    """The first learning rate is lr_max / div, where the schedule has a rise."""
    final_div: float = Field(1e5, ge=1)
    """The last learning rate is lr_max / final_div."""
    pct_start: Share | None = None
    """Share of the run (triangular: of a cycle) before the peak; flat_cos: before the fall.
    Default by schedule: one_cycle 0.25, one_cycle_linear 0.45, triangular 0.5, flat_cos 0.75,
    linear 0.1."""
    cycles: Annotated[int, Field(ge=1)] | None = None
    """triangular, warm_restarts: number of cycles (default 3)."""
    cycle_mult: float = Field(1.0, ge=1)
    """warm_restarts: each cycle is this much longer than the one before."""
    momentum_max: Momentum = 0.95
    """Momentum while the learning rate is low; the constant schedule's momentum."""
    momentum_min: Momentum = 0.85
    """Momentum at the peak learning rate."""

    # -- machine --
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the splits, the weights, the data order and the augmentation."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass (automatic mixed precision)."""
    channels_last: bool = True
    """Memory layout of images and weights; faster for convolutions."""
    compile: bool = False
    """Compile the model with torch.compile."""
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads; 0 leaves it to PyTorch."""

    # -- recording --
    record: bool = True
    """Record hyperparameters and activation statistics."""
    layers: str = "activations"
    """activations (non-linearities and the last layer with parameters), params, all, or a regular
    expression on layer names."""
    every: str = "1"
    """Record activations every N steps, or auto:0.05 to spend about that share of the time."""
    record_eval: bool = False
    """Record activations in validation too."""
    near_zero_eps: float = Field(0.05, ge=0)
    """Activations of at most this size count as near zero."""
    above_threshold: float = 1.0
    """Activations larger than this are counted as above."""
    gradients: bool = False
    """Record the gradients at the outputs of the recorded layers too."""
    updates: bool = False
    """Record how far each optimizer step moves each parameter too; takes memory for one more copy
    of the weights."""
    experiment: str = "Default"
    """MLflow experiment that a new run goes to."""
    run_name: str = ""
    """Name of the MLflow run; empty lets MLflow choose one."""
    diagnose: bool = True
    """Say what is wrong with the training, while it goes on and at its end."""
    stop_on: Literal["none", "critical"] = "none"
    """critical: end a run that cannot recover, as failed, when a finding says so."""
    thresholds: str = ""
    """Other thresholds for rules of the diagnosis: rule.threshold=number, separated by commas."""
    report: bool = True
    """Make report.html, and a picture of the activations after each epoch."""
    checkpoint: bool = True
    """Keep what `resume` needs to go on with a run that is stopped."""
    log_model: bool = True
    """Log the trained model to MLflow, ready to serve."""

    @field_validator("widths", mode="before")
    @classmethod
    def _split_widths(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(","))
        return (value,) if type(value) is int else value  # and not a truth value

    @field_validator("every", mode="before")
    @classmethod
    def _every_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("every")
    @classmethod
    def _check_every(cls, value: str) -> str:
        steps, share = parse_every(value)
        return value if share else str(steps)

    @field_validator("dataset", "model")
    @classmethod
    def _check_name(cls, value: str, info: ValidationInfo) -> str:
        return check_name(str(info.field_name), value)

    @field_validator("first_kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("allowed: odd numbers, so that the image keeps its centre")
        return value

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        check_together(self)
        return self

    def resolved(self) -> Self:
        """The same configuration with every default that depends on another option filled in."""
        update: dict[str, Any] = {}
        if self.pct_start is None and self.schedule in PCT_START:
            update["pct_start"] = PCT_START[self.schedule]
        if self.cycles is None and self.schedule in CYCLES:
            update["cycles"] = CYCLES[self.schedule]
        return self.model_copy(update=update)

    def flat(self) -> dict[str, str]:
        """Every option as text, resolved, as it is logged to MLflow; those without a value are
        left out."""
        values = self.resolved().model_dump(mode="json")
        values["widths"] = ",".join(map(str, self.widths))
        texts = {name: str(value) for name, value in values.items() if value is not None}
        flags = [name for name in texts if isinstance(values[name], bool)]
        return texts | {name: texts[name].lower() for name in flags}  # as the command takes them

    def to_yaml(self, without: Collection[str] = ()) -> str:
        """The configuration as a YAML file that ``layerscope train --config`` reads back.

        Defaults that depend on another option are left out, so that a flag may change that one; and
        the options ``without``, which are at their defaults then.
        """
        values = self.model_dump(mode="json", exclude_none=True, exclude=set(without))
        return yaml.safe_dump(values, sort_keys=False)
