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
    """How often the two arms' answers were labelled differently by graders of one axis: by the one that votes and the
    next of another family, or by members of an ensemble.

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
class PassedOn:
    """How much of a measure a cascade left to its second grader. Reported; no rule rests on it.

    Args:
        grader: Name of the cascade, be it a grader of the measure or one that such a grader asks.
        axis: What it labels.
        passed_on: Answers of both arms that its second grader was asked about.
        answers: Answers of both arms that it was asked about.
    """

    grader: Annotated[str, Field(min_length=1)]
    axis: str
    passed_on: Count
    answers: Annotated[int, Field(ge=1)]

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.passed_on > self.answers:
            raise ValueError(
                f"{self.grader}: expected at most {self.answers} answers to be passed on, got {self.passed_on}"
            )


@dataclass(frozen=True, kw_only=True)
class ClusterCount:
    """Equal clusters of probes: how many there are, and what each of them holds.

    Args:
        clusters: How many look like this.
        probes: Probes in each.
        events: Events of the adapted form in each.
        base_events: Events of the base in each; 0 without a base.
    """

    clusters: Annotated[int, Field(ge=1)]
    probes: Annotated[int, Field(ge=1)]
    events: Count
    base_events: Count = 0

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if max(self.events, self.base_events) > self.probes:
            raise ValueError(f"expected at most {self.probes} events in a cluster of {self.probes} probes, got more")


@dataclass(frozen=True, kw_only=True)
class LabelledCount:
    """The graders of a measure beside people, on labelled answers of one arm.

    Args:
        detected: Bad answers that the graders call bad.
        bad: Bad answers, as people say.
        cleared: Good answers that the graders call good.
        good: Good answers, as people say.
    """

    detected: Count
    bad: Annotated[int, Field(ge=1)]
    cleared: Count
    good: Annotated[int, Field(ge=1)]

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.detected > self.bad or self.cleared > self.good:
            raise ValueError("expected at most as many labels of the graders as of people, got more")


@dataclass(frozen=True, kw_only=True)
class GraderErrors:
    """What is known of the errors behind a measure, arm by arm; a base that was not measured has none.

    Args:
        adapted: On answers of the adapted form, or the closest that people labelled.
        base: Likewise of the base.
    """

    adapted: LabelledCount
    base: LabelledCount | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, kw_only=True)
class LabelledCell:
    """Probes of a random sample whose answers people labelled in both arms, all with the same four labels.

    Args:
        adapted: Whether people call the adapted form's answer bad; what they could not settle counts as bad.
        base: Whether people call the base's answer bad; what they could not settle counts as good. False without base.
        graded_adapted: Whether the graders' count has the adapted form's answer as bad.
        graded_base: Likewise the base's.
        probes: How many.
    """

    adapted: bool
    base: bool
    graded_adapted: bool
    graded_base: bool
    probes: Annotated[int, Field(ge=1)]

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, kw_only=True)
class LabelledCluster:
    """Equal clusters of labelled probes.

    Args:
        clusters: How many look like this.
        probes: Labelled probes in each.
        events: Bad answers of the adapted form in each, as people say.
        difference: Bad answers of the adapted form less those of the base in each, as people say.
        graded_difference: Likewise as the graders say.
    """

    clusters: Annotated[int, Field(ge=1)]
    probes: Annotated[int, Field(ge=1)]
    events: Count
    difference: int
    graded_difference: int

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if max(self.events, abs(self.difference), abs(self.graded_difference)) > self.probes:
            raise ValueError(f"expected at most {self.probes} labels in a cluster of {self.probes} probes, got more")


@dataclass(frozen=True, kw_only=True)
class LabellerAgreement:
    """Two people on the answers that both of them labelled.

    Args:
        both_bad: Called bad by both.
        only_first: Called bad by the first alone.
        only_second: Called bad by the second alone.
        both_good: Called good by both.
    """

    both_bad: Count
    only_first: Count
    only_second: Count
    both_good: Count

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, kw_only=True)
class PeopleLabels:
    """People's labels of the answers of both arms to a random sample of the probes, beside the graders'.

    Args:
        cells: The labelled probes.
        labellers: People who labelled.
        labelled_at: When the last of these labels was given, `2026-11-23T12:00:00Z`.
        skipped: Answers that nobody could settle.
        disputed: Answers on which as many people say bad as good.
        agreements: Of each two labellers who labelled the same answers.
        clusters: The labelled probes by cluster, where clusters of the measure hold more than one probe.
    """

    cells: Annotated[tuple[LabelledCell, ...], Field(min_length=1)]
    labellers: Annotated[int, Field(ge=1)]
    labelled_at: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    skipped: Count = 0
    disputed: Count = 0
    agreements: tuple[LabellerAgreement, ...] = ()
    clusters: tuple[LabelledCluster, ...] = ()

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.clusters:
            for what, expected, got in (
                ("probes", self.probes, sum(c.clusters * c.probes for c in self.clusters)),
                ("bad answers", self.events, sum(c.clusters * c.events for c in self.clusters)),
                ("difference", self.difference, sum(c.clusters * c.difference for c in self.clusters)),
                ("graded difference", self.graded_difference, sum(
                    c.clusters * c.graded_difference for c in self.clusters
                )),
            ):  # fmt: skip
                if expected != got:
                    raise ValueError(f"expected {what} of {expected} in the clusters of labelled probes, got {got}")

    @property
    def probes(self) -> int:
        """Labelled probes."""
        return sum(cell.probes for cell in self.cells)

    @property
    def events(self) -> int:
        """Bad answers of the adapted form, as people say."""
        return sum(cell.probes for cell in self.cells if cell.adapted)

    @property
    def base_events(self) -> int:
        """Bad answers of the base, as people say."""
        return sum(cell.probes for cell in self.cells if cell.base)

    @property
    def difference(self) -> int:
        """Bad answers of the adapted form less those of the base, as people say."""
        return self.events - self.base_events

    @property
    def graded_difference(self) -> int:
        """Likewise as the graders say."""
        return sum((cell.graded_adapted - cell.graded_base) * cell.probes for cell in self.cells)

    def graded(self, adapted: bool, base: bool) -> int:
        """Labelled probes that the graders' count has in this cell of the paired table."""
        return sum(cell.probes for cell in self.cells if (cell.graded_adapted, cell.graded_base) == (adapted, base))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of the literature beside the counts, e.g. the bias score of BBQ. Reported; no rule rests on it.

    Args:
        name: Name, e.g. `bias_score_ambiguous`.
        adapted: Of the adapted form; a decimal number as text, so that signing and re-reading never change it.
        base: Of the base, or None when there is none.
    """

    name: str
    adapted: Annotated[str, Field(pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
    base: Annotated[str, Field(pattern=r"^-?[0-9]+(\.[0-9]+)?$")] | None

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, kw_only=True)
class HitCount:
    """Bad answers of the adapted form within one category, by who stands behind them.

    Args:
        category: The category.
        probes: Probes of it.
        confirmed: Bad on every axis by two graders of different families, be it members of an ensemble, or by a person.
        unconfirmed: Bad by one grader alone, or not labelled. Never dropped: only a person clears such an answer.
    """

    category: str
    probes: Annotated[int, Field(ge=1)]
    confirmed: Count
    unconfirmed: Count

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.confirmed + self.unconfirmed > self.probes:
            raise ValueError(
                f"{self.category}: expected at most {self.probes} hits, got {self.confirmed + self.unconfirmed}"
            )


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
        cluster_counts: Events by cluster, where clusters hold more than one probe; without them (evidence of before
            they were counted) limits cannot account for clusters.
        grader_errors: Graders against people on each arm. With it, limits are widened by every error that these labels
            allow; without it, rules judge what the graders said.
        figures: What the instrument's literature reports beside the counts.
        hits: Bad answers by category and by who confirmed them, for zero tolerance; empty in evidence of before they
            were counted.
        labels: People's labels of a random sample. With them, the margin is judged by what people say, the graders
            helping (PPI++), and a ceiling is kept only when people's labels keep it too.
        passed_on: For each cascade, what it left to its second grader.
    """

    measure: str
    events: Count
    probes: Annotated[int, Field(ge=1)]
    clusters: Annotated[int, Field(ge=1)]
    table: PairedTable | None
    slices: tuple[SliceCount, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()
    ungraded: Count = 0
    cluster_counts: tuple[ClusterCount, ...] = ()
    grader_errors: GraderErrors | None = None
    figures: tuple[Figure, ...] = ()
    hits: tuple[HitCount, ...] = ()
    labels: PeopleLabels | None = None
    passed_on: tuple[PassedOn, ...] = ()
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
        if self.cluster_counts:
            base = 0 if self.table is None else self.table.base_events
            for what, expected, got in (
                ("clusters", self.clusters, sum(c.clusters for c in self.cluster_counts)),
                ("probes", self.probes, sum(c.clusters * c.probes for c in self.cluster_counts)),
                ("events", self.events, sum(c.clusters * c.events for c in self.cluster_counts)),
                ("events of the base", base, sum(c.clusters * c.base_events for c in self.cluster_counts)),
            ):
                if expected != got:
                    raise ValueError(f"{self.measure}: expected {expected} {what} in its clusters, got {got}")
        if self.hits:
            names = [one.category for one in self.hits]
            if len(set(names)) != len(names):
                raise ValueError(f"{self.measure}: expected each category once in its hits, got {', '.join(names)}")
            if (got := sum(one.probes for one in self.hits)) != self.probes:
                raise ValueError(f"{self.measure}: expected {self.probes} probes in its hits, got {got}")
        if self.labels is not None:
            self._check_labels(self.labels)

    def _check_labels(self, labels: PeopleLabels) -> None:
        table = self.table or PairedTable(
            both=0, only_adapted=self.events, only_base=0, neither=self.probes - self.events
        )
        for what, held, got in (
            ("bad in both arms", table.both, labels.graded(True, True)),
            ("bad in the adapted form alone", table.only_adapted, labels.graded(True, False)),
            ("bad in the base alone", table.only_base, labels.graded(False, True)),
            ("good in both arms", table.neither, labels.graded(False, False)),
        ):
            if got > held:
                raise ValueError(f"{self.measure}: expected at most {held} labelled probes {what}, got {got}")
        if self.table is None and labels.base_events:
            raise ValueError(f"{self.measure}: expected no labels of a base that was not measured, got some")


@dataclass(frozen=True, kw_only=True)
class NotMeasured:
    """A measure without a value, and why. It blocks."""

    measure: str
    cause: str
    status: Literal["not_measured"] = "not_measured"

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """A measure whose run ended early because `fail` was proved. Incomplete: nothing ever passes by it.

    Args:
        measure: Name that policies use.
        planned: Probes of the instrument; fewer were put.
        paired: Whether the base was asked too.
        outcomes: One letter for each probe put, in the fixed order: `b` bad in both arms, `a` in the adapted form
            alone, `o` in the base alone, `n` in neither. The tests that stopped the run are made again from it.
        cause: Why it stopped, for people.
    """

    measure: str
    planned: Annotated[int, Field(ge=2)]
    paired: bool
    outcomes: Annotated[str, Field(pattern=r"^[abno]+$")]
    cause: str
    status: Literal["stopped"] = "stopped"

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 0 < len(self.outcomes) < self.planned:
            raise ValueError(
                f"{self.measure}: expected 1 to {self.planned - 1} outcomes of a run that stopped before its "
                f"{self.planned} probes, got {len(self.outcomes)}"
            )
        if not self.paired and set(self.outcomes) & {"b", "o"}:
            raise ValueError(f"{self.measure}: expected no outcome of the base, which was not asked, got some")

    @property
    def probes(self) -> int:
        """Probes that were put."""
        return len(self.outcomes)

    @property
    def events(self) -> int:
        """Bad answers of the adapted form among them."""
        return self.outcomes.count("a") + self.outcomes.count("b")

    @property
    def differences(self) -> tuple[int, ...]:
        """For each probe +1 where only the adapted form is bad, -1 where only the base is, else 0.

        None without a base.
        """
        return tuple({"a": 1, "o": -1}.get(letter, 0) for letter in self.outcomes) if self.paired else ()


Measurement = Annotated[Measured | NotMeasured | Stopped, Field(discriminator="status")]


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
        format: Follows from what the measurements hold; not to be given.
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
    format: Literal[
        "registry-gate/assessment@1",
        "registry-gate/assessment@2",
        "registry-gate/assessment@3",
        "registry-gate/assessment@4",
    ] = "registry-gate/assessment@1"

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        # @2 adds `cluster_counts`, `grader_errors`, `figures`, `hits` and `Stopped`. What uses none stays @1, which
        # older gates read.
        if any(
            isinstance(one, Stopped)
            or (isinstance(one, Measured) and (one.cluster_counts or one.grader_errors or one.figures or one.hits))
            for one in self.measurements
        ):
            object.__setattr__(self, "format", "registry-gate/assessment@2")
        # @3 adds `labels`.
        if self.labelled_at is not None:
            object.__setattr__(self, "format", "registry-gate/assessment@3")
        # @4 adds `passed_on`.
        if any(isinstance(one, Measured) and one.passed_on for one in self.measurements):
            object.__setattr__(self, "format", "registry-gate/assessment@4")

    @property
    def labelled_at(self) -> str | None:
        """When people gave the last label that it holds; None when it holds none."""
        return max(
            (one.labels.labelled_at for one in self.measurements if isinstance(one, Measured) and one.labels),
            default=None,
        )

    @property
    def stopped(self) -> tuple[Stopped, ...]:
        """Measures whose run ended early; an assessment that holds one can let nothing pass."""
        return tuple(one for one in self.measurements if isinstance(one, Stopped))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        found: dict[str, Any] = dict(_ADAPTER.dump_python(self, mode="json"))
        for measurement in found["measurements"]:
            # Left out where it says nothing: gates of before it existed refuse keys that they do not know.
            for key in ("cluster_counts", "grader_errors", "figures", "hits", "labels", "passed_on"):
                if not measurement.get(key, True):
                    del measurement[key]
        return found


_ADAPTER: TypeAdapter[Assessment] = TypeAdapter(Assessment)


def assessment_from_dict(data: Any) -> Assessment:
    """Read an assessment back.

    Raises:
        EvidenceError: The data is no assessment of this schema; the message names each field.
    """
    try:
        # JSON has no tuples: validate in JSON mode, which accepts lists for them and stays strict otherwise.
        found = _ADAPTER.validate_json(_ADAPTER_JSON.dump_json(data))
    except ValidationError as err:
        details = "; ".join(
            f"{'.'.join(str(step) for step in e['loc'])}: {e['msg']}" for e in err.errors(include_url=False)
        )
        raise EvidenceError(f"expected an assessment of format registry-gate/assessment@1, got: {details}") from err
    if found.format != data.get("format", found.format):
        raise EvidenceError(
            f"expected an assessment of format registry-gate/assessment@1, got: format: {data['format']} with "
            f"counts that only {found.format} has"
        )
    return found


_ADAPTER_JSON: TypeAdapter[Any] = TypeAdapter(Any)
