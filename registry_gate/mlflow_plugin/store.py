"""The registry store behind `gated:<database uri>`: MLflow's own store with every promotion reviewed first.

`build_store` is the entry point. `GatedStore` overrides exactly the methods of MLFLOW.md section 5 that can make a
promoted name mean another model; everything else is MLflow's, unchanged. `tripwire` guards what is really written.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from urllib.parse import urlparse

from mlflow.entities.model_registry.model_version_stages import (
    STAGE_ARCHIVED,
    STAGE_DELETED_INTERNAL,
    get_canonical_stage,
)
from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelTag,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.uri import get_uri_scheme
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
    _validate_model_renaming,
    _validate_model_version,
)
from sqlalchemy import Connection, Engine, bindparam, delete, event, insert, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from registry_gate.config import Settings, load_settings
from registry_gate.errors import LedgerError, PolicyError, RegistryGateError
from registry_gate.evidence.keys import GateKey
from registry_gate.gate import Gate, Review, unavailable
from registry_gate.ledger import Ledger
from registry_gate.ledger.frozen import FrozenTrees, Held
from registry_gate.ledger.migrate import upgrade
from registry_gate.ledger.store import utc_now
from registry_gate.mlflow_plugin.actor import Identity
from registry_gate.mlflow_plugin.candidate import PROMPT_SOURCES, Candidates
from registry_gate.mlflow_plugin.status import DOCTOR_TAG, server_status
from registry_gate.mlflow_plugin.tripwire import Permit, hold_in, permitted, promoted_names, protect, record_in, refusal
from registry_gate.promotion import PROMOTED_STAGES, ModelVersionRef, Move, PromotionRequest, Target, TargetKind
from registry_gate.signed_policies import policy_source

PREFIX = "gated:"
MUTABLE_SCHEMES = frozenset({"runs"})
"""Schemes of sources that are resolved at each read. Other places are read again, and digested, at each promotion."""

_COPY_SOURCE = re.compile(r"^models:/([^/]+)/([0-9]{1,9})$")

RESERVED_TAGS = "registry_gate."
BREAK_GLASS_TAG = "registry_gate.break_glass"
"""On versions that break-glass let through: its id."""
"""Tags that only the gate could mean. Nothing reads them; refusing them keeps people from trusting a forgery."""

LOCK_TIMEOUT_S = 2
"""Longest wait for a lock by a promoting write, seconds. MLflow gives SQLite 20; then the answer is to ask again."""

T = TypeVar("T")
_RECORDING: ContextVar[Connection | None] = ContextVar("registry_gate_recording", default=None)
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
    builder = _inner_builder(inner_uri)
    takes_tracking = "tracking_uri" in inspect.signature(builder).parameters
    store = builder(store_uri=inner_uri, **({"tracking_uri": tracking_uri} if takes_tracking else {}))
    return gate_store(store, load_settings())


def _inner_builder(inner_uri: str) -> Callable[..., SqlAlchemyStore]:
    """What builds the store inside: whatever is registered for the address, but never a builder that gates it again."""
    from mlflow.tracking._model_registry import utils

    # The server's registry knows about workspaces and read replicas; the client's does not.
    handlers: Any = sys.modules.get("mlflow.server.handlers")
    registry = utils._get_store_registry() if handlers is None else handlers._model_registry_store_registry
    builder: Callable[..., SqlAlchemyStore] = registry.get_store_builder(inner_uri)
    if not getattr(builder, "gates_plain_addresses", False):
        return builder
    # deploy/enforce took the place of MLflow's own builder, so that one is asked for by name.
    own: Callable[..., SqlAlchemyStore] = (
        utils._get_sqlalchemy_store
        if handlers is None
        else handlers.ModelRegistryStoreRegistryWrapper._get_sqlalchemy_store
    )
    return own


def gate_store(store: SqlAlchemyStore, settings: Settings) -> SqlAlchemyStore:
    """Put the gate before a store, in place. The store keeps its class as a base, so `isinstance` holds.

    Raises:
        LedgerError: The ledger's tables cannot be created.
    """
    upgrade(store.engine)
    _bound_waits(store.engine)
    inner = type(store)
    store.__class__ = type(f"Gated{inner.__name__}", (GatedStore, inner), {})
    gated: Any = store
    gated._install(settings)
    protect(store.engine, gated._is_governed)
    return store


def _bound_waits(engine: Engine) -> None:
    """Make the database give up on a lock, as SQLite does: a locked ledger is a refusal and not a hung server."""
    set_timeout = _LOCK_TIMEOUTS.get(engine.dialect.name)
    if set_timeout is None or event.contains(engine, "connect", set_timeout):
        return
    event.listen(engine, "connect", set_timeout)
    engine.dispose()  # connections from before know nothing of it


def _set_lock_timeout(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'")
    connection.commit()


def _set_lock_timeouts_of_mysql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        # The first is for rows (50 s by default), the second for tables under ALTER or LOCK (a day, or a year).
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_TIMEOUT_S}, lock_wait_timeout = {LOCK_TIMEOUT_S}")
    connection.commit()


_BY_LETTER = ("sqlite", "postgresql")
"""Databases that compare letter by letter. If somebody made theirs do otherwise, the tripwire refuses what differs."""

_LOCK_TIMEOUTS = {
    "postgresql": _set_lock_timeout,
    "mysql": _set_lock_timeouts_of_mysql,
    "mariadb": _set_lock_timeouts_of_mysql,
}


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
    _get_registered_model_alias: Any
    _get_active_workspace: Any

    def _install(self, settings: Settings) -> None:
        self._identity = Identity(settings.gate)
        ledger = Ledger(self.engine, utc_now, lock_wait_s=LOCK_TIMEOUT_S)
        self._candidates = Candidates(self._location, FrozenTrees(ledger).writes_at)
        self._gate = Gate(
            ledger=ledger,
            # Half the time for the place of the policies leaves half for the form.
            policies=policy_source(settings, wait_s=settings.gate.limit_s / 2),
            forms=self._candidates,
            key=GateKey(settings.gate.signing_key),
            clock=utc_now,
            limit_s=settings.gate.limit_s,
        )
        self._gate.policies.prepare()
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
        ref = self._version(name, _validate_model_version(version))
        # What the rows are called counts, not how the caller spells it: a database that ignores letter case (MySQL,
        # SQL Server) lets `CHAMPION` of `CLINICAL-X` replace `champion` of `clinical-x`, whatever policies say of each.
        model = ref.name
        stored = self._stored_alias(model, alias)
        target = Target(kind=TargetKind.ALIAS, model=model, name=stored, workspace=self._get_active_workspace())
        return self._promote(
            model,
            "set_registered_model_alias",
            (Move(target=target, version=ref),),
            lambda: super(GatedStore, self).set_registered_model_alias(model, stored, version),  # type: ignore[misc]
        )

    def transition_model_version_stage(
        self, name: str, version: Any, stage: str, archive_existing_versions: bool
    ) -> Any:
        """Reviewed for Staging and Production; None and Archived are demotions."""

        def write(model: str, number: Any) -> Any:
            return super(GatedStore, self).transition_model_version_stage(  # type: ignore[misc]
                model, number, stage, archive_existing_versions
            )

        canonical = get_canonical_stage(stage)
        if canonical not in PROMOTED_STAGES:
            body = {"model": name, "version": str(version), "stage": canonical}
            return self._demote("transition_model_version_stage", body, lambda: write(name, version))
        try:
            _validate_model_name(name)
            # As a number: MLflow compares it unconverted when it archives others, which PostgreSQL refuses for text.
            number = _validate_model_version(version)
        except Exception:
            # MLflow's own error, in its own order and words: it wraps whatever a name of an odd type raises. Without a
            # permit nothing is promoted, should none come.
            return write(name, version)
        ref = self._version(name, number)
        model = ref.name  # as the row is called; see `set_registered_model_alias`
        target = Target(kind=TargetKind.STAGE, model=model, name=canonical, workspace=self._get_active_workspace())
        moves = (Move(target=target, version=ref),)
        leaving = self._others_in(target, number) if archive_existing_versions else ()
        return self._promote(
            model, "transition_model_version_stage", moves, lambda: write(model, number), leaving=leaving
        )

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        """Reviewed: every promoted name travels along, so each must be allowed under the new name's policies."""
        _validate_model_renaming(new_name)
        workspace = self._get_active_workspace()
        with self.ManagedSessionMaker(read_only=False) as session:
            name = str(self._get_registered_model(session, name).name)  # as the row is called
            # To its own name nothing moves, and the ledger must not tell of a promotion.
            promoted = [] if new_name == name else promoted_names(session, name, workspace)
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
        """Refused for reserved keys, and where it would make a model a prompt or a prompt a model.

        `doctor` asks by a reserved key what the gate knows about itself.
        """
        self._answer_doctor(getattr(tag, "key", None))
        _refuse_reserved(getattr(tag, "key", None))
        self._refuse_prompt_change(name, getattr(tag, "key", None), getattr(tag, "value", None))
        return super().set_registered_model_tag(name, tag)  # type: ignore[misc]

    def delete_registered_model_tag(self, name: str, key: str) -> Any:
        """Refused for reserved keys, and where it would make a prompt a model."""
        _refuse_reserved(key)
        self._refuse_prompt_change(name, key, None)
        return super().delete_registered_model_tag(name, key)  # type: ignore[misc]

    def set_model_version_tag(self, name: str, version: Any, tag: Any) -> Any:
        """Refused for reserved keys."""
        _refuse_reserved(getattr(tag, "key", None))
        return super().set_model_version_tag(name, version, tag)  # type: ignore[misc]

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> Any:
        """Refused for reserved keys."""
        _refuse_reserved(key)
        return super().delete_model_version_tag(name, version, key)  # type: ignore[misc]

    def create_registered_model(self, name: str, tags: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Refused with reserved tags; `doctor` asks here where it may not change tags."""
        self._answer_doctor(*(tag.key for tag in tags or ()))
        _refuse_reserved(*(tag.key for tag in tags or ()))
        return super().create_registered_model(name, tags, *args, **kwargs)  # type: ignore[misc]

    def create_model_version(
        self, name: str, source: str, run_id: Any = None, tags: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Refused with reserved tags, and for a governed model with a source that can mean other files tomorrow.

        A copy brings the tags of what it was copied from; reserved ones are left out there, because whoever copies did
        not write them.
        """
        if any(is_reserved_tag(tag.key) for tag in tags or ()):
            copied = self._tags_of_copied(str(source))
            tags = [tag for tag in tags if not is_reserved_tag(tag.key) or (tag.key, tag.value) not in copied]
        _refuse_reserved(*(tag.key for tag in tags or ()))
        if urlparse(str(source)).scheme.lower() in MUTABLE_SCHEMES and self._may_be_governed(name):
            raise refusal(
                f"expected a source that always means the same files, got {str(source)[:200]!r}, which MLflow looks up "
                "anew at each read: register the logged model itself, mlflow.register_model(model_info.model_uri, "
                f"{str(name)[:80]!r}) or create_model_version(source='models:/m-<id>')",
                "source_mutable",
            )
        return super().create_model_version(name, source, run_id, tags, *args, **kwargs)  # type: ignore[misc]

    def _answer_doctor(self, *keys: object) -> None:
        if DOCTOR_TAG in keys:
            raise refusal(
                f"this server is gated; the tag {DOCTOR_TAG!r} only asks so and is never set",
                "reserved_tag",
                status=server_status(self._gate),
            )

    # -- how ----------------------------------------------------------------------------------------------------------

    def _location(self, name: str, version: int) -> str:
        return self._version(name, version).location

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection to read through: the promotion's own while it is recorded.

        A second one then could be the one that the pool does not have, because others hold theirs and wait for us.

        Raises:
            MlflowException: The database does not answer, or not in time (a refusal).
        """
        own = _RECORDING.get()
        if own is not None:
            yield own
            return
        try:
            with self._gate.ledger.connection() as connection:
                yield connection
        except OperationalError as err:
            cause = str(getattr(err, "orig", None) or type(err).__name__).splitlines()[0]
            raise refusal(
                f"expected the registry's database to answer, got: {cause}. Ask again", "ledger_unavailable"
            ) from err

    def _record(
        self,
        connection: Connection,
        review: Review,
        held: Mapping[ModelVersionRef, Held],
        leaving: tuple[int, ...],
    ) -> None:
        token = _RECORDING.set(connection)
        try:
            self._gate.record_allowed(connection, review, held)
        finally:
            _RECORDING.reset(token)
        for stored in review.decisions:
            _announce(connection, stored.move, stored.decision.break_glass)
        request = review.request
        for version in leaving:
            # Each leaves the stage as if somebody had asked for it: what is in the stage later must have come anew.
            body = {
                "operation": request.operation,
                "workspace": request.moves[0].target.workspace,
                "actor": request.actor.to_dict(),
                "model": request.moves[0].target.model,
                "version": str(version),
                "stage": STAGE_ARCHIVED,
            }
            self._note(connection, "demotion", body)

    def _others_in(self, target: Target, version: int) -> tuple[int, ...]:
        """Versions that a stage holds beside this one; MLflow archives them when it is asked to."""
        keys = {"model": target.model, "stage": target.name, "space": target.workspace}
        with self._reading() as connection:
            found = connection.execute(_IN_STAGE, keys).scalars()
            return tuple(sorted(int(number) for number in found if int(number) != version))

    def _stored_model(self, name: str) -> str:
        """How the registered model's row is called that a name means; the name itself when there is none."""
        if self.engine.dialect.name in _BY_LETTER:
            return name
        query = select(SqlRegisteredModel.name).where(
            SqlRegisteredModel.name == name, SqlRegisteredModel.workspace == self._get_active_workspace()
        )
        with self._reading() as connection:
            found = connection.execute(query).scalar()
        return name if found is None else str(found)

    def _stored_alias(self, model: str, alias: str) -> str:
        """How the row is called that setting this alias would replace; the alias itself when there is none."""
        if self.engine.dialect.name in _BY_LETTER:
            return alias
        with self.ManagedSessionMaker(read_only=False) as session:
            row = self._get_registered_model_alias(session, model, alias)
            return alias if row is None else str(row.alias)

    def _version(self, name: str, version: int) -> ModelVersionRef:
        """The version as it is now.

        Raises:
            MlflowException: As MLflow's own lookup, e.g. because there is no such version.
        """
        # The primary database on purpose: a read replica may be behind.
        workspace = self._get_active_workspace()
        try:
            with self._reading() as connection:
                row = connection.execute(
                    _VERSION_ROW, {"model": name, "number": version, "space": workspace}
                ).one_or_none()
        except (SQLAlchemyError, ValueError, TypeError, OverflowError):
            # A name or number that the database cannot even compare: MLflow's own lookup says so in its own words.
            _logger.debug("registry-gate could not look up a version", exc_info=True)
            row = None
        if row is not None:
            return _reference_of(row, workspace)
        if _RECORDING.get() is not None:
            raise MlflowException(f"models:/{name}/{version} is gone", error_code=RESOURCE_DOES_NOT_EXIST)
        with self.ManagedSessionMaker(read_only=False) as session:
            return self._reference(session, name, version)

    def _reference(self, session: Session, name: str, version: int) -> ModelVersionRef:
        return _reference_of(self._get_sql_model_version(session, name, version), self._get_active_workspace())

    def _promote(
        self,
        model: str,
        operation: str,
        moves: tuple[Move, ...],
        write: Callable[[], T],
        *,
        renames: tuple[str, str] | None = None,
        leaving: tuple[int, ...] = (),
    ) -> T:
        """Review, then write pointer, decisions and audit entries in one transaction, or refuse with every reason."""
        actor, workspace = self._identity.current(), self._get_active_workspace()
        governed = tuple(move for move in moves if not self._is_prompt(model, move.version))
        body = {"operation": operation, "moves": [[str(m.target), m.version.version] for m in moves]}
        if not governed:
            permit = Permit(
                model=model,
                workspace=workspace,
                moves=moves,
                renames=renames,
                record=lambda c: self._note(c, "ungoverned", {**body, "actor": actor.to_dict()}) if moves else None,
            )
            with permitted(permit):
                return write()
        request = PromotionRequest(operation=operation, moves=governed, actor=actor)
        try:
            review = self._gate.review(request)
            if not review.allowed:
                denial = self._gate.record_denied(review)
                raise _denied(denial.message(), denial.payload())
            # Asked for now: inside the promotion's transaction the registry must not be read through another one.
            held = {version: self._candidates.held(version, form) for version, form in review.forms.items()}
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
            lock_wait_s=LOCK_TIMEOUT_S,
            record=lambda c: self._record(c, review, held, leaving),
        )
        with permitted(permit):
            return write()

    def _demote(self, operation: str, body: Mapping[str, Any], write: Callable[[], T]) -> T:
        actor, workspace = self._identity.current(), self._get_active_workspace()
        entry = {"operation": operation, "workspace": workspace, "actor": actor.to_dict(), **body}
        permit = Permit(
            model=str(body["model"]),
            workspace=workspace,
            moves=(),
            record=lambda c: self._note(c, "demotion", entry),
        )
        with permitted(permit):
            return write()

    def _tags_of_copied(self, source: str) -> set[tuple[str, str]]:
        """Tags of the version that a source names; none when it names no version."""
        named = _COPY_SOURCE.match(source)
        if named is None:
            return set()
        keys = {"model": named[1], "number": int(named[2]), "space": self._get_active_workspace()}
        with self._reading() as connection:
            return {(row.key, row.value) for row in connection.execute(_VERSION_TAGS, keys)}

    def _is_governed(self, target: Target) -> bool:
        """Whether a target is governed; true as well while nobody can tell."""
        try:
            governance = self._gate.policies.current().governing(target)
        except PolicyError:
            return True
        return governance.free is None and governance.unmatched != "allow"

    def _may_be_governed(self, name: str) -> bool:
        """Whether some target of this model may be governed; true as well while nobody can tell."""
        try:
            policy_set = self._gate.policies.current()
        except PolicyError:
            return True
        name = self._stored_model(name)
        unmatched = policy_set.document.spec.unmatched
        return unmatched == "deny" or any(policy.may_govern(str(name)) for policy in policy_set.policies.values())

    def _refuse_prompt_change(self, name: str, key: object, value: object) -> None:
        """MLflow tells prompts from models by this tag, and a name must not change sides once it is there."""
        if str(key) != IS_PROMPT_TAG_KEY or not self._may_be_governed(name):
            return
        is_prompt = self._prompt_tag(name) == "true"
        if is_prompt != (str(value).lower() == "true"):
            raise refusal(
                f"expected {str(name)[:80]!r} to stay a {'prompt' if is_prompt else 'model'}, got a change of the tag "
                f"{IS_PROMPT_TAG_KEY}: create another name for what is something else",
                "prompt_tag",
            )

    def _is_prompt(self, model: str, version: ModelVersionRef) -> bool:
        """Prompts are no models: they have no artifact that could be served (MLFLOW.md section 6).

        Both must say so, the version's source, which nobody can change, and the registered model: else an empty version
        could stand in for a model, or a model be let through by a tag.
        """
        if version.source not in PROMPT_SOURCES:
            return False
        return self._prompt_tag(model) == "true"

    def _prompt_tag(self, model: str) -> str | None:
        """The registered model's own word on being a prompt; in lower case, as MLflow compares it."""
        keys = {"model": model, "tag": IS_PROMPT_TAG_KEY, "space": self._get_active_workspace()}
        with self._reading() as connection:
            rows = connection.execute(_MODEL_TAG, keys).all()
        # Letter by letter, as MLflow reads it, and not as a database does that ignores letter case.
        return next((str(value).lower() for key, value in rows if key == IS_PROMPT_TAG_KEY), None)

    def _note(self, connection: Connection, kind: str, body: Mapping[str, Any]) -> None:
        """An audit entry that must not keep a demotion from happening, not even with a broken ledger."""
        try:
            with connection.begin_nested():
                self._gate.ledger.record_event(connection, kind, body)
        except (SQLAlchemyError, RegistryGateError):
            _logger.exception("registry-gate could not record a %s: %s", kind, dict(body))


