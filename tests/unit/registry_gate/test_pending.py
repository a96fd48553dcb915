"""Whoever asks for a form waits for a bounded time, and no read is started twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest
from gate_builders import make_form, make_version

from registry_gate.errors import FormError
from registry_gate.form import FormManifest
from registry_gate.pending import PendingReads
from registry_gate.promotion import ModelVersionRef

LONG_S = 30.0


class Slow:
    """Reads that end when they are told to."""

    def __init__(self) -> None:
        self.go, self.reads = threading.Event(), 0
        self.still = True

    def __call__(self, version: ModelVersionRef) -> FormManifest:
        self.reads += 1
        assert self.go.wait(LONG_S)
        return make_form(str(version.version))

    def unchanged(self, version: ModelVersionRef, digest: str) -> bool:
        return self.still


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def pending(slow: Slow) -> PendingReads:
    return PendingReads(slow, slow.unchanged)


def give_up_on(pending: PendingReads) -> None:
    with pytest.raises(TimeoutError):
        pending.result(make_version(), 0.0)


def wait_for_end(pending: PendingReads, slow: Slow) -> None:
    slow.go.set()
    for thread in threading.enumerate():
        if thread.name == "registry-gate-read":
            thread.join(LONG_S)


def test_read_goes_on_and_serves_the_next_who_asks_once(pending: PendingReads, slow: Slow) -> None:
    give_up_on(pending)
    give_up_on(pending)
    wait_for_end(pending, slow)
    assert pending.result(make_version(), 0.0) == make_form("1")
    assert slow.reads == 1
    assert pending.result(make_version(), LONG_S) == make_form("1")
    assert slow.reads == 2


def test_result_of_a_read_is_not_used_when_the_form_changed_since(pending: PendingReads, slow: Slow) -> None:
    give_up_on(pending)
    wait_for_end(pending, slow)
    slow.still = False
    pending.result(make_version(), LONG_S)
    assert slow.reads == 2


def test_old_result_is_not_used(pending: PendingReads, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry_gate.pending.KEPT_S", -1.0)
    give_up_on(pending)
    wait_for_end(pending, slow)
    pending.result(make_version(), LONG_S)
    assert slow.reads == 2


def test_all_who_ask_at_once_share_one_read(pending: PendingReads, slow: Slow) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(pending.result, make_version(), LONG_S) for _ in range(8)]
        while slow.reads == 0:
            pass
        slow.go.set()
        assert {one.result(LONG_S).digest for one in asked} == {make_form("1").digest}


def test_recreated_version_is_another_read(pending: PendingReads, slow: Slow) -> None:
    give_up_on(pending)
    slow.go.set()
    assert pending.result(make_version(created_ms=5), LONG_S) == make_form("1")
    assert slow.reads == 2


def test_failure_reaches_the_caller_and_is_tried_again() -> None:
    reads = []

    def fail(version: ModelVersionRef) -> FormManifest:
        reads.append(version)
        raise FormError("no files")

    pending = PendingReads(fail, lambda _version, _digest: None)
    for _ in range(2):
        with pytest.raises(FormError, match="no files"):
            pending.result(make_version(), LONG_S)
    assert len(reads) == 2


def test_read_sees_the_callers_context() -> None:
    workspace: ContextVar[str] = ContextVar("workspace", default="none")

    def read(_: ModelVersionRef) -> FormManifest:
        return make_form(workspace.get())

    workspace.set("b")
    assert PendingReads(read, lambda _v, _d: None).result(make_version(), LONG_S) == make_form("b")
