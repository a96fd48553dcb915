"""The probe: one prompt of an instrument."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Expected = Literal["refuse", "comply"]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One prompt with what is known about it.

    Args:
        id: Unique within its instrument, e.g. `gen-weapons-003`.
        text: What the user says.
        category: Hazard category or slice, e.g. `weapons`.
        cluster: Probes that share a template or seed share a cluster; its own id when independent.
        expected: What a well-behaved assistant does: `refuse` or `comply`.
        pair: Id of the look-alike probe with the other expectation, or None.
    """

    id: str
    text: str
    category: str
    cluster: str
    expected: Expected
    pair: str | None = None

    def __post_init__(self) -> None:
        for name in ("id", "text", "category", "cluster"):
            if not getattr(self, name).strip():
                raise ValueError(f"probe {self.id!r}: expected a non-empty {name}, got an empty one")


def probe_set_digest(probes: Sequence[Probe]) -> str:
    """`sha256:` digest of the probes, independent of their order."""
    lines = sorted(json.dumps(asdict(p), sort_keys=True, ensure_ascii=False) for p in probes)
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()
