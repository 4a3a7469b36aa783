"""StudyDefinition: all that a study is, as it stands in its storage for whoever works on it."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipelines.config import LOCAL_OPTIONS, RunConfig
from search.config import MLFLOW_OPTIONS, RUNNING_OPTIONS, CompareConfig, StudyConfig
from search.space.compared import Compared
from search.space.search_space import Range, SearchSpace
from tracking.errors import BadOption, BadTracking

if TYPE_CHECKING:
    from optuna import Study, Trial

__all__ = [
    "DEFINITION",
    "MLFLOW_RUN",
    "StudyDefinition",
    "comparison_definition",
    "refuse_comparison",
]

DEFINITION = "layerscope.definition"
MLFLOW_RUN = "layerscope.mlflow_run_id"
VERSION = 1

MAY_DIFFER = (*RUNNING_OPTIONS, *LOCAL_OPTIONS, *MLFLOW_OPTIONS)
"""From one command to the next."""


@dataclass(frozen=True)
class StudyDefinition:
    """The runs' common options, the study's own, and the space."""

    base: RunConfig
    """With this machine's own options (LOCAL_OPTIONS), which are not stored."""
    options: StudyConfig
    space: SearchSpace
    """As it was given."""
    prior: float | None = None
    """The range test's learning rate, around which the space is searched."""
    compared: Compared | None = None
    """In place of a space, what a comparison compares."""

    @property
    def searched(self) -> SearchSpace:
        """The space that trials are drawn from."""
        return self.space if self.prior is None else self.space.centred(self.prior)

    def check(self) -> None:
        """Raises BadOption: options that do not go together, or a space that cannot be searched."""
        if not self.options.name:
            raise BadOption("name is missing; give the study one: --name NAME")
        if self.base.patience and self.compared is None:
            raise BadOption(
                f"patience={self.base.patience}: a study's trials are judged at equal numbers of "
                "samples seen, so none may stop early; leave patience at 0"
            )
        if not self.base.valid_fraction:
            what = "a study needs validation data to judge its trials by"
            if self.compared is not None:
                what = "a comparison needs validation data"
            raise BadOption(f"valid_fraction=0: {what}")
        if self.compared is not None:
            self.compared.check(self.base)
            return
        self.space.check(self.base)
        lr_max = self.space.dimensions.get("lr_max")
        if self.options.lr_prior and not (isinstance(lr_max, Range) and lr_max.log):
            raise BadOption(
                "lr_prior=True: centres a log range of lr_max, and the space has none; give one, "
                "such as lr_max=log:1e-3:1, or leave lr_prior out"
            )
        if self.grid_size and self.options.trials > self.grid_size:
            raise BadOption(
                f"trials={self.options.trials}: the grid has {self.grid_size} combinations; "
                "without --trials each is tried once"
            )

    @property
    def grid_size(self) -> int:
        """How many trials try everything once; 0 where another sampler chooses."""
        if self.options.sampler != "grid":
            return 0
        return math.prod(len(values) for values in self.space.grid(self.base).values())

    def whole_grid(self) -> StudyDefinition:
        """The same with as many trials as its grid has combinations, where it has a grid."""
        if not self.grid_size:
            return self
        return replace(self, options=self.options.model_copy(update={"trials": self.grid_size}))

    def config(self, trial: Trial) -> tuple[RunConfig, dict[str, Any]]:
        """A trial's configuration, and the options that are its own.

        Raises BadOption: the values that were drawn do not go together.
        """
        source = self.compared or self.searched
        own = source.suggest(trial, self.base)
        return self.with_options(own), own

    def with_options(self, own: Mapping[str, Any]) -> RunConfig:
        """The base configuration with a trial's options."""
        from pipelines.options import config_from

        # A trial leaves pictures and tables; reports and models of all of them would be too much.
        nothing = dict.fromkeys(("report", "checkpoint", "log_model"), False)
        plain = {**nothing, "stop_on": "none", "run_name": ""}
        return config_from(RunConfig, self.base.model_dump() | plain | dict(own))

    @property
    def local(self) -> dict[str, Any]:
        """What is this machine's own."""
        return {name: getattr(self.base, name) for name in LOCAL_OPTIONS}

    def on_this_machine(self, given: Mapping[str, Any]) -> StudyDefinition:
        """The same with a machine's own options, where some are given."""
        from pipelines.options import config_from

        local = {name: given[name] for name in LOCAL_OPTIONS if name in given}
        base = config_from(RunConfig, self.base.model_dump() | local)
        return replace(self, base=base)

    def to_json(self) -> str:
        """For the study's user attribute: what is the same on every machine."""
        return json.dumps(
            {
                "version": VERSION,
                "config": self.base.model_dump(mode="json", exclude=set(LOCAL_OPTIONS)),
                "study": self.options.model_dump(mode="json"),
                "space": self.space.to_dict(),
                "prior": self.prior,
                "compared": None if self.compared is None else self.compared.to_dict(),
            }
        )

    @classmethod
    def of(cls, study: Study) -> StudyDefinition:
        """The definition of a stored study; what is a machine's own is at its default.

        Raises BadTracking: it has none that can be read.
        """
        text = study.user_attrs.get(DEFINITION)
        if text is None:
            raise BadTracking(
                f"study {study.study_name!r} was not made by layerscope; choose another --name"
            )
        try:
            value = json.loads(text)
            if value["version"] != VERSION:
                raise ValueError
            # Earlier versions stored those of the machine that ran the study last, too.
            base = {k: v for k, v in value["config"].items() if k not in LOCAL_OPTIONS}
            return cls(
                RunConfig.model_validate(base),
                StudyConfig.model_validate(value["study"]),
                SearchSpace.from_dict(value["space"]),
                value["prior"],
                Compared.from_dict(compared) if (compared := value.get("compared")) else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError, BadOption) as error:
            raise BadTracking(
                f"study {study.study_name!r}: its definition is that of another version of "
                f"layerscope ({type(error).__name__}); choose another --name"
            ) from None

    def differences(self, other: StudyDefinition, given: Collection[str]) -> list[str]:
        """What this command gives and the stored study has otherwise, a line each.

        ``given``: names of the options of the command; ``space`` where it gives a space.
        """
        lines = []
        for mine, stored in ((self.options, other.options), (self.base, other.base)):
            for name in type(mine).model_fields:
                here, there = getattr(mine, name), getattr(stored, name)
                if name in given and name not in MAY_DIFFER and here != there:
                    lines.append(f"{name}: {here} here, {there} in the study")
        if self.compared is not None:
            lines += self.compared.differences(other.compared)
        if "space" in given:
            # Their lr_scaling is the option of that name, which was looked at above.
            space = replace(self.space, lr_scaling=other.space.lr_scaling)
            lines += space.differences(other.space)
        return lines


