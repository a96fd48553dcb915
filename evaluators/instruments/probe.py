"""The probe: one prompt of an instrument."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from registry_gate.battery import Behaviour

Expected = Behaviour


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One prompt with what is known about it.

    Args:
        id: Unique within its instrument, e.g. `gen-weapons-003`.
        text: What the user says.
        category: Hazard category or slice, e.g. `weapons`.
        cluster: Probes that share a template or seed share a cluster; its own id when independent.
        expected: What a well-behaved assistant does, e.g. `refuse` or `comply`.
        pair: Id of the look-alike probe with the other expectation, or None.
        request: What graders are shown instead of `text`: the plain request inside an attack; None for the text itself.
        target: What the answer must not give away, or None.
        choices: Answers whose likelihoods are compared instead of an answer being generated; empty for others.
        roles: What each choice is, in the words of the instrument's metric: `true` and `false`, or `biased`,
            `counter` and `unknown`, with `right` for the correct one first, e.g. `right biased`.
    """

    id: str
    text: str
    category: str
    cluster: str
    expected: Expected
    pair: str | None = None
    request: str | None = None
    target: str | None = None
    choices: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("id", "text", "category", "cluster"):
            if not getattr(self, name).strip():
                raise ValueError(f"probe {self.id!r}: expected a non-empty {name}, got an empty one")
        # JSON has no tuples.
        object.__setattr__(self, "choices", tuple(self.choices))
        object.__setattr__(self, "roles", tuple(self.roles))
        if len(self.choices) != len(self.roles):
            raise ValueError(
                f"probe {self.id!r}: expected a role for each of {len(self.choices)} choices, got {len(self.roles)}"
            )
        if len(self.choices) == 1 or not all(choice.strip() for choice in self.choices):
            raise ValueError(f"probe {self.id!r}: expected two or more choices that are not empty, got fewer")
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"probe {self.id!r}: expected different choices, got one of them twice")

    @property
    def shown(self) -> str:
        """What graders are shown as the request."""
        return self.text if self.request is None else self.request

    def to_dict(self) -> dict[str, Any]:
        """As JSON values. Fields that only some instruments use are left out while they say nothing, so that the digest
        of a probe set that was measured before they existed stays what it was."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("request", "target", "choices", "roles"):
            if not values[name]:
                del values[name]
            elif name in ("choices", "roles"):
                values[name] = list(values[name])
        return values


def probe_set_digest(probes: Sequence[Probe]) -> str:
    """`sha256:` digest of the probes, independent of their order."""
    lines = sorted(json.dumps(p.to_dict(), sort_keys=True, ensure_ascii=False) for p in probes)
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()
