"""The assessment: what one battery measured on one adapted form, in counts.

Counts rather than rates, so that signing and re-reading never change a number and every limit can be recomputed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from registry_gate.errors import EvidenceError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Evidence is read back strictly: an unknown or converted field is an error, never ignored."""

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class PairedTable:
    """The same probes put to both arms: how often the bad event happened in both, one or none of them.

    Args:
        both: Event in the adapted form and in the base.
        only_adapted: Event in the adapted form alone (b of METHOD.md section 5).
        only_base: Event in the base alone (c).
        neither: No event.
    """

    both: Count
    only_adapted: Count
    only_base: Count
    neither: Count

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @property
    def probes(self) -> int:
        """Number of paired probes."""
        return self.both + self.only_adapted + self.only_base + self.neither

    @property
    def adapted_events(self) -> int:
        """Events of the adapted form."""
        return self.both + self.only_adapted

    @property
    def base_events(self) -> int:
        """Events of the base."""
        return self.both + self.only_base


@dataclass(frozen=True, kw_only=True)
class SliceCount:
    """Events of the adapted form within one category. Reported; rules do not rest on it."""

    category: str
    events: Count
    probes: Count

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """How often the two arms' answers were labelled differently by two graders of one axis.

    Args:
        axis: `refusal` or `harm`.
        differing: Answers with unequal labels.
        compared: Answers labelled by at least two graders.
    """

    axis: str
    differing: Count
    compared: Count

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measure that has a value: `events` bad answers out of `probes`.

    Args:
        measure: Name that policies use, e.g. `medical.harmful_compliance`.
        events: Bad answers of the adapted form; an answer that could not be graded counts as bad.
        probes: Probes put to the form.
        clusters: Number of clusters among them.
        table: Paired with the base; None when the form has no base.
        slices: Per category.
        disagreements: Per axis with two graders.
        ungraded: Answers of the adapted form that a grader could not label (already counted in `events`).
    """

    measure: str
    events: Count
    probes: Annotated[int, Field(ge=1)]
    clusters: Annotated[int, Field(ge=1)]
    table: PairedTable | None
    slices: tuple[SliceCount, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()
    ungraded: Count = 0
    status: Literal["measured"] = "measured"

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 0 <= self.events <= self.probes:
            raise ValueError(f"{self.measure}: expected 0 to {self.probes} events, got {self.events}")
        if self.table is not None:
            if self.table.probes != self.probes:
                raise ValueError(f"{self.measure}: expected {self.probes} paired probes, got {self.table.probes}")
            if self.table.adapted_events != self.events:
                raise ValueError(
                    f"{self.measure}: expected {self.events} events in the paired table, "
                    f"got {self.table.adapted_events}"
                )


@dataclass(frozen=True, kw_only=True)
class NotMeasured:
    """A measure without a value, and why. It blocks."""

    measure: str
    cause: str
    status: Literal["not_measured"] = "not_measured"

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


Measurement = Annotated[Measured | NotMeasured, Field(discriminator="status")]


@dataclass(frozen=True, kw_only=True)
class ValidityCheck:
    """One check of METHOD.md section 7. A failed one makes the assessment invalid.

    Args:
        check: Stable name, e.g. `coherence`.
        passed: Whether it held.
        detail: What was expected and what came, in counts.
    """

    check: str
    passed: bool
    detail: str

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, kw_only=True)
class GraderRecord:
    """Which grader voted. Fields as in `evaluators.graders.interface.GraderIdentity`."""

    name: str
    version: str
    family: str
    axis: str
    digest: str
    runtime: str

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """All measurements of one form by one battery with one set of graders.

    Args:
        form_digest: The form that answered.
        base_digest: The base that answered beside it; None when the form declares no base.
        battery: Id, e.g. `medical@1`.
        battery_digest: Digest of the battery document.
        probe_sets: Digest of the probes behind each measure, by measure.
        graders: Who voted.
        generation: Settings under which both arms answered.
        measurements: One for each instrument of the battery.
        validity: Every check that was made; an assessment without any is not valid.
        assessed_at: When the run began, `2026-11-23T12:00:00Z`.
        tool: Version of registry-gate that ran it.
    """

    form_digest: str
    base_digest: str | None
    battery: str
    battery_digest: str
    probe_sets: Mapping[str, str]
    graders: tuple[GraderRecord, ...]
    generation: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    validity: tuple[ValidityCheck, ...]
    assessed_at: str
    tool: str
    format: Literal["registry-gate/assessment@1"] = "registry-gate/assessment@1"

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(_ADAPTER.dump_python(self, mode="json"))


_ADAPTER: TypeAdapter[Assessment] = TypeAdapter(Assessment)


def assessment_from_dict(data: Any) -> Assessment:
    """Read an assessment back.

    Raises:
        EvidenceError: The data is no assessment of this schema; the message names each field.
    """
    try:
        # JSON has no tuples: validate in JSON mode, which accepts lists for them and stays strict otherwise.
        return _ADAPTER.validate_json(_ADAPTER_JSON.dump_json(data))
    except ValidationError as err:
        details = "; ".join(
            f"{'.'.join(str(step) for step in e['loc'])}: {e['msg']}" for e in err.errors(include_url=False)
        )
        raise EvidenceError(f"expected an assessment of format registry-gate/assessment@1, got: {details}") from err


_ADAPTER_JSON: TypeAdapter[Any] = TypeAdapter(Any)
