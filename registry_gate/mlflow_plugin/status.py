"""What a gated server says about itself to `registry-gate doctor`: digests, key ids, versions; no secret, path or URI.

It answers inside the refusal of a reserved tag: that goes through every path and every log-in that a promotion goes
through, and a server without the gate cannot answer it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import mlflow
from sqlalchemy.exc import SQLAlchemyError

from registry_gate import __version__
from registry_gate.errors import RegistryGateError
from registry_gate.evidence.keys import key_id
from registry_gate.gate import Gate
from registry_gate.mlflow_plugin.root import destination, is_gated
from registry_gate.policy.places import kind_of

DOCTOR_TAG = "registry_gate.doctor"
"""The reserved tag by which `doctor` asks."""

_logger = logging.getLogger(__name__)


def server_status(gate: Gate) -> dict[str, Any]:
    """The status. What cannot be told is None, with the reason code beside it; nothing is raised.

    The keys are `policy_set`, `policy_error`, `policy_place` (`directory`, `git` or `s3`), `policy_revision` (a commit
    or version), `signers` (name to key id), `gate_key` (id), `gate_key_error`,
    `ledger_schema`, `ledger_error`, `artifacts_gated` (None outside a server), `version` and `mlflow`.
    """
    policy_set, policy_error = _told(gate.policies.current)
    signer, key_error = _told(gate.key.signer)
    schema, ledger_error = _told(gate.ledger.schema)
    return {
        "policy_set": None if policy_set is None else policy_set.digest,
        "policy_error": policy_error,
        "policy_place": None if policy_set is None else kind_of(policy_set.files),
        "policy_revision": None if policy_set is None else policy_set.files.revision,
        "signers": {} if policy_set is None else {name: key_id(pem) for name, pem in policy_set.signers.items()},
        "gate_key": None if signer is None else signer.key_id,
        "gate_key_error": key_error,
        "ledger_schema": None if schema is None else schema[0],
        "ledger_error": ledger_error,
        "artifacts_gated": None if destination() is None else is_gated(),
        "version": __version__,
        "mlflow": mlflow.__version__,
    }


def _told(ask: Callable[[], Any]) -> tuple[Any, str | None]:
    try:
        return ask(), None
    except RegistryGateError as err:
        return None, err.code
    except SQLAlchemyError:
        _logger.exception("registry-gate could not tell its status")
        return None, "ledger"
