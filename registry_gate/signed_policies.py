"""Where the settings say that policies are, and whether they must be signed there.

With `[gate] policies_key` no set is in force unless `policy-set.dsse.json` beside it is a signature of exactly its
files by that key, which has not ended. Whoever can write the directory, push the branch or put the object then changes
no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from registry_gate.config import Settings
from registry_gate.errors import ConfigError, EvidenceError
from registry_gate.evidence.keys import load_public_key
from registry_gate.evidence.policy_sets import PolicySignature, file_digests, verify_policy_set
from registry_gate.policy.document import PolicySet
from registry_gate.policy.files import SIGNATURE_FILE, PolicyFiles, UnsignedError
from registry_gate.policy.grants import CLOCK_TOLERANCE
from registry_gate.policy.lint import LintProblem
from registry_gate.policy.source import WAIT_S, PolicySource


def policy_source(settings: Settings, *, wait_s: float = WAIT_S) -> PolicySource:
    """The policy set that the settings name, signed where they ask for it."""
    place, batteries, key = settings.gate.policies, settings.battery_dirs, settings.gate.policies_key
    if key is None:
        return PolicySource(place, batteries, wait_s=wait_s)
    return SignedSource(place, batteries, key=key, wait_s=wait_s)


class SignedSource(PolicySource):
    """A policy set that is in force only while it is signed. See `PolicySource`.

    Args:
        key: Public key that must have signed it: a file, or a directory of several, any of which will do.
        clock: The time, for signatures that end.
    """

    unwatched = ()

    def __init__(
        self,
        place: Path | str,
        battery_dirs: tuple[Path, ...],
        *,
        key: Path,
        wait_s: float = WAIT_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(place, battery_dirs, wait_s=wait_s)
        self._key = key
        self._clock = clock
        self._hashed: tuple[PolicyFiles, dict[str, str]] | None = None

    def current(self) -> PolicySet:
        """The policy set in force.

        Raises:
            UnsignedError: It is not signed as the settings ask.
            PolicyError: As `PolicySource.current`.
        """
        policy_set = super().current()
        self._signature(policy_set)
        return policy_set

    def signed(self, policy_set: PolicySet) -> Mapping[str, str] | None:
        """Who signed a set, as the audit chain keeps it."""
        return self._signature(policy_set).to_dict()

    def _signature(self, policy_set: PolicySet) -> PolicySignature:
        files = policy_set.files
        if self._hashed is None or self._hashed[0] is not files:
            self._hashed = (files, signed_files(files))
        return require_signature(files, self._key, self._clock(), digests=self._hashed[1])


def signed_files(files: PolicyFiles) -> dict[str, str]:
    """sha256 of everything that a signature is of: every file of the set but the signature itself.

    Raises:
        UnsignedError: A file that is there could not be read.
    """
    refused = [name for name in files.refused if name != SIGNATURE_FILE]
    if refused:
        raise UnsignedError(f"{files.shown(refused[0])}: {files.refused[refused[0]]}: it can be signed by nobody")
    return file_digests({name: data for name, data in files.contents.items() if name != SIGNATURE_FILE})


def require_signature(
    files: PolicyFiles, key: Path, now: datetime, *, digests: Mapping[str, str] | None = None
) -> PolicySignature:
    """The signature of a policy set that counts now.

    Args:
        files: The set.
        key: Public key, or a directory of them.
        now: The moment.
        digests: What `signed_files` gave, where that was asked before.

    Raises:
        UnsignedError: There is none.
    """
    where = files.shown(SIGNATURE_FILE)
    if SIGNATURE_FILE not in files.contents:
        got = files.refused.get(SIGNATURE_FILE, "got none")
        raise UnsignedError(
            f"{where}: expected a signature by {key}, {got}: run `registry-gate policy sign` where its private key is"
        )
    try:
        return verify_policy_set(
            files.contents[SIGNATURE_FILE],
            signed_files(files) if digests is None else digests,
            policy_keys(key),
            now=now,
            tolerance=CLOCK_TOLERANCE,
        )
    except (ConfigError, EvidenceError) as err:
        raise UnsignedError(f"{where}: {err}") from err


def lint_signature(policy_set: PolicySet, settings: Settings) -> list[LintProblem]:
    """A warning where the settings ask for a signature that a set does not have: it would deny every promotion."""
    if settings.gate.policies_key is None:
        return []
    try:
        require_signature(policy_set.files, settings.gate.policies_key, datetime.now(UTC))
    except (ConfigError, UnsignedError) as err:
        where = policy_set.files.shown(SIGNATURE_FILE)
        message = f"[gate] policies_key asks for a signature, so this set would deny every promotion: {err}"
        return [LintProblem(file=where, line=0, key="", message=message, code="unsigned", level="warning")]
    return []


def policy_keys(key: Path) -> dict[str, bytes]:
    """Public keys by the names of their files.

    Raises:
        ConfigError: None, or a file that is none.
    """
    paths = sorted(key.glob("*.pem")) if key.is_dir() else [key]
    if not paths:
        raise ConfigError(f"expected public keys (*.pem) in {key}, which [gate] policies_key names, got none")
    return {path.stem: load_public_key(path) for path in paths}
