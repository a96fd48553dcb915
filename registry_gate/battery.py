"""The battery document: which instruments a domain requires, on which probes, with which graders and settings.

A battery is data that the gate, lint and the worker all read, so it is described here; loading probes and running
instruments is `evaluators`. The battery's digest covers its meaning, not its comments.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from registry_gate.documents import Document, DocumentError, Problem, RawDocument, Strict, read_documents, validate
from registry_gate.errors import PolicyError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]

METRICS: dict[str, Literal["refuse", "comply"]] = {"harmful_compliance": "refuse", "overrefusal": "comply"}
"""Metrics that exist, with the behaviour that their probes expect of a well-behaved assistant."""


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
    """

    text: str
    id: str | None = None
    category: str | None = None
    cluster: str | None = None
    context: str | None = None


class ProbeSource(Strict):
    """Where probes come from: our own shipped file, or an external file pinned by sha256.

    Args:
        shipped: Name of a probe file of the package, e.g. `general.jsonl`. Of its probes those are used whose expected
            behaviour is that of the instrument. Its columns, format and encoding are fixed.
        path: External file; relative paths are relative to the directories given to the worker as probe directories.
        sha256: Digest that the file must have; external files must say. A shipped file that says it makes the
            battery's digest cover the probes too.
        columns: Column mapping of an external file.
        where: Keep only rows whose column has one of these values; several columns must all match.
        format: `csv`, `tsv` or `jsonl`; from the file name when absent.
        header: False for csv files whose first line is already a row.
        encoding: Text encoding of the file.
        licence: Licence under which the file is used; external files must say.
        id_prefix: Put before every id, so that files with equal ids can be joined.
        category: Category of all probes of an external file that has no column for it.
    """

    shipped: str | None = None
    path: str | None = None
    sha256: Sha256 | None = None
    columns: ColumnMapping | None = None
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    format: Literal["csv", "tsv", "jsonl"] | None = None
    header: bool = True
    encoding: str = "utf-8"
    licence: str | None = None
    id_prefix: str = Field(default="", alias="idPrefix")
    category: Annotated[str, Field(pattern=r"\S")] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ProbeSource:
        if (self.shipped is None) == (self.path is None):
            raise ValueError("expected exactly one of 'shipped' and 'path', got " + ("both" if self.path else "none"))
        for column, values in self.where.items():
            if not values:
                raise ValueError(f"expected 'where.{column}' to list at least one value, got none")
        if self.shipped is not None:
            fixed = {"columns", "format", "header", "encoding", "licence", "category"} & self.model_fields_set
            if fixed:
                raise ValueError(
                    f"expected a shipped probe file without {', '.join(sorted(fixed))}: only external files need them"
                )
        if self.path is not None:
            missing = [
                key
                for key, value in (("sha256", self.sha256), ("columns", self.columns), ("licence", self.licence))
                if value is None
            ]
            if missing:
                raise ValueError(f"expected an external probe file to give {', '.join(missing)}, got nothing")
        if self.category is not None and self.columns is not None and self.columns.category is not None:
            raise ValueError("expected at most one of 'category' and 'columns.category', got both")
        return self


class InstrumentSpec(Strict):
    """One measurement of the battery.

    Args:
        name: Name of the instrument; its measure is `<name>.<metric>`. Two instruments may share a name when their
            metrics differ, so that policies read `medical.harmful_compliance` and `medical.overrefusal`.
        metric: What is measured. Down is better for both that exist.
        probes: Sources, joined in order; ids must stay unique.
        size: Number of probes that the sources hold. Declared so that lint can judge what a rule can prove, and
            checked when the probes are loaded.
        graders: Names of the graders that vote; `harmful_compliance` needs the axes refusal and harm, `overrefusal`
            the axis refusal. The first of each axis votes; the next of another family gives the disagreement.
    """

    name: Name
    title: str = ""
    metric: Literal["harmful_compliance", "overrefusal"]
    probes: tuple[ProbeSource, ...] = Field(min_length=1)
    size: Annotated[int, Field(ge=1)]
    graders: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_grader_once(self) -> InstrumentSpec:
        for name in self.graders:
            if self.graders.count(name) > 1:
                raise ValueError(f"expected each grader once, got {name!r} {self.graders.count(name)} times")
        return self

    @property
    def measure(self) -> str:
        """The name that policies use, e.g. `medical.harmful_compliance`."""
        return f"{self.name}.{self.metric}"

    @property
    def expected(self) -> Literal["refuse", "comply"]:
        """What a well-behaved assistant does with these probes: `refuse` or `comply`."""
        return METRICS[self.metric]


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
        ungraded_at_most: Share of answers that a grader could not label.
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
        body = json.dumps({"id": self.id, "spec": self.spec.model_dump(mode="json")}, sort_keys=True)
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


def load_batteries(directories: Sequence[Path]) -> dict[str, Battery]:
    """All batteries of some directories, by id.

    Raises:
        DocumentError: A file is invalid, or two files define one id differently.
    """
    found: dict[str, tuple[Battery, str]] = {}
    for directory in directories:
        if not directory.is_dir():
            raise DocumentError(
                [Problem(file=str(directory), line=0, key="", message="expected a directory of batteries, got none")]
            )
        for path in sorted(directory.glob("*.yaml")):
            for raw in read_documents(path):
                battery = battery_from(raw)
                if battery.id in found and found[battery.id][0].digest != battery.digest:
                    raise DocumentError(
                        [
                            raw.problem(
                                ("metadata",), f"battery {battery.id} is already defined in {found[battery.id][1]}"
                            )
                        ]
                    )
                found[battery.id] = (battery, raw.file)
    return {name: battery for name, (battery, _) in found.items()}


def find_battery(batteries: dict[str, Battery], name: str) -> Battery:
    """The battery with an id such as `medical@1`.

    Raises:
        PolicyError: There is none; the message lists those that exist.
    """
    if name not in batteries:
        known = ", ".join(sorted(batteries)) or "none"
        raise PolicyError(f"expected a battery that exists ({known}), got {name!r}", code="battery_missing")
    return batteries[name]
