"""A set in force is one that its place confirmed a moment ago; otherwise nothing is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from place_builders import address, commit, write
from test_places import repository
from test_policy_document import POLICY, edit
from test_policy_document import directory as directory

from registry_gate.documents import DocumentError
from registry_gate.errors import PolicyError
from registry_gate.policy import source as policy_source
from registry_gate.policy.files import PolicyFiles, UnreachableError, read_directory
from registry_gate.policy.source import CONFIRM_S, GRACE_S, PolicySource

__all__ = ["repository"]


class There:
    """A place that can be made to change, fail and hang."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.number = 1
        self.asked = self.read_times = 0
        self.error: Exception | None = None
        self.hanging = threading.Event()
        self.hanging.set()

    def revision(self) -> str:
        self.asked += 1
        self.hanging.wait(10)
        if self.error is not None:
            raise self.error
        return f"number {self.number}"

    def read(self, revision: str) -> PolicyFiles:
        self.read_times += 1
        assert revision == f"number {self.number}"
        return read_directory(self.directory)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def there(directory: Path, monkeypatch: pytest.MonkeyPatch) -> There:
    made = There(directory)
    monkeypatch.setattr(policy_source, "place_at", lambda _: made)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(there: There, clock: Clock) -> PolicySource:
    return PolicySource("s3://b/p", [], monotonic=clock, wait_s=0.5)


def settled(source: PolicySource) -> None:
    asking = source._asking
    if asking is not None:
        assert asking.wait(10)


def test_an_answer_is_believed_for_a_moment(source: PolicySource, there: There, clock: Clock) -> None:
    first = source.current()
    clock.now += CONFIRM_S - 0.1
    assert source.current() is first
    assert (there.asked, there.read_times) == (1, 1)
    clock.now += 0.2
    assert source.current() is first
    settled(source)
    assert source.current() is first
    assert (there.asked, there.read_times) == (2, 1)


def test_a_change_counts_within_the_grace(source: PolicySource, there: There, clock: Clock) -> None:
    before = source.current().digest
    edit(there.directory / "one.yaml", "0.15", "0.14")
    there.number = 2
    clock.now += GRACE_S
    assert source.current().digest != before


def test_a_server_that_nobody_asked_for_an_hour_uses_nothing_old(
    source: PolicySource, there: There, clock: Clock
) -> None:
    before = source.current().digest
    edit(there.directory / "one.yaml", "0.15", "0.14")
    there.number = 2
    clock.now += 3600
    assert source.current().digest != before


def test_an_invalid_set_is_never_replaced_by_the_one_before(source: PolicySource, there: There, clock: Clock) -> None:
    source.current()
    edit(there.directory / "one.yaml", "atMost: 0.15", "atmost: 0.15")
    there.number = 2
    clock.now += GRACE_S
    for _ in range(3):
        with pytest.raises(DocumentError, match="unknown key"):
            source.current()
        clock.now += GRACE_S
    edit(there.directory / "one.yaml", "atmost: 0.15", "atMost: 0.15")
    # The same revision, as when somebody mends a bucket by hand.
    assert source.current().name == "test"


@pytest.mark.parametrize("error", [UnreachableError("no route"), RuntimeError("odd")], ids=["away", "odd"])
def test_a_place_that_does_not_answer_denies_after_the_grace(
    source: PolicySource, there: There, clock: Clock, error: Exception
) -> None:
    first = source.current()
    there.error = error
    clock.now += GRACE_S - 0.1
    assert source.current() is first
    settled(source)
    clock.now += 0.2
    with pytest.raises(UnreachableError, match=str(error)) as caught:
        source.current()
    assert caught.value.code == "policies_unreachable"
    there.error = None
    assert source.current().digest == first.digest


def test_a_place_that_hangs_keeps_nobody_waiting(source: PolicySource, there: There, clock: Clock) -> None:
    source.current()
    there.hanging.clear()
    clock.now += GRACE_S
    with pytest.raises(UnreachableError, match=r"expected an answer within 0.5 s, got none yet; ask again in a moment"):
        source.current()
    asked = there.asked
    with pytest.raises(UnreachableError):
        source.current()
    # One thread asks, however many reviews wait.
    assert there.asked == asked
    there.hanging.set()
    settled(source)
    assert source.current().name == "test"


def test_a_set_that_is_gone_denies_at_once(source: PolicySource, there: There, clock: Clock) -> None:
    source.current()
    there.error = PolicyError("expected this object, got none")
    clock.now += GRACE_S
    with pytest.raises(PolicyError, match="got none") as caught:
        source.current()
    assert not isinstance(caught.value, UnreachableError)


def test_what_is_prepared_is_there_when_it_is_needed(source: PolicySource, there: There) -> None:
    source.prepare()
    settled(source)
    assert source.current().name == "test"
    assert there.asked == 1


def test_many_threads_get_one_set(source: PolicySource, there: There) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(source.current())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == 1
    assert len(found) == 16
    assert there.read_times == 1


def test_a_branch_of_a_real_repository(repository: Path, clock: Clock) -> None:
    source = PolicySource(address(repository), [], monotonic=clock, wait_s=10)
    before = source.current()
    write(repository / "clinic/policies", **{"one.yaml": POLICY.replace("0.15", "0.14")})
    revision = f"commit {commit(repository)}"
    clock.now += GRACE_S
    after = source.current()
    assert (before.digest != after.digest, after.files.revision) == (True, revision)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: edit(d / "one.yaml", "0.15", "0.14"),
        lambda d: (d / "two.yaml").write_text(POLICY.replace("name: one", "name: two")),
        lambda d: (d / "keys" / "worker.pem").write_text((d / "keys" / "worker.pem").read_text() + "\n"),
    ],
)
def test_a_directory_is_in_force_as_it_is_now(directory: Path, change: Callable[[Path], object]) -> None:
    (directory / "signers").rename(directory / "keys")
    edit(directory / "policy-set.yaml", "signers/worker.pem", "keys/worker.pem")
    source = PolicySource(directory, [])
    before = source.current()
    assert source.current() is before
    change(directory)
    assert source.current().digest != before.digest


def test_a_directory_of_everything_denies(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = PolicySource(directory, [])
    source.current()
    monkeypatch.setattr("registry_gate.policy.files.MAX_FILES", 2)
    with pytest.raises(PolicyError, match="expected at most 2 files"):
        source.current()
