"""Evidence files: all or nothing, and never other bytes than were stored."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry_gate.errors import EvidenceError, IntegrityError
from registry_gate.evidence.envelope import envelope_digest
from registry_gate.evidence.files import evidence_path, read_evidence, store_evidence


@contextmanager
def without_root() -> Iterator[None]:
    """Root writes everywhere, so that a read-only directory needs another user."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_stored_envelope_is_named_by_its_digest_and_read_back_unchanged(tmp_path: Path, envelope: bytes) -> None:
    path = store_evidence(tmp_path, envelope)
    assert path.name == envelope_digest(envelope).removeprefix("sha256:") + ".dsse.json"
    assert path.read_bytes() == envelope == read_evidence(tmp_path, envelope_digest(envelope))
    assert list(tmp_path.iterdir()) == [path]


def test_storing_twice_changes_nothing(tmp_path: Path, envelope: bytes) -> None:
    first = store_evidence(tmp_path, envelope)
    before = first.stat().st_mtime_ns
    assert store_evidence(tmp_path, envelope) == first
    assert first.stat().st_mtime_ns == before


def test_several_workers_may_store_the_same_evidence(tmp_path: Path, envelope: bytes) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: store_evidence(tmp_path, envelope), range(32)))
    assert list(tmp_path.iterdir()) == list(paths)


def test_edited_file_is_refused_when_read_and_when_stored_again(tmp_path: Path, envelope: bytes) -> None:
    path = store_evidence(tmp_path, envelope)
    path.write_bytes(envelope.replace(b"a", b"b", 1))
    message = r"expected .* to hold bytes with digest sha256:\w{64}, got sha256:\w{64}: it was changed after"
    with pytest.raises(IntegrityError, match=message):
        read_evidence(tmp_path, envelope_digest(envelope))
    with pytest.raises(IntegrityError, match=message):
        store_evidence(tmp_path, envelope)


def test_truncated_file_is_refused(tmp_path: Path, envelope: bytes) -> None:
    path = store_evidence(tmp_path, envelope)
    path.write_bytes(envelope[:-1])
    with pytest.raises(IntegrityError, match="it was changed after it was stored"):
        read_evidence(tmp_path, envelope_digest(envelope))


def test_missing_evidence_says_so(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"expected evidence sha256:0{64} in .*, got no such file") as caught:
        read_evidence(tmp_path, "sha256:" + "0" * 64)
    assert not isinstance(caught.value, IntegrityError)
    assert caught.value.code == "evidence_missing"


def test_unreadable_evidence_says_so(tmp_path: Path, envelope: bytes) -> None:
    digest = envelope_digest(envelope)
    evidence_path(tmp_path, digest).mkdir()
    with pytest.raises(EvidenceError, match=r"expected to read evidence .*, got: Is a directory"):
        read_evidence(tmp_path, digest)


@pytest.mark.parametrize(
    "digest", ["", "0" * 64, "sha256:" + "A" * 64, "sha256:../../etc/passwd", "sha256:" + "0" * 65]
)
def test_text_that_is_no_digest_never_becomes_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(EvidenceError, match="expected an evidence digest"):
        read_evidence(tmp_path, digest)


def test_missing_directory_stores_nothing(tmp_path: Path, envelope: bytes) -> None:
    with pytest.raises(EvidenceError, match=r"got: No such file or directory\. Nothing was stored"):
        store_evidence(tmp_path / "none", envelope)
    assert list(tmp_path.iterdir()) == []


def test_directory_that_cannot_be_written_stores_nothing(tmp_path: Path, envelope: bytes) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents[:3]):  # one more level when tests run in parallel
        parent.chmod(0o755)
    with without_root(), pytest.raises(EvidenceError, match=r"got: Permission denied\. Nothing was stored"):
        store_evidence(closed, envelope)
    assert list(closed.iterdir()) == []


def test_disk_full_stores_nothing(tmp_path: Path, envelope: bytes) -> None:
    """A real write that the kernel cuts short: the limit of the process stands for the end of the disk."""
    (tmp_path / "source").write_bytes(envelope)
    store = tmp_path / "store"
    store.mkdir()
    code = (
        "import sys; from pathlib import Path; from registry_gate.evidence.files import store_evidence\n"
        "store_evidence(Path(sys.argv[2]), Path(sys.argv[1]).read_bytes())"
    )

    def small_files() -> None:
        limit = len(envelope) - 100
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path / "source"), str(store)],
        preexec_fn=small_files,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert f"expected to store evidence {envelope_digest(envelope)} in {store}, got: File too large. Nothing was" in (
        done.stderr
    )
    assert list(store.iterdir()) == []
