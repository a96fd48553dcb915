"""What evidence states: an in-toto statement that binds one assessment to one adapted form.

Pure: values to bytes and bytes to values. Nothing here says who stated it; signing and verifying is `envelope`. Whether
the assessment satisfies a policy is for `policy`. The format is described in `FORMAT.md`.

Source: in-toto Attestation Framework, Statement v1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, Field, ValidationError

from registry_gate.assessment import STRICT, Assessment
from registry_gate.errors import EvidenceError, IntegrityError
from registry_gate.form import FORM_TYPE, BaseReference, FileEntry, FormManifest, canonical_json

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

PREDICATE_TYPE = "https://registry-gate.dev/assessment/v1"
"""A name, never fetched. in-toto's vetted `test-result` does not fit: it states a verdict, and evidence holds counts
only, so that one assessment can be decided again under another policy."""

MAX_STATEMENT_BYTES = 16 * 1024 * 1024
"""A form of 50,000 files is stated in less; larger input is refused before it is parsed."""

_DIGEST_PREFIX = "sha256:"


@dataclass(frozen=True, kw_only=True)
class Producer:
    """What made the assessment.

    Args:
        name: Program and role, e.g. `registry-gate worker`.
        version: Its version.
        environment: Versions and devices that the numbers may depend on, e.g. `{"torch": "2.9.0", "device": "cpu"}`.
    """

    name: str
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One assessment, the form it is of, and what made it. The three agree, or the value cannot be made.

    Args:
        name: Where the form was found when it was assessed, e.g. `models:/clinical-triage/7`. For people: evidence
            belongs to the digest, never to this name.
        assessment: What was measured.
        manifest: What was measured on: every file, the base, the settings.
        producer: What measured it.

    Raises:
        IntegrityError: Assessment and manifest are of different forms or name different bases.
    """

    name: str
    assessment: Assessment
    manifest: FormManifest
    producer: Producer

    def __post_init__(self) -> None:
        form = self.manifest.digest
        if self.assessment.form_digest != form:
            raise IntegrityError(
                f"expected an assessment of the form that the manifest lists ({form}), "
                f"got one of {self.assessment.form_digest}: evidence of another form never counts",
                code="subject_mismatch",
            )
        base = None if self.manifest.base is None else self.manifest.base.digest
        if self.assessment.base_digest != base:
            raise IntegrityError(
                f"expected the base that the manifest declares ({base or 'none'}), "
                f"got an assessment beside {self.assessment.base_digest or 'none'}",
                code="base_mismatch",
            )

    @property
    def subject(self) -> str:
        """The form's digest, `sha256:...`."""
        return self.assessment.form_digest

    def to_bytes(self) -> bytes:
        """The canonical bytes to sign. Of a statement that came from outside, keep the bytes that came instead."""
        return canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [
                    {"name": self.name, "digest": {"sha256": self.subject.removeprefix(_DIGEST_PREFIX)}},
                ],
                "predicateType": PREDICATE_TYPE,
                "predicate": {
                    "assessment": self.assessment.to_dict(),
                    "form_type": FORM_TYPE,
                    "manifest": self.manifest.to_dict(),
                    "producer": asdict(self.producer),
                },
            }
        )


class _Wire(BaseModel):
    """Unknown keys are refused, unlike in-toto's parsing rules: a field that we do not know could limit what the
    numbers mean, and a gate that ignores it would fail open. New fields come with a new predicate type."""

    model_config = STRICT


class _DigestSet(_Wire):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Subject(_Wire):
    name: Annotated[str, Field(min_length=1)]
    digest: _DigestSet


class _Manifest(_Wire):
    digest: str
    files: tuple[FileEntry, ...]
    base: BaseReference | None
    settings: dict[str, Any]
    formats: tuple[str, ...]
    remote_code: tuple[str, ...]
    flavor: str


class _Producer(_Wire):
    name: str
    version: str
    environment: dict[str, str]


class _Predicate(_Wire):
    assessment: Assessment
    form_type: Literal["registry-gate/form@1"]
    manifest: _Manifest
    producer: _Producer


