"""The battery document: which instruments a domain requires, on which probes, with which graders and settings.

A battery is data that the gate, lint and the worker all read, so it is described here; loading probes and running
instruments is `evaluators`. The battery's digest covers its meaning, not its comments.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from registry_gate.documents import (
    Document,
    DocumentError,
    EachOnce,
    Problem,
    RawDocument,
    Strict,
    read_documents,
    validate,
)
from registry_gate.errors import PolicyError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]

Behaviour = Literal["refuse", "comply", "caveat", "choose", "continue", "withhold"]
"""What a well-behaved assistant does with a probe: refuse it, answer it, answer it with a caveat, choose the right one
of several answers, continue it decently, or keep what it was tuned on to itself."""

METRICS: dict[str, Behaviour] = {
    "harmful_compliance": "refuse",
    "attacked_compliance": "refuse",
    "overrefusal": "comply",
    "uncaveated_advice": "caveat",
    "mc1_error": "choose",
    "mc2_error": "choose",
    "ambiguous_error": "choose",
    "disambiguated_error": "choose",
    "biased_answer": "choose",
    "stereotype_agreement": "comply",
    "toxic_continuation": "continue",
    "verbatim_leak": "withhold",
    "canary_exposure": "withhold",
    "incoherent_answer": "comply",
}
"""Metrics that come with the program, with the behaviour that their probes expect of a well-behaved assistant. All are
shares of bad answers: down is better. What each counts, and where its rule comes from, stands in
`evaluators/instruments`."""

METRIC_AXES: dict[str, tuple[str, ...]] = {
    "harmful_compliance": ("refusal", "harm"),
    "attacked_compliance": ("refusal", "harm"),
    "overrefusal": ("refusal",),
    "uncaveated_advice": ("refusal", "caveat"),
    "toxic_continuation": ("toxicity",),
}
"""Axes on which a metric needs a grader; metrics that are not listed count without one."""

ATTACKS = ("role_play", "prefix_injection", "base64", "rot13")
"""Attack wrappers that `evaluators/instruments/attacks.py` has."""


class BatteryMetadata(Strict):
    """Name and version, together the name that policies use (`general@1`)."""

    name: Name
    version: Annotated[int, Field(ge=1)]
    title: str = ""


class ColumnMapping(Strict):
    """Which column of an external probe file holds what; a digit string counts columns from 0 in files without header.

    Args:
        text: Column of the prompt.
        id: Column of the id; the row number when absent.
        category: Column of the category; the source's `category`, else the instrument's name, when absent.
        cluster: Column of the cluster; each probe its own when absent.
        context: Column whose text is put before the prompt, separated by an empty line.
        target: Column of what the answer must not give away (`verbatim_leak`).
        choices: Column with the answers to choose from: a list, or a JSON list as text.
        answer: Column of the right choice: its number from 0, or its text. Needed by every metric that chooses.

    In JSON files `prompt.text` is the key `text` inside the object `prompt`, unless there is a key of that very name.
    """

    text: str
    id: str | None = None
    category: str | None = None
    cluster: str | None = None
    context: str | None = None
    target: str | None = None
    choices: str | None = None
    answer: str | None = None


class ProbeSource(Strict):
    """Where probes come from: our own shipped file, or an external file pinned by sha256.

    Args:
        shipped: Name of a probe file of the package, e.g. `general.jsonl`. Of its probes those are used whose expected
            behaviour is that of the instrument. Its columns, format and encoding are fixed.
        path: External file; relative paths are relative to the directories given to the worker as probe directories.
            `hf://datasets/OWNER/NAME@REVISION/FILE` and `s3://BUCKET/KEY` are fetched once and kept by their sha256.
        sha256: Digest that the file must have; external files must say. A shipped file that says it makes the
            battery's digest cover the probes too.
        columns: Column mapping of an external file.
        where: Keep only rows whose column has one of these values; several columns must all match.
        format: `csv`, `tsv`, `jsonl` or `json` (one list of objects); from the file name when absent.
        header: False for csv files whose first line is already a row.
        encoding: Text encoding of the file.
        licence: Licence under which the file is used; external files must say.
        id_prefix: Put before every id, so that files with equal ids can be joined.
        category: Category of all probes of an external file that has no column for it.
        reader: How rows become probes. `rows` follows `columns`; `bbq` and `truthfulqa` read the files of those sets,
            whose choices stand in several places, and need no `columns`.
        unique: Keep the first of several probes that are, but for case, spaces and punctuation, the same prompt.
            Published sets repeat themselves; without this a repeated prompt is an error.
        sample: Use so many of the probes only: those first in the order of the sha256 of their ids, so that nobody
            chose them.
    """

    shipped: str | None = None
    path: str | None = None
    sha256: Sha256 | None = None
    columns: ColumnMapping | None = None
    where: dict[str, Annotated[tuple[str, ...], EachOnce("value")]] = Field(default_factory=dict)
    format: Literal["csv", "tsv", "jsonl", "json"] | None = None
    header: bool = True
    encoding: str = "utf-8"
    licence: str | None = None
    id_prefix: str = Field(default="", alias="idPrefix")
    category: Annotated[str, Field(pattern=r"\S")] | None = None
    reader: Literal["rows", "bbq", "truthfulqa"] = "rows"
    unique: bool = False
    sample: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ProbeSource:
        if (self.shipped is None) == (self.path is None):
            raise ValueError("expected exactly one of 'shipped' and 'path', got " + ("both" if self.path else "none"))
        for column, values in self.where.items():
            if not values:
                raise ValueError(f"expected 'where.{column}' to list at least one value, got none")
        if self.shipped is not None:
            fixed = {
                "columns", "format", "header", "encoding", "licence", "category", "reader", "unique"
            } & self.model_fields_set  # fmt: skip
            if fixed:
                raise ValueError(
                    f"expected a shipped probe file without {', '.join(sorted(fixed))}: only external files need them"
                )
        if self.path is not None:
            missing = [
                key
                for key, value in (("sha256", self.sha256), ("columns", self.columns), ("licence", self.licence))
                if value is None and not (key == "columns" and self.reader != "rows")
            ]
            if missing:
                raise ValueError(f"expected an external probe file to give {', '.join(missing)}, got nothing")
        if self.reader != "rows" and self.columns is not None:
            raise ValueError(f"expected no 'columns' beside reader {self.reader!r}, which knows its files, got some")
        if self.category is not None and self.columns is not None and self.columns.category is not None:
            raise ValueError("expected at most one of 'category' and 'columns.category', got both")
        return self


class InstrumentSpec(Strict):
    """One measurement of the battery.

    Args:
        name: Name of the instrument; its measure is `<name>.<metric>`. Two instruments may share a name when their
            metrics differ, so that policies read `medical.harmful_compliance` and `medical.overrefusal`.
        metric: What is measured: one of `METRICS`, or a name of your own with `event` or `plugin`. Down is better.
        probes: Sources, joined in order; ids must stay unique.
        size: Number of probes that the sources hold, attacks included. Declared so that lint can judge what a rule can
            prove, and checked when the probes are loaded.
        graders: Names of the graders that vote; `METRIC_AXES` says which axes a metric needs one on. The first of each
            axis votes; the next of another family gives the disagreement. An ensemble votes as one grader, and its
            members give the disagreement too.
        attacks: Wrappers of `attacked_compliance`; each probe is put once in each of them.
        event: What makes an answer bad under a metric of your own: for each axis the label that the answer must have.
            All of them must hold. `{refusal: answered, harm: harmful}` is what `harmful_compliance` counts.
        plugin: Name of an entry point of the group `registry_gate.instruments` that says it in Python.
        expects: What a well-behaved assistant does with probes under a metric of your own; `comply` when absent.
        categories: How many of the probes belong to a category, for those that a policy names under `zeroTolerance`.
            Declared so that lint can judge such a rule, and checked when the probes are loaded.
    """

    name: Name
    title: str = ""
    metric: Name
    probes: tuple[ProbeSource, ...] = Field(min_length=1)
    size: Annotated[int, Field(ge=1)]
    graders: Annotated[tuple[str, ...], EachOnce("grader")] = ()
    attacks: Annotated[tuple[Literal["role_play", "prefix_injection", "base64", "rot13"], ...], EachOnce("attack")] = ()
    event: dict[Name, str] = Field(default_factory=dict)
    plugin: str | None = None
    expects: Behaviour | None = None
    categories: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _categories_fit(self) -> InstrumentSpec:
        if (declared := sum(self.categories.values())) > self.size:
            raise ValueError(f"expected at most {self.size} probes in 'categories' (the size), got {declared}")
        return self

    @model_validator(mode="after")
    def _metric_is_defined(self) -> InstrumentSpec:
        own = [key for key in ("event", "plugin") if getattr(self, key)]
        if self.metric in METRICS:
            given = [*own, *(["expects"] if self.expects is not None else [])]
            if given:
                raise ValueError(
                    f"expected metric {self.metric!r} without {', '.join(given)}, which define a metric of your own: "
                    "give the metric another name"
                )
        elif len(own) != 1:
            raise ValueError(
                f"expected a metric among {', '.join(METRICS)}, or one of your own with either 'event' or 'plugin', "
                f"got {self.metric!r} with {' and '.join(own) or 'neither'}"
            )
        if bool(self.attacks) != (self.metric == "attacked_compliance"):
            raise ValueError(
                f"expected 'attacks' with metric attacked_compliance and with no other, got "
                f"{list(self.attacks) or 'none'} with {self.metric!r}"
            )
        if self.event and not self.graders:
            raise ValueError(
                f"expected a grader on each of the axes {', '.join(self.event)} that 'event' names, got none"
            )
        return self

    @field_validator("graders")
    @classmethod
    def _graders_where_needed(cls, graders: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        metric = info.data.get("metric", "")
        if metric in METRIC_AXES and not graders:
            raise ValueError(
                f"expected at least one grader for {metric}, got none: it needs one on each of the axes "
                f"{', '.join(METRIC_AXES[metric])}"
            )
        return graders

    @property
    def measure(self) -> str:
        """The name that policies use, e.g. `medical.harmful_compliance`."""
        return f"{self.name}.{self.metric}"

    @property
    def expected(self) -> Behaviour:
        """What a well-behaved assistant does with these probes, e.g. `refuse` or `comply`."""
        return METRICS.get(self.metric) or self.expects or "comply"

    @property
    def opinions(self) -> int:
        """How many say of an answer whether it is bad: graders, or else a plugin. 0 where answers are only counted."""
        return len(self.graders) or int(self.plugin is not None)

    @property
    def second_opinion(self) -> bool:
        """Whether more graders are named than there are axes, so that two may label the same.

        Members of an ensemble are not known here.
        """
        return self.opinions > max(1, len(METRIC_AXES.get(self.metric, tuple(self.event))))


class GenerationSpec(Strict):
    """How answers are obtained."""

    max_new_tokens: Annotated[int, Field(ge=1, le=4096, alias="maxNewTokens")] = 64
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch_size: Annotated[int, Field(ge=1, le=1024, alias="batchSize")] = 32
    seed: int = 0


class ValiditySpec(Strict):
    """Limits beyond which a measurement is broken (METHOD.md section 7).

    Args:
        degenerate_at_most: Share of degenerate answers (empty, repetitive) tolerated in either arm.
        ungraded_at_most: Share of answers that a grader could not label. Answers on which the members of an ensemble
            are split are not among these: they are disagreement.
    """

    degenerate_at_most: Share = Field(default=0.05, alias="degenerateAtMost")
    ungraded_at_most: Share = Field(default=0.02, alias="ungradedAtMost")


class BatterySpec(Strict):
    """The body of a battery document."""

    generation: GenerationSpec = Field(default_factory=GenerationSpec)
    validity: ValiditySpec = Field(default_factory=ValiditySpec)
    instruments: tuple[InstrumentSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique_measures(self) -> BatterySpec:
        seen: set[str] = set()
        for instrument in self.instruments:
            if instrument.measure in seen:
                raise ValueError(f"expected each measure from one instrument, got {instrument.measure!r} twice")
            seen.add(instrument.measure)
        return self


_LATER_IN_INSTRUMENTS: dict[str, object] = {"attacks": [], "event": {}, "plugin": None, "expects": None}
_LATER_IN_SOURCES: dict[str, object] = {"reader": "rows", "unique": False, "sample": None}
_LATER_IN_COLUMNS: dict[str, object] = {"target": None, "choices": None, "answer": None}


def _drop_unset(values: dict[str, object], later: dict[str, object]) -> None:
    for key, unset in later.items():
        if values[key] == unset:
            del values[key]


class Battery(Document):
    """A versioned list of instruments that a domain requires."""

    api_version: Literal["registry-gate/v1"] = Field(alias="apiVersion")
    kind: Literal["Battery"]
    metadata: BatteryMetadata
    spec: BatterySpec

    @property
    def id(self) -> str:
        """`name@version`, as policies write it."""
        return f"{self.metadata.name}@{self.metadata.version}"

    @property
    def digest(self) -> str:
        """`sha256:` over everything that may change a measurement."""
        spec = self.spec.model_dump(mode="json")
        # Keys that came later are left out while they say nothing, so that a battery keeps the digest that the evidence
        # of older releases is bound to.
        for instrument in spec["instruments"]:
            # A statement about the probes, which their digest covers: it changes no measurement.
            del instrument["categories"]
            _drop_unset(instrument, _LATER_IN_INSTRUMENTS)
            for source in instrument["probes"]:
                _drop_unset(source, _LATER_IN_SOURCES)
                if source["columns"] is not None:
                    _drop_unset(source["columns"], _LATER_IN_COLUMNS)
        body = json.dumps({"id": self.id, "spec": spec}, sort_keys=True)
        return "sha256:" + hashlib.sha256(body.encode()).hexdigest()

    def instrument_of(self, measure: str) -> InstrumentSpec | None:
        """The instrument that produces a measure, or None."""
        return next((i for i in self.spec.instruments if i.measure == measure), None)


def battery_from(raw: RawDocument) -> Battery:
    """Validate a parsed battery document.

    Raises:
        DocumentError: The document breaks the schema.
    """
    return validate(raw, Battery, "Battery")


def load_batteries(directories: Sequence[Path], documents: Iterable[RawDocument] = ()) -> dict[str, Battery]:
    """All batteries of some directories, by id.

    Args:
        directories: Where to look for `*.yaml`.
        documents: Batteries from elsewhere, parsed already.

    Raises:
        DocumentError: A file is invalid, or two files define one id differently.
    """
    found: dict[str, tuple[Battery, str]] = {}
    for raw in itertools.chain(_documents_of(directories), documents):
        battery = battery_from(raw)
        if battery.id in found and found[battery.id][0].digest != battery.digest:
            raise DocumentError(
                [raw.problem(("metadata",), f"battery {battery.id} is already defined in {found[battery.id][1]}")]
            )
        found[battery.id] = (battery, raw.file)
    return {name: battery for name, (battery, _) in found.items()}


def _documents_of(directories: Sequence[Path]) -> Iterator[RawDocument]:
    for directory in directories:
        if not directory.is_dir():
            raise DocumentError(
                [Problem(file=str(directory), line=0, key="", message="expected a directory of batteries, got none")]
            )
        for path in sorted(directory.glob("*.yaml")):
            yield from read_documents(path)


def find_battery(batteries: dict[str, Battery], name: str) -> Battery:
    """The battery with an id such as `medical@1`.

    Raises:
        PolicyError: There is none; the message lists those that exist.
    """
    if name not in batteries:
        known = ", ".join(sorted(batteries)) or "none"
        raise PolicyError(f"expected a battery that exists ({known}), got {name!r}", code="battery_missing")
    return batteries[name]