def comparison_definition(
    options: CompareConfig, base: RunConfig, given: Collection[str]
) -> StudyDefinition:
    """A comparison as a study whose trials are trained to their end, whatever they come to.

    ``given``: names of the options that the command was given. Raises BadOption: the factor or a
    value cannot be compared, or the factor is given as an option too.
    """
    compared = Compared.read(options.factor, options.values, options.lr_scaling)
    if compared.factor in given:
        raise BadOption(
            f"{compared.factor} is the factor, and given as an option too; its values are those of "
            f"--values, so leave {compared.flag} out"
        )
    compared.check_seeds(base.seed, options.seeds)
    same = (*LOCAL_OPTIONS, *MLFLOW_OPTIONS)
    study = StudyConfig(
        name=options.name.strip() or compared.name(base, options.objective, same),
        trials=len(compared.values) * options.seeds,
        workers=options.workers,
        objective=options.objective,
        heartbeat=options.heartbeat,
        sampler="random",
        pruner="none",
        rung="none",
        health="none",
    )
    return StudyDefinition(base, study, SearchSpace({}), compared=compared)


def refuse_comparison(definition: StudyDefinition, advice: str) -> None:
    """Raise BadOption where a study is a comparison, which has no best trial."""
    if definition.compared is not None:
        raise BadOption(
            f"{definition.options.name!r} is a comparison of {definition.compared.factor}, and no "
            f"search; {advice}"
        )