_VERSION_ROW = select(
    SqlModelVersion.name,
    SqlModelVersion.version,
    SqlModelVersion.creation_time,
    SqlModelVersion.storage_location,
    SqlModelVersion.source,
).where(
    SqlModelVersion.name == bindparam("model"),
    SqlModelVersion.version == bindparam("number"),
    SqlModelVersion.workspace == bindparam("space"),
    SqlModelVersion.current_stage != STAGE_DELETED_INTERNAL,
)
_IN_STAGE = select(SqlModelVersion.version).where(
    SqlModelVersion.name == bindparam("model"),
    SqlModelVersion.workspace == bindparam("space"),
    SqlModelVersion.current_stage == bindparam("stage"),
)
_VERSION_TAGS = select(SqlModelVersionTag.key, SqlModelVersionTag.value).where(
    SqlModelVersionTag.name == bindparam("model"),
    SqlModelVersionTag.version == bindparam("number"),
    SqlModelVersionTag.workspace == bindparam("space"),
)
_MODEL_TAG = select(SqlRegisteredModelTag.key, SqlRegisteredModelTag.value).where(
    SqlRegisteredModelTag.name == bindparam("model"),
    SqlRegisteredModelTag.key == bindparam("tag"),
    SqlRegisteredModelTag.workspace == bindparam("space"),
)


