"""Evidence files: one envelope per file, named by its own digest.

Writing is all or nothing, and reading checks the digest. Who signed it is for `envelope.verify`; which evidence is in
force is for the ledger.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from registry_gate.errors import EvidenceError, IntegrityError
from registry_gate.evidence.envelope import MAX_ENVELOPE_BYTES, envelope_digest

SUFFIX = ".dsse.json"

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def evidence_path(directory: Path, digest: str) -> Path:
    """Where the envelope with this digest lies.

    Raises:
        EvidenceError: No digest; text from outside never becomes part of a path.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise EvidenceError(f"expected an evidence digest (sha256: and 64 hexadecimal digits), got {digest!r}")
    return directory / (match[1] + SUFFIX)


def store_evidence(directory: Path, envelope: bytes) -> Path:
    """Store an envelope under its digest; storing the same bytes again changes nothing.

    Raises:
        EvidenceError: The directory is missing, not writable or full. Nothing was stored.
        IntegrityError: A file of that name holds other bytes.
    """
    digest = envelope_digest(envelope)
    path = evidence_path(directory, digest)
    if path.exists():
        read_evidence(directory, digest)
        return path
    temporary = directory / f".{path.name}.{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(envelope)
            file.flush()
            os.fsync(file.fileno())
        # The name appears only when all bytes are on the disk; two workers that store the same evidence both succeed.
        temporary.replace(path)
    except OSError as err:
        _remove(temporary)
        raise EvidenceError(
            f"expected to store evidence {digest} in {directory}, got: {err.strerror}. Nothing was stored: make room "
            "or correct the directory and assess again; finished shards are reused",
            code="evidence_not_stored",
        ) from err
    _sync_directory(directory)
    return path


def read_evidence(directory: Path, digest: str) -> bytes:
    """The exact bytes of an envelope.

    Raises:
        EvidenceError: There is none, or it cannot be read.
        IntegrityError: Its bytes are not those that were stored.
    """
    path = evidence_path(directory, digest)
    try:
        with path.open("rb") as file:
            envelope = file.read(MAX_ENVELOPE_BYTES + 1)
    except FileNotFoundError as err:
        raise EvidenceError(
            f"expected evidence {digest} in {directory}, got no such file", code="evidence_missing"
        ) from err
    except OSError as err:
        raise EvidenceError(
            f"expected to read evidence {path}, got: {err.strerror}", code="evidence_unreadable"
        ) from err
    found = envelope_digest(envelope)
    if found != digest:
        raise IntegrityError(
            f"expected {path} to hold bytes with digest {digest}, got {found}: it was changed after it was stored",
            code="evidence_edited",
        )
    return envelope


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # The directory itself is out of reach; the error that is about to be raised says why.
        return


def _sync_directory(directory: Path) -> None:
    """Make the new name survive a power failure, where the file system can."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        # Some network file systems cannot sync directories. The bytes are complete either way: the worst that follows
        # is that evidence is missing after a power failure, which blocks.
        return
