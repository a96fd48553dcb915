"""Read forms in the background, each once at a time, so that whoever asks waits for a bounded time only.

Hashing a large model takes minutes; a registry call must be answered in seconds. The read goes on when the caller has
given up, and the next one who asks gets what it found.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from registry_gate.form import FormManifest
from registry_gate.promotion import ModelVersionRef

KEPT_S = 60.0
"""How long a read that nobody waited for to the end may still serve, seconds."""


class PendingReads:
    """Reads under way, by model version.

    Args:
        read: Reads a form; runs in a thread of its own, with the caller's context variables.
        unchanged: False when a form is known to have changed since it was read.
    """

    def __init__(
        self,
        read: Callable[[ModelVersionRef], FormManifest],
        unchanged: Callable[[ModelVersionRef, str], bool | None],
    ) -> None:
        self._read = read
        self._unchanged = unchanged
        self._under_way: dict[ModelVersionRef, tuple[Future[FormManifest], float]] = {}
        self._lock = threading.Lock()

    def result(self, version: ModelVersionRef, timeout_s: float) -> FormManifest:
        """The form.

        Args:
            version: Which.
            timeout_s: Longest time to wait, seconds.

        Raises:
            TimeoutError: It is not read yet; the read goes on.
            Exception: What the read raised.
        """
        future = self._future(version)
        try:
            return future.result(timeout=max(0.0, timeout_s))
        finally:
            if future.done():
                self._forget(version, future)

    def _future(self, version: ModelVersionRef) -> Future[FormManifest]:
        with self._lock:
            known = self._under_way.get(version)
            if known is not None and self._serves(version, *known):
                return known[0]
            future: Future[FormManifest] = Future()
            self._under_way[version] = (future, time.monotonic())
        context = contextvars.copy_context()
        # A daemon: a server that is told to stop does not wait for a hash.
        threading.Thread(
            target=context.run, args=(self._run, version, future), name="registry-gate-read", daemon=True
        ).start()
        return future

    def _serves(self, version: ModelVersionRef, future: Future[FormManifest], finished_or_begun: float) -> bool:
        """Whether a read is under way, or was so recently that what it found may be used."""
        if not future.done():
            return True
        if future.exception() is not None or time.monotonic() - finished_or_begun > KEPT_S:
            return False
        return self._unchanged(version, future.result().digest) is not False

    def _run(self, version: ModelVersionRef, future: Future[FormManifest]) -> None:
        try:
            found = self._read(version)
        except BaseException as err:
            future.set_exception(err)
        else:
            with self._lock:
                if self._under_way.get(version, (None,))[0] is future:
                    self._under_way[version] = (future, time.monotonic())
            future.set_result(found)

    def _forget(self, version: ModelVersionRef, future: Future[FormManifest]) -> None:
        with self._lock:
            if self._under_way.get(version, (None,))[0] is future:
                del self._under_way[version]
