"""What a grader was shown to do: an in-toto statement about one grader digest, signed by whoever measured it.

Counts by source, never verdicts: whether they admit the grader is decided when it is asked (`statistics.admission`).
The format is in `FORMAT.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from registry_gate.assessment import STRICT
from registry_gate.errors import EvidenceError
from registry_gate.evidence.envelope import envelope_digest, open_envelope, seal
from registry_gate.evidence.keys import DecisionSigner
from registry_gate.evidence.statement import (
    MAX_STATEMENT_BYTES,
    STATEMENT_TYPE,
    moment_of,
    schema_faults,
    strict_json,
)
from registry_gate.form import canonical_json
from registry_gate.statistics.admission import Calibration, CascadeCounts, MemberCounts, RewordedCounts, SourceCounts
from registry_gate.statistics.agreement import Confusion

CALIBRATION_TYPE = "https://registry-gate.dev/calibration/v1"
"""A name, never fetched."""

COMPOSED_TYPE = "https://registry-gate.dev/calibration/v2"
"""Of a calibration that says what gates of before do not know: how the graders of a cascade or an ensemble fare, or
whether a judge's labels hang on the wording of its question."""

_PREFIX = "sha256:"


@dataclass(frozen=True, kw_only=True)
class VerifiedCalibration:
    """A calibration whose signature verified, by whom, and the digest of its envelope."""

    calibration: Calibration
    signers: tuple[str, ...]
    digest: str


def sign_calibration(calibration: Calibration, signer: DecisionSigner) -> bytes:
    """The envelope of a calibration.

    Raises:
        EvidenceError: It would not be accepted when read back; nothing was signed.
    """
    predicate = {
        "name": calibration.name,
        "version": calibration.version,
        "axis": calibration.axis,
        "runtime": calibration.runtime,
        "data": {"name": calibration.data, "sha256": calibration.data_sha256},
        "sources": {
            source: {
                "true_positive": counts.table.true_positive,
                "false_positive": counts.table.false_positive,
                "false_negative": counts.table.false_negative,
                "true_negative": counts.table.true_negative,
                "not_graded": counts.not_graded,
                "kappa_lower": counts.kappa_lower,
                **_composed(counts),
            }
            for source, counts in calibration.sources.items()
        },
        "calibrated_at": calibration.calibrated_at.astimezone(UTC).isoformat(),
    }
    payload = canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": "grader", "digest": {"sha256": calibration.grader.removeprefix(_PREFIX)}}],
            "predicateType": COMPOSED_TYPE if any(map(_composed, calibration.sources.values())) else CALIBRATION_TYPE,
            "predicate": predicate,
        }
    )
    _parse(payload)
    return seal(payload, signer)


def _composed(counts: SourceCounts) -> dict[str, Any]:
    """What is said of some kinds of graders, and nothing of others."""
    found: dict[str, Any] = {}
    if counts.cascade is not None:
        found["cascade"] = {
            "passed_on": counts.cascade.passed_on,
            "same_as_full": counts.cascade.same,
            "full": {**vars(counts.cascade.table), "not_graded": counts.cascade.not_graded},
        }
    if counts.members is not None:
        found["members"] = vars(counts.members)
    if counts.reworded is not None:
        found["reworded"] = vars(counts.reworded)
    return found


def verify_calibration(envelope: bytes, keys: Mapping[str, bytes]) -> VerifiedCalibration:
    """The calibration that an envelope holds.

    Args:
        envelope: The bytes.
        keys: Public key (PEM) of each signer that counts, by name.

    Raises:
        IntegrityError: Malformed, changed, or signed by nobody of `keys`.
        EvidenceError: The signature is good, but it is no calibration.
    """
    opened = open_envelope(envelope, keys)
    statement = _parse(opened.payload)
    said = statement.predicate
    calibration = Calibration(
        grader=_PREFIX + statement.subject[0].digest.sha256,
        name=said.name,
        version=said.version,
        axis=said.axis,
        runtime=said.runtime,
        data=said.data.name,
        data_sha256=said.data.sha256,
        sources={
            source: SourceCounts(
                table=counts.table,
                not_graded=counts.not_graded,
                kappa_lower=counts.kappa_lower,
                cascade=None
                if counts.cascade is None
                else CascadeCounts(
                    answers=counts.answers,
                    passed_on=counts.cascade.passed_on,
                    same=counts.cascade.same_as_full,
                    table=counts.cascade.full.table,
                    not_graded=counts.cascade.full.not_graded,
                ),
                members=None if counts.members is None else MemberCounts(**counts.members.model_dump()),
                reworded=None if counts.reworded is None else RewordedCounts(**counts.reworded.model_dump()),
            )
            for source, counts in said.sources.items()
        },
        calibrated_at=moment_of(said.calibrated_at, "calibrated_at"),
    )
    return VerifiedCalibration(calibration=calibration, signers=opened.signers, digest=envelope_digest(envelope))


