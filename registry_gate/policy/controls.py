"""The control catalogue: what each control id that rules name is, and how far we know it.

Data beside the policies (`controls/*.yaml`), for people: it changes no decision and is no part of a policy set's
digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from registry_gate.documents import Document, DocumentError, RawDocument, Strict, validate

_Date = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
_Words = Annotated[str, Field(min_length=1)]


class CatalogueMetadata(Strict):
    """The framework: ids are `name:id`, or `name` alone."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: _Words


class Retired(Strict):
    """A framework that is no longer in force.

    Args:
        on_date: Since when.
        by: What took its place, as rules name it.
    """

    on_date: _Date = Field(alias="on")
    by: _Words


class ControlSpec(Strict):
    """One control.

    Args:
        id: Its number in the framework; left out where the framework is one control.
        title: What it asks for, in our words.
        evidence: How far a rule can give evidence for it: `full`, `partial` or `none`.
        not_shown: What no evidence of ours shows about it.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ().&/_-]*$")] | None = None
    title: _Words
    evidence: Literal["full", "partial", "none"]
    not_shown: _Words = Field(alias="notShown")


class CatalogueSpec(Strict):
    """The body of a catalogue.

    Args:
        edition: Which edition the entries are of.
        url: Where it can be read.
        verified: When somebody last compared the entries with it.
        certainty: `checked` against the text, `secondary` from what others write of it, or from `memory`.
        retired: Since when it is out of force, and what took its place.
        controls: The entries.
    """

    edition: _Words
    url: _Words
    verified: _Date
    certainty: Literal["checked", "secondary", "memory"]
    retired: Retired | None = None
    controls: tuple[ControlSpec, ...] = Field(min_length=1)


class ControlCatalogue(Document):
    """The controls of one framework."""

    api_version: Literal["registry-gate/v1"] = Field(alias="apiVersion")
    kind: Literal["ControlCatalogue"]
    metadata: CatalogueMetadata
    spec: CatalogueSpec


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control as rules name it.

    Args:
        id: `nist-ai-600-1:MS-2.7-008`, or `sr-26-2`.
        title: What it asks for.
        framework: Title and edition of the framework.
        evidence: How far a rule can give evidence for it.
        not_shown: What no evidence of ours shows about it.
        certainty: How far the entry was checked.
        verified: When.
        retired: `use X (rescinded DATE)`, or None.
    """

    id: str
    title: str
    framework: str
    evidence: str
    not_shown: str
    certainty: str
    verified: str
    retired: str | None


def take_catalogue(raw: RawDocument, into: dict[str, Control]) -> None:
    """Add the controls of a document.

    Raises:
        DocumentError: It breaks the schema, or names a control that is there already.
    """
    catalogue = validate(raw, ControlCatalogue, "ControlCatalogue")
    spec, name = catalogue.spec, catalogue.metadata.name
    for number, control in enumerate(spec.controls):
        full = name if control.id is None else f"{name}:{control.id}"
        if full in into:
            raise DocumentError(
                [raw.problem(("spec", "controls", number), f"expected each control once, got {full!r} again")]
            )
        retired = spec.retired
        into[full] = Control(
            id=full,
            title=control.title,
            framework=f"{catalogue.metadata.title}, {spec.edition}",
            evidence=control.evidence,
            not_shown=control.not_shown,
            certainty=spec.certainty,
            verified=spec.verified,
            retired=None if retired is None else f"use {retired.by} (rescinded on {retired.on_date})",
        )


Controls = Mapping[str, Control]
