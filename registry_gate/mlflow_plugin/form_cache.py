"""Remember the manifests of forms while nothing that they were read from provably changed.

A promotion reads artifact and base. Their files are digested once (`artifact.HashCache`); this spares parsing them and
resolving the base again, and tells the transaction that writes the pointer whether the bytes are still those that were
decided on.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from registry_gate.artifact import ArtifactTree, TreeState, VersionTree, checkpoint_at, read_manifest
from registry_gate.errors import FormError
from registry_gate.form import FormManifest

_Look = Callable[[], TreeState | str | None]
"""What one of the places a manifest was read from looks like now: its state, the reason why there is none, or None."""


@dataclass(frozen=True, kw_only=True)
class _Remembered:
    manifest: FormManifest
    places: tuple[tuple[_Look, TreeState | str], ...]
    settled: bool

    def unchanged(self) -> bool:
        return all(look() == before for look, before in self.places)


class FormCache:
    """Manifests by the place that they were read from.

    Args:
        entries: Most manifests that are kept.
    """

    def __init__(self, entries: int = 512) -> None:
        self._entries = entries
        self._known: OrderedDict[str, _Remembered] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, find: Callable[[], ArtifactTree], key: str, version_tree: VersionTree) -> FormManifest:
        """The manifest of a form, from memory where every file of form and base is as it was.

        Args:
            find: Gives the artifact.
            key: Names it, e.g. its workspace and location.
            version_tree: See `artifact.read_manifest`.

        Raises:
            FormError: As `artifact.read_manifest`. Failures are not remembered.
        """
        with self._lock:
            known = self._known.get(key)
        if known is not None and known.settled and known.unchanged():
            return known.manifest
        reading = _Reading(version_tree)
        manifest = read_manifest(reading.tree(find), reading.version_tree, reading.directory_tree)
        remembered = reading.remembered(manifest)
        with self._lock:
            if remembered is None:
                self._known.pop(key, None)
            else:
                self._known[key] = remembered
                self._known.move_to_end(key)
                while len(self._known) > self._entries:
                    self._known.popitem(last=False)
        return manifest

    def unchanged(self, key: str, digest: str) -> bool | None:
        """Whether a form that was read still has the digest that it had; None where that cannot be told cheaply."""
        with self._lock:
            known = self._known.get(key)
        if known is None:
            return None
        if known.manifest.digest != digest:
            return False  # somebody read it again since, and found other bytes
        try:
            return known.unchanged()
        except FormError:
            return False


class _Reading:
    """Notes every place that a manifest is read from, and what it looked like before it was read."""

    def __init__(self, version_tree: VersionTree) -> None:
        self._version_tree = version_tree
        self._places: list[tuple[_Look, TreeState | str | None]] = []

    def tree(self, find: Callable[[], ArtifactTree]) -> ArtifactTree:
        def look() -> TreeState | str | None:
            # Found anew each time: a registered version can come to lie elsewhere, a directory can appear.
            try:
                return find().state()
            except FormError as err:
                return str(err)

        try:
            found = find()
            state: TreeState | str | None = found.state()
        except FormError as err:
            self._places.append((look, str(err)))
            raise
        self._places.append((look, state))
        return found

    def version_tree(self, name: str, version: int) -> ArtifactTree:
        return self.tree(lambda: self._version_tree(name, version))

    def directory_tree(self, directory: str) -> ArtifactTree:
        return self.tree(lambda: checkpoint_at(directory))

    def remembered(self, manifest: FormManifest) -> _Remembered | None:
        """None where a place cannot tell its state."""
        places = [(look, state) for look, state in self._places if state is not None]
        if any(look() != state for look, state in places):
            # Changed while it was read: kept as what is changed already, so that nothing is promoted on this reading.
            return _Remembered(manifest=manifest, places=((lambda: None, "changed"),), settled=False)
        if len(places) != len(self._places):
            return None
        settled = all(isinstance(state, str) or state.settled for _, state in places)
        return _Remembered(manifest=manifest, places=tuple(places), settled=settled)
