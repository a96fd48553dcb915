"""The registry store behind `gated:<database uri>`: MLflow's own store with every promotion reviewed first.

`build_store` is the entry point. `GatedStore` overrides exactly the methods of MLFLOW.md section 5 that can make a
promoted name mean another model; everything else is MLflow's, unchanged. `tripwire` guards what is really written.
"""

from __future__ import annotations

import inspect
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.uri import get_uri_scheme
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
    _validate_model_renaming,
    _validate_model_version,
)
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from registry_gate.config import Settings, load_settings
from registry_gate.errors import LedgerError, RegistryGateError
from registry_gate.gate import Gate, PolicySource, unavailable
from registry_gate.ledger import Ledger
from registry_gate.ledger.migrate import upgrade
from registry_gate.ledger.store import utc_now
from registry_gate.mlflow_plugin.actor import current_actor
from registry_gate.mlflow_plugin.candidate import PROMPT_SOURCES, Candidates
from registry_gate.mlflow_plugin.tripwire import Permit, hold_in, permitted, promoted_names, protect, record_in, refusal
from registry_gate.promotion import PROMOTED_STAGES, ModelVersionRef, Move, PromotionRequest, Target, TargetKind

PREFIX = "gated:"
RESERVED_TAGS = "registry_gate."
"""Tags that only the gate could mean. Nothing reads them; refusing them keeps people from trusting a forgery."""

LOCK_TIMEOUT_S = 5
"""Longest wait for a lock in PostgreSQL. MLflow gives SQLite 20 s; proxies cut a call after 30 to 60 s."""

T = TypeVar("T")
_logger = logging.getLogger(__name__)


def build_store(store_uri: str, tracking_uri: str | None = None) -> SqlAlchemyStore:
    """Build MLflow's store for the URI after `gated:` and put the gate before it.

    Called by MLflow under its own (not re-entrant) lock, so the inner builder is asked for, never `get_store()`.

    Raises:
        MlflowException: The inner URI is no database.
        LedgerError: The ledger's tables cannot be created.
        ConfigError: The gate's settings are invalid.
    """
    inner_uri = store_uri.removeprefix(PREFIX)
    if inner_uri.startswith(PREFIX) or get_uri_scheme(inner_uri) not in DATABASE_ENGINES:
        # Never show the URI: it may hold a password.
        raise MlflowException(
            "registry-gate expects gated:<database uri> with one of "
            f"{', '.join(DATABASE_ENGINES)}, got another scheme after 'gated:'",
            error_code=INVALID_PARAMETER_VALUE,
        )
    if "mlflow.server.handlers" in sys.modules:
        # The server's registry knows about workspaces and read replicas; the client's does not.
        registry = sys.modules["mlflow.server.handlers"]._model_registry_store_registry
    else:
        from mlflow.tracking._model_registry.utils import _get_store_registry

        registry = _get_store_registry()
    builder = registry.get_store_builder(inner_uri)
    takes_tracking = "tracking_uri" in inspect.signature(builder).parameters
    store = builder(store_uri=inner_uri, **({"tracking_uri": tracking_uri} if takes_tracking else {}))
    return gate_store(store, load_settings())


def gate_store(store: SqlAlchemyStore, settings: Settings) -> SqlAlchemyStore:
    """Put the gate before a store, in place. The store keeps its class as a base, so `isinstance` holds.

    Raises:
        LedgerError: The ledger's tables cannot be created.
    """
    upgrade(store.engine)
    _bound_waits(store.engine)
    protect(store.engine)
    inner = type(store)
    store.__class__ = type(f"Gated{inner.__name__}", (GatedStore, inner), {})
    gated: Any = store
    gated._install(settings)
    return store


def _bound_waits(engine: Engine) -> None:
    """Make PostgreSQL give up on a lock, as SQLite does, so that a locked ledger is a refusal and not a hung server."""
    if engine.dialect.name != "postgresql" or event.contains(engine, "connect", _set_lock_timeout):
        return
    event.listen(engine, "connect", _set_lock_timeout)
    engine.dispose()  # connections from before know nothing of it


def _set_lock_timeout(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
    connection.commit()


def is_reserved_tag(key: object) -> bool:
    """Whether a tag key is ours, however it is spelt: case, full-width letters, invisible characters."""
    text = unicodedata.normalize("NFKC", str(key)).casefold()
    return "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Zs", "Cc")).startswith(RESERVED_TAGS)