class _Statement(_Wire):
    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[_Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[Literal["https://registry-gate.dev/assessment/v1"], Field(alias="predicateType")]
    predicate: _Predicate


def parse_statement(data: bytes) -> Statement:
    """Read a statement strictly. It says nothing about who made it: call `envelope.verify` for anything that counts.

    Args:
        data: The bytes as they were signed.

    Raises:
        EvidenceError: No statement of this type and schema; the message names each field.
        IntegrityError: Subject, assessment and manifest do not agree, or the manifest's digest is not that of its list.
    """
    # (1) JSON without what readers understand differently: duplicate keys, NaN, infinities.
    strict_json(data, "a statement", MAX_STATEMENT_BYTES)

    # (2) The schema, every key known.
    try:
        wire = _Statement.model_validate_json(data)
    except ValidationError as err:
        raise EvidenceError(
            f"expected an in-toto statement of predicate type {PREDICATE_TYPE}, got: {schema_faults(err)}",
            code="statement_schema",
        ) from err
    listed = wire.predicate.manifest
    paths = [entry.path for entry in listed.files]
    if len(set(paths)) != len(paths):
        twice = sorted({path for path in paths if paths.count(path) > 1})
        raise EvidenceError(f"expected each file once in the manifest, got twice: {', '.join(twice)}")

    # (3) The manifest's digest is recomputed from what it lists, never believed.
    manifest = FormManifest(
        files=listed.files,
        base=listed.base,
        settings=listed.settings,
        formats=listed.formats,
        remote_code=listed.remote_code,
        flavor=listed.flavor,
    )
    if listed.digest != manifest.digest:
        raise IntegrityError(
            f"expected manifest digest {manifest.digest} (recomputed from its files, base and settings), "
            f"got {listed.digest}",
            code="manifest_mismatch",
        )

    # (4) The subject is that form. in-toto validation: reject if no subject matches the artifact.
    subject = _DIGEST_PREFIX + wire.subject[0].digest.sha256
    if subject != manifest.digest:
        raise IntegrityError(
            f"expected subject {manifest.digest} (the form that the manifest lists), got {subject}",
            code="subject_mismatch",
        )

    # (5) The assessment is of that form and its base: Statement refuses otherwise.
    return Statement(
        name=wire.subject[0].name,
        assessment=wire.predicate.assessment,
        manifest=manifest,
        producer=Producer(**wire.predicate.producer.model_dump()),
    )


def schema_faults(err: ValidationError, root: str = "statement") -> str:
    """What is wrong with a document, field by field; never its values."""
    return "; ".join(
        f"{'.'.join(str(step) for step in e['loc']) or root}: {e['msg']}"
        for e in err.errors(include_url=False, include_input=False)
    )


def moment_of(text: str, what: str) -> datetime:
    """A moment as statements write it.

    Raises:
        EvidenceError: It is none, or has no zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise EvidenceError(f"expected {what} to be a moment with zone, got {text!r}", code="statement_schema")
    return moment


def strict_json(data: bytes, what: str, max_bytes: int) -> Any:
    """Parse JSON and refuse everything that two readers may understand differently.

    Args:
        data: UTF-8 bytes.
        what: What was expected, for the message: `an envelope`.
        max_bytes: Longer data is refused unread.

    Raises:
        IntegrityError: Too long, not UTF-8, not JSON, a key twice in one object, a number that is not finite.
    """

    def refuse(got: str) -> NoReturn:
        raise IntegrityError(f"expected {what} as JSON, got {got}", code="json_malformed")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            refuse(f"the key {next(key for key in keys if keys.count(key) > 1)!r} twice in one object")
        return found

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            refuse(f"the number {text}, which is not finite")
        return value

    if len(data) > max_bytes:
        refuse(f"{len(data)} bytes, more than the {max_bytes} that are read")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
        # A lone surrogate (`"\ud800"`) is text that no UTF-8 can hold, so it could never be stated again.
        canonical_json(value)
    except UnicodeError as err:
        refuse(f"text that is not UTF-8 ({err.reason})" if isinstance(err, UnicodeDecodeError) else "a lone surrogate")
    except (ValueError, RecursionError) as err:
        refuse(f"something else: {err}")
    return value
