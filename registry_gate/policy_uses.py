"""When which policy set came into force: an audit entry each time that decisions begin to rest on another one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from registry_gate.errors import PolicyError
from registry_gate.ledger import Ledger
from registry_gate.policy.document import PolicySet
from registry_gate.policy.source import PolicySource

EVENT = "policy_set"


class PolicyUses:
    """Puts down which policy set is in force, once for all processes that share a ledger.

    Args:
        ledger: The ledger.
        policies: Where sets come from, which knows who signed them.
    """

    def __init__(self, ledger: Ledger, policies: PolicySource) -> None:
        self._ledger = ledger
        self._policies = policies
        self._noted: str | None = None

    def note(self, connection: Connection, policy_set: PolicySet, at: datetime) -> None:
        """Write an entry in the caller's transaction, unless the last one says the same.

        Raises:
            LedgerError: It cannot be written.
        """
        try:
            signed = self._policies.signed(policy_set)
        except PolicyError:  # its signature ended just now: it is in force no more, which the next decision says
            return
        body = {
            "digest": policy_set.digest,
            "place": policy_set.files.place,
            "revision": policy_set.files.revision,
            "policies": {name: policy.digest for name, policy in policy_set.policies.items()},
            **({} if signed is None else {"signed": dict(signed)}),
        }
        said = _key(body)
        if said == self._noted:
            return
        self._ledger.lock(connection)
        last = self._ledger.last_event(connection, EVENT)
        if last is not None and _key(last) == said:
            # Remembered only once it is there: the transaction that writes it may yet fail.
            self._noted = said
        else:
            self._ledger.record_event(connection, EVENT, body, at=at)


def _key(body: Mapping[str, Any]) -> str:
    """Sets with the same key are the same set, by the same signature."""
    return f"{body['digest']} {body.get('signed', {}).get('envelope', '')}"
