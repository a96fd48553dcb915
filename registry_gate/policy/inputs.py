"""What `decide` is given besides policies: the form as it is now, the evidence that was presented, and what graders
were shown to do.

Evidence whose signature or digest did not verify is another type than evidence that did, so that nothing can read a
number out of it by mistake. Verifying is `registry_gate.evidence`; here are only the outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry_gate.assessment import Assessment
from registry_gate.statistics.admission import Calibration


@dataclass(frozen=True, kw_only=True)
class UnreadableForm:
    """The artifact could not be read into a manifest, so there is no digest that evidence could be of.

    Args:
        code: Stable word, e.g. `form_invalid` or `base_unresolved`.
        message: What was expected, what came, what to do.
    """

    code: str
    message: str

    def __post_init__(self) -> None:
        if not self.code or not self.message:
            raise ValueError("expected a code and a message that say why the form cannot be read, got none")


@dataclass(frozen=True, kw_only=True)
class VerifiedEvidence:
    """An assessment with at least one signature that verified under a signer's key.

    Args:
        digest: `sha256:` of the evidence as stored.
        assessment: What it says.
        signers: Names of the signers (of the policy set) whose signature verified.
    """

    digest: str
    assessment: Assessment
    signers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class UnverifiedEvidence:
    """Something stored as evidence that does not verify.

    Args:
        digest: Digest under which it is stored.
        cause: What does not hold, e.g. `signature does not match the payload`.
    """

    digest: str
    cause: str


EvidenceItem = VerifiedEvidence | UnverifiedEvidence


@dataclass(frozen=True, kw_only=True)
class VerifiedCalibration:
    """What a grader was shown to do, with at least one signature that verified under a signer's key.

    Args:
        file: Where it lies in the policy set.
        digest: `sha256:` of the envelope.
        calibration: What it says.
        signers: Names of the signers (of the policy set) whose signature verified.
    """

    file: str
    digest: str
    calibration: Calibration
    signers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class UnverifiedCalibration:
    """Something that lies with the calibrations and does not verify.

    Args:
        file: Where it lies in the policy set.
        cause: What does not hold.
    """

    file: str
    cause: str


CalibrationItem = VerifiedCalibration | UnverifiedCalibration
