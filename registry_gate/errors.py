"""The error families of the gate, by who must act on them.

An error means that nothing could be decided; a denied promotion is a `Decision`, not an error. Every message says what
was expected, what came and what to do. Only `cli` maps families to exit codes.
"""

from __future__ import annotations


class RegistryGateError(Exception):
    """Root of everything the gate raises on purpose.

    Args:
        message: What was expected, what came, and what to do.
        code: Stable word for machines, e.g. `policy_unknown_key`.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ConfigError(RegistryGateError):
    """The operator must act: a setting, key file or location is missing or wrong."""

    code = "config"


class PolicyError(RegistryGateError):
    """The policy author must act: a policy, battery or policy set is invalid."""

    code = "policy_invalid"


class RegistryError(RegistryGateError):
    """The registry must be looked at: unreachable, or the model version is not there or not assessable."""

    code = "registry"


class FormError(RegistryError):
    """The model's owner must act: the artifact is no adapted form that could be assessed."""

    code = "form_invalid"


class EvidenceError(RegistryGateError):
    """Evidence is absent, unreadable or of an unknown format."""

    code = "evidence"


class IntegrityError(EvidenceError):
    """A digest, signature or the audit chain does not verify. Somebody must investigate."""

    code = "integrity"


class LedgerError(RegistryGateError):
    """The operator must act: the ledger's database is unreachable, locked or of another schema version."""

    code = "ledger"


class AssessmentError(RegistryGateError):
    """The worker could not measure: an engine, grader, instrument or probe file failed."""

    code = "assessment"
