"""Keep a policy set loaded that is the one of its place now, in every process of a server without a restart.

Every decision rests on a set that its place confirmed at most `GRACE_S` ago. A set that does not load gives its error
until it loads again, and a place that does not answer gives that: never the old set, never a mixture.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry_gate.errors import PolicyError
from registry_gate.policy.document import PolicySet, load_policy_files, load_policy_set
from registry_gate.policy.files import CASES_DIRECTORY, Fingerprint, UnreachableError, fingerprint
from registry_gate.policy.places import Place, place_at

CONFIRM_S = 2.0
"""A place in git or S3 is asked again when it has not been for so long."""

GRACE_S = 5.0
"""What a place confirmed so long ago is in force no more: a change counts everywhere within this time, and a place that
cannot be asked denies after it. Longer would let whoever cuts the connection keep an old set in force."""

WAIT_S = 1.0
"""How long a review waits for a place; what is left of its two seconds is for the form."""

PATIENT_S = 30.0
"""How long a worker or a command waits, for whom nobody does."""


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What a place held.

    Args:
        asked_at: When it was asked, by the monotonic clock.
        seen: Its revision, and the batteries beside it.
        loaded: The set, or why there is none.
    """

    asked_at: float
    seen: tuple[str, tuple[Fingerprint, ...]]
    loaded: PolicySet | PolicyError


class PolicySource:
    """The policy set of a place, loaded again whenever it changes.

    Args:
        place: A directory, looked at on each use; or an address, asked in the background.
        battery_dirs: Directories of batteries beside the set's own.
        wait_s: How long a use may wait for an address, seconds.
        monotonic: Clock of ages, seconds.
    """

    unwatched: tuple[str, ...] = (CASES_DIRECTORY,)
    """Directories of the set whose files may change without another look. Cases do not matter to decisions."""

    def __init__(
        self,
        place: Path | str,
        battery_dirs: Sequence[Path],
        *,
        wait_s: float = WAIT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.place = place
        self._battery_dirs = tuple(battery_dirs)
        self._wait_s = wait_s
        self._monotonic = monotonic
        self._seen: tuple[Fingerprint, ...] | None = None
        self._loaded: PolicySet | PolicyError | None = None
        self._lock = threading.Lock()
        self._remote: Place | None = None
        self._answer: _Answer | None = None
        self._trouble: UnreachableError | None = None
        self._asking: threading.Event | None = None

    def current(self) -> PolicySet:
        """The policy set in force.

        Raises:
            UnreachableError: The place does not say what it holds.
            PolicyError: It holds no valid policy set.
        """
        loaded = self._of_directory(self.place) if isinstance(self.place, Path) else self._of_address(self.place)
        if isinstance(loaded, PolicyError):
            raise loaded
        return loaded

    def signed(self, policy_set: PolicySet) -> Mapping[str, str] | None:
        """Who signed a set, as the audit chain keeps it; None where that is not asked."""
        del policy_set  # of any set; `SignedSource` looks at it
        return None

    def prepare(self) -> None:
        """Begin to ask, so that the first review need not wait. A directory is read when it is needed."""
        if isinstance(self.place, str):
            self._ask(self.place)

    def _of_directory(self, directory: Path) -> PolicySet | PolicyError:
        try:
            roots = (directory, *self._battery_dirs)
            seen = tuple(fingerprint(root, skip=self.unwatched) for root in roots)
        except PolicyError as err:
            return err
        if self._loaded is None or seen != self._seen:
            try:
                self._loaded = load_policy_set(directory, self._battery_dirs)
            except PolicyError as err:
                self._loaded = err
            self._seen = seen
        return self._loaded

    def _of_address(self, address: str) -> PolicySet | PolicyError:
        answer = self._answer
        if answer is not None and self._age(answer) < CONFIRM_S:
            return answer.loaded
        asking = self._ask(address)
        if answer is None or self._age(answer) >= GRACE_S:
            asking.wait(self._wait_s)
            with self._lock:
                answer, trouble = self._answer, self._trouble
            if answer is None or self._age(answer) >= GRACE_S:
                return trouble or UnreachableError(
                    f"{address}: expected an answer within {self._wait_s:g} s, got none yet; ask again in a moment"
                )
        return answer.loaded

    def _age(self, answer: _Answer) -> float:
        return self._monotonic() - answer.asked_at

    def _ask(self, address: str) -> threading.Event:
        """Ask the place in a thread of its own, unless one is asking already."""
        with self._lock:
            if self._asking is None:
                self._asking = threading.Event()
                thread = threading.Thread(
                    target=self._look, args=(address, self._asking), daemon=True, name="registry-gate-policies"
                )
                thread.start()
            return self._asking

    def _look(self, address: str, done: threading.Event) -> None:
        answer, trouble = self._answer, None
        try:
            answer = self._looked(address, answer)
        except UnreachableError as err:
            trouble = err
        except Exception as err:
            trouble = UnreachableError(f"{address}: expected an answer, got {type(err).__name__}: {err}")
        finally:
            with self._lock:
                self._answer, self._trouble, self._asking = answer, trouble, None
            done.set()

    def _looked(self, address: str, before: _Answer | None) -> _Answer:
        """What the place holds now; what was loaded before where it is still the same.

        Raises:
            UnreachableError: It does not answer.
        """
        asked_at = self._monotonic()
        revision, loaded = "", before.loaded if before is not None else None
        batteries = tuple(fingerprint(root) for root in self._battery_dirs)
        try:
            self._remote = self._remote or place_at(address)
            revision = self._remote.revision()
            if before is None or before.seen != (revision, batteries) or isinstance(loaded, PolicyError):
                loaded = load_policy_files(self._remote.read(revision), self._battery_dirs)
        except UnreachableError:
            raise
        except PolicyError as err:
            loaded = err
        if loaded is None:
            raise RuntimeError("a set that was never loaded is not the same as before")
        return _Answer(asked_at=asked_at, seen=(revision, batteries), loaded=loaded)