class _Wire(BaseModel):
    """Unknown keys are refused: one that we do not know could limit what was shown."""

    model_config = STRICT


_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Words = Annotated[str, Field(min_length=1, max_length=4000)]
_Count = Annotated[int, Field(ge=0, le=10**9)]
"""No people label more, and limits of larger counts cannot be computed."""


class _DigestSet(_Wire):
    sha256: _Sha256


class _Subject(_Wire):
    name: Literal["grader"]
    digest: _DigestSet


class _Data(_Wire):
    name: _Words
    sha256: _Sha256


class _Table(_Wire):
    true_positive: _Count
    false_positive: _Count
    false_negative: _Count
    true_negative: _Count
    not_graded: _Count

    @property
    def table(self) -> Confusion:
        return Confusion(
            true_positive=self.true_positive,
            false_positive=self.false_positive,
            false_negative=self.false_negative,
            true_negative=self.true_negative,
        )

    @property
    def answers(self) -> int:
        return self.table.labelled + self.not_graded


class _Cascade(_Wire):
    passed_on: _Count
    same_as_full: _Count
    full: _Table


class _Members(_Wire):
    differing: _Count
    compared: _Count

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.differing > self.compared:
            raise ValueError(f"expected at most {self.compared} answers to differ, got {self.differing}")
        return self


class _Reworded(_Members):
    answers: _Count
    one_only: _Count

    @model_validator(mode="after")
    def _counts_fit_answers(self) -> Self:
        if self.compared + self.one_only > self.answers:
            raise ValueError(
                f"expected at most the {self.answers} answers put again, got {self.compared + self.one_only}"
            )
        return self


class _Counts(_Table):
    kappa_lower: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] | None
    cascade: _Cascade | None = None
    members: _Members | None = None
    reworded: _Reworded | None = None

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.cascade is not None:
            if self.cascade.full.answers != self.answers:
                raise ValueError(
                    f"cascade: expected a full run of {self.answers} answers, got {self.cascade.full.answers}"
                )
            most = max(self.cascade.passed_on, self.cascade.same_as_full)
            if most > self.answers:
                raise ValueError(f"cascade: expected counts of at most {self.answers} answers, got {most}")
        if self.members is not None and self.members.compared > self.answers:
            raise ValueError(f"members: expected at most {self.answers} answers, got {self.members.compared}")
        if self.reworded is not None and self.reworded.answers > self.answers:
            raise ValueError(f"reworded: expected at most {self.answers} answers, got {self.reworded.answers}")
        return self


class _Predicate(_Wire):
    name: _Words
    version: _Words
    axis: _Words
    runtime: _Words
    data: _Data
    sources: Annotated[dict[_Words, _Counts], Field(min_length=1)]
    calibrated_at: str


class _Statement(_Wire):
    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[_Subject, ...], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[
        Literal["https://registry-gate.dev/calibration/v1", "https://registry-gate.dev/calibration/v2"],
        Field(alias="predicateType"),
    ]
    predicate: _Predicate

    @model_validator(mode="after")
    def _type_is_that_of_what_it_says(self) -> Self:
        composed = any(one.cascade or one.members or one.reworded for one in self.predicate.sources.values())
        expected = COMPOSED_TYPE if composed else CALIBRATION_TYPE
        if self.predicate_type != expected:
            raise ValueError(f"expected the predicate type {expected} for what it says, got {self.predicate_type}")
        return self


def _parse(payload: bytes) -> _Statement:
    strict_json(payload, "a statement", MAX_STATEMENT_BYTES)
    try:
        return _Statement.model_validate_json(payload)
    except ValidationError as err:
        raise EvidenceError(
            f"expected an in-toto statement of predicate type {CALIBRATION_TYPE} or {COMPOSED_TYPE}, got: "
            f"{schema_faults(err)}",
            code="statement_schema",
        ) from err