def _reference_of(row: Any, workspace: str) -> ModelVersionRef:
    return ModelVersionRef(
        name=row.name,
        version=int(row.version),
        created_ms=int(row.creation_time),
        location=str(row.storage_location or row.source or ""),
        source=str(row.source or ""),
        workspace=workspace,
    )


def _recorded(session: Session) -> None:
    """Write what the permit records; whatever goes wrong with it undoes the pointer too."""
    try:
        record_in(session)
    except MlflowException:
        raise
    except (LedgerError, SQLAlchemyError) as err:
        cause = str(getattr(err, "orig", None) or err).splitlines()[0]
        raise refusal(
            f"the decision could not be recorded, so nothing was changed: {cause}", "ledger_unavailable"
        ) from err
    except RegistryGateError as err:
        raise refusal(str(err), err.code) from err
    except Exception as err:
        _logger.exception("registry-gate could not record a decision")
        raise refusal(
            f"the decision could not be recorded, so nothing was changed: an unexpected {type(err).__name__} in the "
            "gate; see the server's log",
            "gate_error",
        ) from err


def _announce(connection: Connection, move: Move, break_glass: str | None) -> None:
    """Show on MLflow's own pages that a version was let through by break-glass, until policies allow it."""
    tags = SqlModelVersionTag
    # After a rename the version's rows carry the name of the target.
    row = {"workspace": move.target.workspace, "name": move.target.model, "version": move.version.version}
    connection.execute(
        delete(tags).where(*(getattr(tags, key) == value for key, value in row.items()), tags.key == BREAK_GLASS_TAG)
    )
    if break_glass is not None:
        connection.execute(insert(tags).values(**row, key=BREAK_GLASS_TAG, value=break_glass))


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
