"""Gate every MLflow registry in a database, so that a forgotten `gated:` is no open door.

Nothing is imported here but when a store is built: MLflow only warns about an entry point that does not load and then
uses its own store, which would be open. An error while a store is built stops the server instead.
"""

from __future__ import annotations

from typing import Any


def build_store(store_uri: str, tracking_uri: str | None = None) -> Any:
    """MLflow's store for a plain database address, with the gate before it.

    Raises:
        ImportError: registry-gate is not installed or does not load: there is no ungated store to fall back to.
    """
    from registry_gate.mlflow_plugin.store import build_store as build_gated_store

    return build_gated_store(f"gated:{store_uri}", tracking_uri)


build_store.gates_plain_addresses = True  # type: ignore[attr-defined]
"""Tells the gate, which looks for the store inside, that this is itself."""