class GatedStore:
    """Mixed in before the class of MLflow's store."""

    engine: Any
    ManagedSessionMaker: Any
    _get_sql_model_version: Any
    _get_registered_model: Any
    _get_active_workspace: Any

    def _install(self, settings: Settings) -> None:
        candidates = Candidates(self._location)
        self._gate = Gate(
            ledger=Ledger(self.engine, utc_now),
            policies=PolicySource(settings.gate.policy_dir, settings.battery_dirs),
            forms=candidates,
            clock=utc_now,
        )
        inner_sessions = self.ManagedSessionMaker

        @contextmanager
        def sessions(read_only: bool = True) -> Iterator[Session]:
            with inner_sessions(read_only=read_only) as session:
                if not read_only:
                    hold_in(session)
                yield session
                if not read_only:
                    # Decision, audit entry and pointer are committed together or not at all.
                    _recorded(session)

        self.ManagedSessionMaker = sessions

    @property
    def gate(self) -> Gate:
        """The gate that decides for this store."""
        return self._gate

    # -- promotions ---------------------------------------------------------------------------------------------------

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> Any:
        """Reviewed: the alias would mean this version."""
        _validate_model_name(name)
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)
        target = Target(kind=TargetKind.ALIAS, model=name, name=alias, workspace=self._get_active_workspace())
        ref = self._version(name, _validate_model_version(version))
        return self._promote(
            name,
            "set_registered_model_alias",
            (Move(target=target, version=ref),),
            lambda: super(GatedStore, self).set_registered_model_alias(name, alias, version),  # type: ignore[misc]
        )

    def transition_model_version_stage(
        self, name: str, version: Any, stage: str, archive_existing_versions: bool
    ) -> Any:
        """Reviewed for Staging and Production; None and Archived are demotions."""

        # As a number: MLflow compares it unconverted when it archives others, which PostgreSQL refuses for text.
        number = _validate_model_version(version)

        def write() -> Any:
            return super(GatedStore, self).transition_model_version_stage(  # type: ignore[misc]
                name, number, stage, archive_existing_versions
            )

        canonical = get_canonical_stage(stage)
        if canonical not in PROMOTED_STAGES:
            body = {"model": name, "version": str(version), "stage": canonical}
            return self._demote("transition_model_version_stage", body, write)
        target = Target(kind=TargetKind.STAGE, model=name, name=canonical, workspace=self._get_active_workspace())
        ref = self._version(name, number)
        return self._promote(name, "transition_model_version_stage", (Move(target=target, version=ref),), write)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        """Reviewed: every promoted name travels along, so each must be allowed under the new name's policies."""
        _validate_model_renaming(new_name)
        workspace = self._get_active_workspace()
        with self.ManagedSessionMaker(read_only=False) as session:
            self._get_registered_model(session, name)
            promoted = promoted_names(session, name, workspace)
            versions = {version: self._reference(session, name, version) for _, version in promoted}
        moves = tuple(
            Move(
                target=Target(kind=target.kind, model=new_name, name=target.name, workspace=workspace),
                version=versions[version],
            )
            for target, version in promoted
        )
        return self._promote(
            name,
            "rename_registered_model",
            moves,
            lambda: super(GatedStore, self).rename_registered_model(name, new_name),  # type: ignore[misc]
            renames=(name, new_name),
        )

    # -- demotions: always possible, always recorded ------------------------------------------------------------------

    def delete_registered_model_alias(self, name: str, alias: str) -> Any:
        """Recorded."""
        return self._demote(
            "delete_registered_model_alias",
            {"model": name, "alias": alias},
            lambda: super(GatedStore, self).delete_registered_model_alias(name, alias),  # type: ignore[misc]
        )

    def delete_model_version(self, name: str, version: Any) -> Any:
        """Recorded."""
        return self._demote(
            "delete_model_version",
            {"model": name, "version": str(version)},
            lambda: super(GatedStore, self).delete_model_version(name, version),  # type: ignore[misc]
        )

    def delete_registered_model(self, name: str) -> Any:
        """Recorded."""
        return self._demote(
            "delete_registered_model",
            {"model": name},
            lambda: super(GatedStore, self).delete_registered_model(name),  # type: ignore[misc]
        )

    # -- reserved tags ------------------------------------------------------------------------------------------------

    def set_registered_model_tag(self, name: str, tag: Any) -> Any:
        """Refused for reserved keys."""
        _refuse_reserved(tag.key)
        return super().set_registered_model_tag(name, tag)  # type: ignore[misc]

    def delete_registered_model_tag(self, name: str, key: str) -> Any:
        """Refused for reserved keys."""
        _refuse_reserved(key)
        return super().delete_registered_model_tag(name, key)  # type: ignore[misc]

    def set_model_version_tag(self, name: str, version: Any, tag: Any) -> Any:
        """Refused for reserved keys."""
        _refuse_reserved(tag.key)
        return super().set_model_version_tag(name, version, tag)  # type: ignore[misc]

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> Any:
        """Refused for reserved keys."""
        _refuse_reserved(key)
        return super().delete_model_version_tag(name, version, key)  # type: ignore[misc]

    def create_registered_model(self, name: str, tags: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Refused with reserved tags."""
        _refuse_reserved(*(tag.key for tag in tags or ()))
        return super().create_registered_model(name, tags, *args, **kwargs)  # type: ignore[misc]

    def create_model_version(
        self, name: str, source: str, run_id: Any = None, tags: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Refused with reserved tags."""
        _refuse_reserved(*(tag.key for tag in tags or ()))
        return super().create_model_version(name, source, run_id, tags, *args, **kwargs)  # type: ignore[misc]

    # -- how ----------------------------------------------------------------------------------------------------------

    def _location(self, name: str, version: int) -> str:
        with self.ManagedSessionMaker(read_only=False) as session:
            return self._reference(session, name, version).location

    def _version(self, name: str, version: int) -> ModelVersionRef:
        # A write session on purpose: a read replica may be behind.
        with self.ManagedSessionMaker(read_only=False) as session:
            return self._reference(session, name, version)

    def _reference(self, session: Session, name: str, version: int) -> ModelVersionRef:
        row = self._get_sql_model_version(session, name, version)
        return ModelVersionRef(
            name=row.name,
            version=int(row.version),
            created_ms=int(row.creation_time),
            location=str(row.storage_location or row.source or ""),
            source=str(row.source or ""),
            workspace=self._get_active_workspace(),
        )

    def _promote(
        self,
        model: str,
        operation: str,
        moves: tuple[Move, ...],
        write: Callable[[], T],
        *,
        renames: tuple[str, str] | None = None,
    ) -> T:
        """Review, then write pointer, decisions and audit entries in one transaction, or refuse with every reason."""
        actor, workspace = current_actor(), self._get_active_workspace()
        # Prompts are no models: they have no artifact that could be served (MLFLOW.md section 6).
        governed = tuple(move for move in moves if move.version.source not in PROMPT_SOURCES)
        body = {"operation": operation, "moves": [[str(m.target), m.version.version] for m in moves]}
        if not governed:
            permit = Permit(
                model=model,
                workspace=workspace,
                moves=moves,
                renames=renames,
                record=lambda c: self._note(c, "ungoverned", {**body, "actor": actor.name}) if moves else None,
            )
            with permitted(permit):
                return write()
        request = PromotionRequest(operation=operation, moves=governed, actor=actor)
        try:
            review = self._gate.review(request)
            if not review.allowed:
                denial = self._gate.record_denied(review)
                raise _denied(denial.message(), denial.payload())
        except LedgerError as err:
            raise _denied(*unavailable(request, err)) from err
        except RegistryGateError as err:
            raise refusal(f"nothing could be decided: {err}", err.code) from err
        except MlflowException:
            raise
        except Exception as err:
            # Whatever else goes wrong while deciding is no reason to let a model through.
            _logger.exception("registry-gate could not review %s", operation)
            raise refusal(
                f"nothing could be decided: an unexpected {type(err).__name__} in the gate; see the server's log",
                "gate_error",
            ) from err
        permit = Permit(
            model=model,
            workspace=workspace,
            moves=moves,
            renames=renames,
            record=lambda c: self._gate.record_allowed(c, review),
        )
        with permitted(permit):
            return write()

    def _demote(self, operation: str, body: Mapping[str, Any], write: Callable[[], T]) -> T:
        actor, workspace = current_actor(), self._get_active_workspace()
        entry = {"operation": operation, "workspace": workspace, "actor": actor.name, **body}
        permit = Permit(
            model=str(body["model"]),
            workspace=workspace,
            moves=(),
            record=lambda c: self._note(c, "demotion", entry),
        )
        with permitted(permit):
            return write()

    def _note(self, connection: Connection, kind: str, body: Mapping[str, Any]) -> None:
        """An audit entry that must not keep a demotion from happening, not even with a broken ledger."""
        try:
            with connection.begin_nested():
                self._gate.ledger.record_event(connection, kind, body)
        except (SQLAlchemyError, RegistryGateError):
            _logger.exception("registry-gate could not record a %s: %s", kind, dict(body))


def _recorded(session: Session) -> None:
    try:
        record_in(session)
    except (SQLAlchemyError, RegistryGateError) as err:
        cause = str(getattr(err, "orig", None) or err).splitlines()[0]
        raise refusal(
            f"the decision could not be recorded, so nothing was changed: {cause}", "ledger_unavailable"
        ) from err


def _refuse_reserved(*keys: object) -> None:
    for key in keys:
        if is_reserved_tag(key):
            raise refusal(
                f"expected a tag outside the reserved prefix {RESERVED_TAGS!r}, got {str(key)[:80]!r}: what the gate "
                "knows is in its ledger, not in tags",
                "reserved_tag",
            )


def _denied(message: str, payload: Mapping[str, Any]) -> MlflowException:
    return MlflowException(message, error_code=PERMISSION_DENIED, registry_gate=dict(payload))
