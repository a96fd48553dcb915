"""The gated store in this process, its attackers, and an oracle that knows what must be true.

`World` holds one real gated store (workspace-aware, on a SQLite file), a plain MLflow store on the same database, and
what an attacker can reach: artifact files, policy files, keys, the ledger's evidence, the clock. It keeps its own book
of what lies where and who signed what, and `check` compares the database, read with plain SQL, with that book. It asks
neither the gate, nor `decide`, nor the policy set: what may be promoted is written down here a second time, as a small
model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel, SqlRegisteredModelAlias
from mlflow.store.model_registry.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from mlflow.utils.workspace_context import clear_server_request_workspace, set_server_request_workspace
from sqlalchemy import insert, update
from sqlalchemy.exc import SQLAlchemyError

from registry_gate.artifact import HashCache, LocalTree, read_manifest
from registry_gate.assessment import Assessment, Disagreement, GraderRecord, Measured, PairedTable, ValidityCheck
from registry_gate.battery import load_batteries
from registry_gate.evidence.envelope import envelope_digest, sign
from registry_gate.evidence.keys import generate_key, load_signer
from registry_gate.evidence.statement import Producer, Statement
from registry_gate.form import FormManifest
from registry_gate.mlflow_plugin.store import build_store

WORKSPACES = ("default", "ward")
MODELS = ("clinical-a", "clinical-b", "chat-a", "chat-b", "toy-a", "prompt-a")
FREE_ALIASES = ("candidate", "latest-1")
ALIASES = (
    *FREE_ALIASES,
    *("champion", "Champion", "CANDIDATE", "\u0441andidate", "candidate-x", "my-candidate", "Latest-1", "production"),
)
STAGES = ("Production", "production", "STAGING", "Staging", "sTaGiNg", "Archived", "archived", "None", "nOnE")
PROMOTED = {"production": "Production", "staging": "Staging"}
CONTENTS = ("c0", "c1", "c2", "c3")
SLOTS = (0, 1)
QUALITIES = {"clean": 0, "fair": 2, "bad": 20}
POLICIES = ("normal", "tight", "closed", "broken", "keyless", "other-key")
START = datetime(2026, 1, 1, tzinfo=UTC)
MAX_AGE = timedelta(days=90)
TOLERANCE = timedelta(minutes=5)
GENESIS = "0" * 64
MLFLOWS_OWN = ("is not an Active stage", "Unable to fetch model from model URI source artifact location")
"""MLflow's INTERNAL_ERROR for archiving together with a demotion, and for a source that names no version."""

_POLICY = """\
apiVersion: registry-gate/v1
kind: PromotionPolicy
metadata: {{name: {name}, title: {name}, owner: owner@example.org}}
spec:
  match: {{any: [{{models: {models}, aliases: ["*"], stages: [Staging, Production]}}]}}
  enforcement: deny
  subject: {{formats: [safetensors], base: optional, remoteCode: forbidden}}
  evidence: {{battery: {battery}, maxAge: 90d, signedBy: [worker], minProbes: 30}}
  confidence: 0.95
  rules:
    - {{id: R-1, title: Refuses, measure: {name}.harmful_compliance, atMost: {limit}, severity: high}}
  disagreement: {{graders: {{atMost: 0.10, otherwise: inconclusive}}, instruments: conflict}}
  allowNotes: true
  onPass: allow
"""
_POLICY_SET = """\
apiVersion: registry-gate/v1
kind: PolicySet
metadata: {{name: attacked, title: attacked, owner: owner@example.org}}
spec:
  freeAliases: {free}
  unmatched: allow
  signers: [{{name: worker, publicKey: signers/worker.pem}}]
"""
_BATTERY = """\
apiVersion: registry-gate/v1
kind: Battery
metadata: {{name: {name}, version: 1, title: {name}}}
spec:
  instruments:
    - {{name: {name}, metric: harmful_compliance, size: 60, probes: [{{shipped: general.jsonl}}], graders: [g]}}
"""


class BrokenError(AssertionError):
    """The invariant does not hold."""


@dataclass
class Evidence:
    """An envelope in the ledger, as the one who put it there knows it."""

    workspace: str
    filed_under: str
    digest: str
    battery: str
    quality: str
    assessed_at: datetime
    signer: str
    envelope_digest: str


@dataclass(frozen=True, order=True)
class Pointer:
    """A name that people deploy from, with the row that it means."""

    workspace: str
    kind: str
    model: str
    name: str
    version: int
    created_ms: int
    location: str
    source: str
    prompt_model: bool

    @property
    def target(self) -> tuple[str, str, str, str]:
        return self.workspace, self.kind, self.model, self.name

    @property
    def is_prompt(self) -> bool:
        return self.prompt_model and self.source in ("dummy-source", "prompt-template")


@dataclass(frozen=True)
class Allowed:
    """An allowed decision in the ledger, and whether it found the target governed."""

    target: tuple[str, str, str, str]
    version: int
    created_ms: int
    location: str
    digest: str | None


@dataclass
class _Book:
    """What the attackers did in this sequence."""

    contents: dict[str, str] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)
    policies: str = "normal"
    allowed: list[Allowed] = field(default_factory=list)
    pointers: dict[tuple[str, str, str, str, int], Pointer] = field(default_factory=dict)
    seq: int = 0
    head: str = GENESIS
    latest: datetime | None = None
    decided: datetime | None = None


def governing(model: str, target_name: str, kind: str, policies: str) -> tuple[str, ...]:
    """Names of the policies that govern a target; the oracle's own reading of the files it wrote."""
    free = (
        policies != "closed" and kind == "alias" and (target_name == "candidate" or target_name.startswith("latest-"))
    )
    if free:
        return ()
    found = []
    if model.startswith("clinical-"):
        found.append("ward")
    if model.startswith("chat-") or model == "clinical-b":
        found.append("house")
    return tuple(found)


class World:
    """One store, attacked again and again; `reset` makes it new.

    Args:
        directory: For the database, policies, keys and artifacts; best in memory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.counts: Counter[tuple[str, str]] = Counter()
        self.now = START
        self.meanwhile: Callable[[], object] | None = None
        self.renamed: tuple[str, str] | None = None
        self.book = _Book()
        self._environment = {
            "MLFLOW_ENABLE_WORKSPACES": "true",
            "REGISTRY_GATE_CONFIG": str(directory / "registry-gate.toml"),
        }
        for name, value in self._environment.items():
            os.environ[name] = value
        self._write_installation()
        self._write_policies("normal")
        self._forms = self._write_artifacts()
        self._database = directory / "mlflow.db"
        uri = f"sqlite:///{self._database}"
        self.use("default")
        self.store: Any = build_store(f"gated:{uri}")
        assert isinstance(self.store, WorkspaceAwareSqlAlchemyStore)
        self.store.gate.policies._battery_dirs = ()  # the shipped ones play no part and take long to parse
        self.store.gate._clock = lambda: self.now
        self.store.gate.ledger.clock = lambda: self.now
        gate = self.store.gate

        def review(request: Any) -> Any:
            reviewed = type(gate).review(gate, request)
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                meanwhile()
            return reviewed

        gate.review = review
        self.plain: Any = WorkspaceAwareSqlAlchemyStore(uri)
        self._reader = sqlite3.connect(self._database, isolation_level=None)
        self._populate()
        self._template = sqlite3.connect(":memory:")
        self._reader.backup(self._template)
        self._initial = self.book

    def close(self) -> None:
        """Give back what is held, the environment included."""
        clear_server_request_workspace()
        self._reader.close()
        self._template.close()
        self.store.engine.dispose()
        for name in self._environment:
            os.environ.pop(name, None)

    # -- making it ----------------------------------------------------------------------------------------------------

    def _write_installation(self) -> None:
        (self.directory / "policies" / "signers").mkdir(parents=True)
        (self.directory / "policies" / "batteries").mkdir()
        (self.directory / "keys").mkdir(mode=0o700)
        keys = self.directory / "keys"
        for name in ("worker", "stranger", "gate"):
            generate_key(keys / f"{name}.key", keys / f"{name}.pem")
        self._signers = {name: load_signer(keys / f"{name}.key") for name in ("worker", "stranger")}
        self._publics = {name: (keys / f"{name}.pem").read_bytes() for name in ("worker", "stranger")}
        for name in ("ward", "house"):
            (self.directory / "policies" / "batteries" / f"{name}.yaml").write_text(_BATTERY.format(name=name))
        batteries = load_batteries([self.directory / "policies" / "batteries"])
        self._battery_digests = {name.split("@")[0]: battery.digest for name, battery in batteries.items()}
        (self.directory / "registry-gate.toml").write_text(
            '[gate]\npolicy_dir = "policies"\nsigning_key = "keys/gate.key"\n'
        )

    def _write_policies(self, state: str) -> None:
        policies = self.directory / "policies"
        limit = "0.08" if state == "tight" else "0.15"
        wanted: dict[str, bytes | None] = {
            "ward.yaml": _POLICY.format(name="ward", models='["clinical-*"]', battery="ward@1", limit=limit).encode(),
            "house.yaml": _POLICY.format(
                name="house", models='["chat-*", "clinical-b"]', battery="house@1", limit=limit
            ).encode(),
            "policy-set.yaml": _POLICY_SET.format(
                free="[]" if state == "closed" else '[candidate, "latest-*"]'
            ).encode(),
            "signers/worker.pem": self._publics["stranger" if state == "other-key" else "worker"],
        }
        if state == "broken":
            wanted["ward.yaml"] = b"apiVersion: [unclosed"
        if state == "keyless":
            wanted["signers/worker.pem"] = None
        for name, data in wanted.items():
            path = policies / name
            there = path.read_bytes() if path.exists() else None
            if data is None:
                path.unlink(missing_ok=True)
            elif there != data:
                path.write_bytes(data)

    def _write_artifacts(self) -> dict[str, FormManifest]:
        forms = {}
        for content in (*CONTENTS, "spoilt"):
            files = _form_files(content)
            for slot in SLOTS:
                place = self.directory / "artifacts" / f"{content}-{slot}"
                for path, data in files.items():
                    (place / path).parent.mkdir(parents=True, exist_ok=True)
                    (place / path).write_bytes(data)
            forms[content] = read_manifest(LocalTree(place, HashCache()), _no_tree)
        assert len({form.digest for form in forms.values()}) == len(forms)
        return forms

    def place(self, content: str, slot: int) -> str:
        """Directory in which a form lies at first."""
        return str(self.directory / "artifacts" / f"{content}-{slot}")

    def _populate(self) -> None:
        self.book = _Book(
            contents={self.place(c, s): c for c in (*CONTENTS, "spoilt") for s in SLOTS},
        )
        for workspace in WORKSPACES:
            self.use(workspace)
            for model in MODELS[:-1]:
                if workspace == "ward" and model not in ("clinical-a", "chat-a"):
                    continue
                self.store.create_registered_model(model)
                for content in ("c0", "c1"):
                    self.store.create_model_version(model, self.place(content, 0))
        self.use("default")
        self.store.create_registered_model("prompt-a", [RegisteredModelTag("mlflow.prompt.is_prompt", "true")])
        self.store.create_model_version(
            "prompt-a", "prompt-template", tags=[ModelVersionTag("mlflow.prompt.is_prompt", "true")]
        )
        self.check("make the world")

    def reset(self) -> None:
        """The database, files, policies and clock as they were after the constructor."""
        self.meanwhile = self.renamed = None
        self.use("default")
        self._template.backup(self._reader)
        for place, content in self.book.contents.items():
            original = Path(place).name.rsplit("-", 1)[0]
            if content != original:
                (Path(place) / "model" / "model.safetensors").write_bytes(_weights(original))
        self._write_policies("normal")
        self.now = START
        self.book = replace(
            self._initial,
            contents=dict(self._initial.contents),
            evidence=[],
            allowed=list(self._initial.allowed),
            pointers=dict(self._initial.pointers),
        )

    # -- what attackers reach -----------------------------------------------------------------------------------------

    def use(self, workspace: str) -> None:
        """The workspace of the calls that follow."""
        self.workspace = workspace
        set_server_request_workspace(workspace)

    def set_policies(self, state: str) -> None:
        self.book.policies = state
        self._write_policies(state)

    def overwrite(self, place: str, content: str, *, keep_time: bool = False) -> None:
        """Put the weights of another form where a form lies, in place or with its old modification time."""
        path = Path(place) / "model" / "model.safetensors"
        before = path.stat()
        path.write_bytes(_weights(content))
        if keep_time:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.book.contents[place] = content

    def file_evidence(
        self,
        content: str,
        battery: str,
        quality: str = "clean",
        *,
        workspace: str | None = None,
        signer: str = "worker",
        filed_under: str | None = None,
        age: timedelta = timedelta(),
        edited: bool = False,
    ) -> None:
        """Put evidence about a form into the ledger, past everything that would look at it first."""
        form, moment = self._forms[content], self.now - age
        envelope = self._envelope(form, battery, QUALITIES[quality], moment, signer)
        digest = envelope_digest(envelope)
        if edited:
            # One number in the signed statement becomes another.
            outer = json.loads(envelope)
            payload = outer["payload"]
            outer["payload"] = payload[:-8] + ("A" if payload[-8] != "A" else "B") + payload[-7:]
            envelope = json.dumps(outer).encode()
            digest = envelope_digest(envelope)
        under = self._forms[filed_under or content].digest
        where = workspace or self.workspace
        known = [e for e in self.book.evidence if e.envelope_digest == digest]
        self.store.gate.ledger.store_evidence(
            digest=digest, form_digest=under, battery=f"{battery}@1", workspace=where, envelope=envelope
        )
        if not known:
            self.book.evidence.append(
                Evidence(
                    workspace=where,
                    filed_under=under,
                    digest=form.digest,
                    battery=battery,
                    quality=quality,
                    assessed_at=moment,
                    signer="nobody" if edited else signer,
                    envelope_digest=digest,
                )
            )

    def _envelope(self, form: FormManifest, battery: str, bad: int, moment: datetime, signer: str) -> bytes:
        measured = Measured(
            measure=f"{battery}.harmful_compliance",
            events=bad,
            probes=60,
            clusters=60,
            table=PairedTable(both=0, only_adapted=bad, only_base=0, neither=60 - bad),
            disagreements=(Disagreement(axis="refusal", differing=0, compared=120),),
        )
        assessment = Assessment(
            form_digest=form.digest,
            base_digest=None,
            battery=f"{battery}@1",
            battery_digest=self._battery_digests[battery],
            probe_sets={},
            graders=(
                GraderRecord(name="g", version="1", family="test", axis="refusal", digest="sha256:1", runtime="none"),
            ),
            generation={},
            measurements=(measured,),
            validity=(ValidityCheck(check="coherence", passed=True, detail="0 answers are degenerate"),),
            assessed_at=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            tool="tests",
        )
        statement = Statement(
            name="models:/under-attack/1",
            assessment=assessment,
            manifest=form,
            producer=Producer(name="tests", version="0", environment={}),
        )
        return sign(statement, self._signers[signer])

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(self, kind: str, action: Callable[[], object], *, raw: bool = False) -> str:
        """One registry call. Returns `done`, `denied` (by the gate) or `refused` (by MLflow).

        Args:
            kind: Name of the call, for the counts.
            action: The call.
            raw: An attacker inside the process, whose own mistakes come out as SQLAlchemy's errors.
        """
        try:
            action()
            outcome = "done"
        except MlflowException as err:
            gates = "registry-gate" in err.message
            mlflows = any(text in err.message for text in MLFLOWS_OWN)
            if not gates and not mlflows and err.error_code == "INTERNAL_ERROR" and not raw:
                raise BrokenError(f"{kind}: expected an answer, got INTERNAL_ERROR: {err.message}") from err
            outcome = "denied" if gates else "refused"
        except SQLAlchemyError as err:
            if not raw:
                raise BrokenError(f"{kind}: expected MlflowException, got {type(err).__name__}: {err}") from err
            outcome = "refused"
        except Exception as err:
            raise BrokenError(f"{kind}: expected MlflowException, got {type(err).__name__}: {err}") from err
        finally:
            self.meanwhile = None
        self.counts[kind, outcome] += 1
        return outcome

    @contextmanager
    def raw_session(self) -> Iterator[Any]:
        """An ORM session as any code in the server's process can open it."""
        with self.plain.ManagedSessionMaker(read_only=False) as session:
            yield session

    def versions(self) -> list[tuple[str, int, str, str]]:
        """(model, version, location, source) of the present workspace that are not deleted."""
        rows = self._reader.execute(
            "SELECT name, version, storage_location, source FROM model_versions "
            "WHERE workspace = ? AND current_stage <> 'Deleted_Internal' ORDER BY name, version",
            (self.workspace,),
        )
        return [(str(n), int(v), str(location), str(source)) for n, v, location, source in rows]

    def models(self) -> list[str]:
        rows = self._reader.execute(
            "SELECT name FROM registered_models WHERE workspace = ? ORDER BY name", (self.workspace,)
        )
        return [str(name) for (name,) in rows]

    # -- what must be true --------------------------------------------------------------------------------------------

    def expected(self, target: tuple[str, str, str, str], location: str, *, prompt: bool = False) -> bool:
        """Whether a promotion must be allowed now; the oracle's own model of the whole gate."""
        if prompt:
            return True
        workspace, kind, model, name = target
        state, content = self.book.policies, self.book.contents.get(location)
        loads = state not in ("broken", "keyless")
        if loads and not governing(model, name, kind, state):
            return True
        if content is None:
            return False
        digest = self._forms[content].digest
        filed = [e for e in self.book.evidence if e.workspace == workspace and e.filed_under == digest]
        believed = "stranger" if state == "other-key" else "worker"
        if loads and not self._clock_fault():
            needed = governing(model, name, kind, state)
            if all(self._passes(digest, battery, filed, believed, state) for battery in needed):
                return True
            if any(e.signer != believed for e in filed):
                return False  # somebody tampered: not even a rollback
        return any(a.target == target and a.digest == digest for a in self.book.allowed)

    def _clock_fault(self) -> bool:
        return self.book.latest is not None and self.book.latest - self.now > TOLERANCE

    def _passes(self, digest: str, battery: str, filed: list[Evidence], believed: str, state: str) -> bool:
        counting = [
            e
            for e in filed
            if e.signer == believed
            and e.digest == digest
            and e.battery == battery
            and -TOLERANCE <= self.now - e.assessed_at <= MAX_AGE
        ]
        if not counting:
            return False
        newest = max(counting, key=lambda e: (e.assessed_at, e.envelope_digest))
        return newest.quality == "clean" or (newest.quality == "fair" and state != "tight")

    def _pointers(self) -> dict[tuple[str, str, str, str, int], Pointer]:
        prompts = {
            (workspace, name)
            for workspace, name in self._reader.execute(
                "SELECT workspace, name FROM registered_model_tags "
                "WHERE key = 'mlflow.prompt.is_prompt' AND lower(value) = 'true'"
            )
        }
        rows = self._reader.execute(
            "SELECT a.workspace, 'alias', a.name, a.alias, a.version, v.creation_time, v.storage_location, v.source, "
            "v.current_stage FROM registered_model_aliases a LEFT JOIN model_versions v "
            "ON v.workspace = a.workspace AND v.name = a.name AND v.version = a.version "
            "UNION ALL SELECT workspace, 'stage', name, current_stage, version, creation_time, storage_location, "
            "source, current_stage FROM model_versions WHERE lower(current_stage) IN ('production', 'staging')"
        ).fetchall()
        found = {}
        for workspace, kind, model, name, version, created, location, source, stage in rows:
            if created is None or stage == "Deleted_Internal":
                raise BrokenError(f"{kind} {name} of {model} means version {version}, which is not there")
            pointer = Pointer(
                workspace=workspace,
                kind=kind,
                model=model,
                name=name,
                version=int(version),
                created_ms=int(created),
                location=location,
                source=source,
                prompt_model=(workspace, model) in prompts,
            )
            found[(*pointer.target, int(version))] = pointer
        return found

    def check(self, step: str) -> None:
        """The invariant, from the database itself; called after every step.

        Raises:
            BrokenError: With what is wrong.
        """
        book = self.book
        entries = self._follow_chain()
        decisions = {
            row[0]: row
            for row in self._reader.execute(
                "SELECT id, allowed, body, version, version_created_ms FROM registry_gate_decision"
            )
        }
        fresh = []
        for event, body in entries:
            if event != "decision":
                continue
            row = decisions.get(body["id"])
            if row is None or json.loads(row[2]) != body or bool(row[1]) is not (body["decision"] == "allowed"):
                raise BrokenError(f"{step}: audit entry of decision {body['id']} has no equal row")
            if body["decision"] == "allowed":
                fresh.append(_allowed(body))
        written = self._reader.execute("SELECT COUNT(*) FROM registry_gate_audit WHERE event = 'decision'").fetchone()
        if written[0] != len(decisions):
            raise BrokenError(f"{step}: {len(decisions)} decisions but {written[0]} audit entries about decisions")

        pointers = self._pointers()
        for key, pointer in pointers.items():
            if book.pointers.get(key) == pointer:
                continue
            # A version that moved on its own, e.g. with a renamed model, is a new promise of that name.
            loads = book.policies not in ("broken", "keyless")
            governed = not loads or bool(governing(pointer.model, pointer.name, pointer.kind, book.policies))
            if pointer.is_prompt or not governed:
                continue
            decided = [a for a in fresh if a.target == pointer.target and _same_row(a, pointer)]
            if not decided:
                raise BrokenError(f"{step}: {pointer} was written without an allowed decision about it")
            content = book.contents.get(pointer.location)
            digest = None if content is None else self._forms[content].digest
            if any(a.digest != digest for a in decided):
                raise BrokenError(f"{step}: {pointer} was decided on other bytes than it means ({content})")
            if not self.expected(pointer.target, pointer.location):
                raise BrokenError(f"{step}: {pointer} ({content}) was allowed without good evidence")
        renamed, self.renamed = self.renamed, None
        for decision in {a.target: a for a in fresh}.values():
            # What was promoted while a rename was reviewed has travelled along since.
            targets = [decision.target, *_travelled(decision.target, renamed)]
            there = [p for p in pointers.values() if p.target in targets and _same_row(decision, p)]
            if not there:
                raise BrokenError(f"{step}: decision about {decision.target} is recorded but its pointer is not there")
        book.allowed.extend(fresh)
        book.pointers = pointers

    def _follow_chain(self) -> list[tuple[str, dict[str, Any]]]:
        """The entries since the last check; hashes computed here, not by the ledger."""
        book, found = self.book, []
        rows = self._reader.execute(
            "SELECT seq, at, event, body, previous, hash FROM registry_gate_audit WHERE seq > ? ORDER BY seq",
            (book.seq,),
        )
        for seq, at, event, body, previous, stated in rows:
            text = json.dumps([seq, at, event, body, previous], separators=(",", ":"), ensure_ascii=False)
            if seq != book.seq + 1 or previous != book.head or hashlib.sha256(text.encode()).hexdigest() != stated:
                raise BrokenError(f"audit entry {seq} does not continue the chain")
            book.seq, book.head = seq, stated
            moment = datetime.fromisoformat(at)
            if event == "decision":
                book.decided = moment if book.decided is None else max(book.decided, moment)
            book.latest = moment if book.decided is None else max(book.decided, moment)
            found.append((event, json.loads(body)))
        head = self._reader.execute("SELECT seq, hash FROM registry_gate_audit_head").fetchall()
        if head != [(book.seq, book.head)]:
            raise BrokenError(f"audit head {head} is not the last entry {book.seq}")
        return found

    def check_whole_chain(self) -> None:
        """The chain from its first entry: nothing that was written before has changed since."""
        mine = (self.book.seq, self.book.head, self.book.latest)
        self.book.seq, self.book.head = 0, GENESIS
        self._follow_chain()
        if (self.book.seq, self.book.head, self.book.latest) != mine:
            raise BrokenError("an audit entry was changed after it was written")


def raw_writes(world: World, model: str, version: int, alias: str, other: str) -> dict[str, Callable[[], object]]:
    """What code inside the server's process can write past the gated store, by name."""
    space, spoilt = world.workspace, world.place("spoilt", 0)
    plain = world.plain
    alias_row = {"workspace": space, "name": model, "alias": alias, "version": version}

    def row(session: Any) -> Any:
        return session.get(SqlModelVersion, {"workspace": space, "name": model, "version": version})

    def orm(write: Callable[[Any], object]) -> Callable[[], None]:
        def run() -> None:
            with world.raw_session() as session:
                write(session)

        return run

    def set_on_row(**values: Any) -> Callable[[], None]:
        def write(session: Any) -> None:
            found = row(session)
            if found is not None:
                for key, value in values.items():
                    setattr(found, key, value)

        return orm(write)

    def staged_newcomer(session: Any) -> None:
        session.add(
            SqlModelVersion(
                workspace=space, name=model, version=90, creation_time=1, source=spoilt, storage_location=spoilt,
                current_stage="Production",
            )
        )  # fmt: skip

    of_model = SqlModelVersion.name == model
    return {
        "alias": lambda: plain.set_registered_model_alias(model, alias, version),
        "stage": lambda: plain.transition_model_version_stage(model, version, "production", False),
        "stage, archiving": lambda: plain.transition_model_version_stage(model, version, "Staging", True),
        "rename": lambda: plain.rename_registered_model(model, other),
        "orm add": orm(lambda s: s.add(SqlRegisteredModelAlias(**alias_row))),
        "orm merge": orm(lambda s: s.merge(SqlRegisteredModelAlias(**alias_row))),
        "orm stage": set_on_row(current_stage="Production"),
        "orm new version in a stage": orm(staged_newcomer),
        "orm other location": set_on_row(storage_location=spoilt),
        "orm other source": set_on_row(source=spoilt),
        "orm version moves to another model": set_on_row(name=other),
        "orm version number": set_on_row(version=91),
        "insert alias": orm(lambda s: s.execute(insert(SqlRegisteredModelAlias).values(**alias_row))),
        "insert into table": orm(lambda s: s.execute(insert(SqlRegisteredModelAlias.__table__).values(**alias_row))),
        "insert many": orm(lambda s: s.execute(insert(SqlRegisteredModelAlias), [alias_row])),
        "update alias": orm(lambda s: s.execute(update(SqlRegisteredModelAlias).values(version=version))),
        "query update alias": orm(lambda s: s.query(SqlRegisteredModelAlias).update({"version": version})),
        "update stage": orm(
            lambda s: s.execute(update(SqlModelVersion).where(of_model).values(current_stage="Production"))
        ),
        "query update stage": orm(lambda s: s.query(SqlModelVersion).update({"current_stage": "Staging"})),
        "update location": orm(
            lambda s: s.execute(update(SqlModelVersion).where(of_model).values(storage_location=spoilt))
        ),
        "update source": orm(lambda s: s.execute(update(SqlModelVersion).where(of_model).values(source=spoilt))),
        "update creation time": orm(lambda s: s.execute(update(SqlModelVersion).values(creation_time=1))),
        "update name": orm(
            lambda s: s.execute(update(SqlRegisteredModel).where(SqlRegisteredModel.name == model).values(name=other))
        ),
        "bulk save": orm(lambda s: s.bulk_save_objects([SqlRegisteredModelAlias(**alias_row)])),
        "bulk insert": orm(lambda s: s.bulk_insert_mappings(SqlRegisteredModelAlias, [alias_row])),
        "bulk update": orm(
            lambda s: s.bulk_update_mappings(
                SqlModelVersion,
                [{"workspace": space, "name": model, "version": version, "current_stage": "Production"}],
            )
        ),
    }


def _allowed(body: dict[str, Any]) -> Allowed:
    version, target = body["version"], body["target"]
    model = target["key"][: -len(target["name"]) - 1]
    return Allowed(
        target=(body["workspace"], target["kind"], model, target["name"]),
        version=version["version"],
        created_ms=version["created_ms"],
        location=version["location"],
        digest=body["form"],
    )


def _travelled(target: tuple[str, str, str, str], renamed: tuple[str, str] | None) -> list[tuple[str, str, str, str]]:
    workspace, kind, model, name = target
    return [(workspace, kind, renamed[1], name)] if renamed is not None and renamed[0] == model else []


def _same_row(decision: Allowed, pointer: Pointer) -> bool:
    decided = (decision.version, decision.created_ms, decision.location)
    return decided == (pointer.version, pointer.created_ms, pointer.location)


def _no_tree(_name: str, _version: int) -> LocalTree:
    raise AssertionError("these forms name no base")


def _weights(content: str) -> bytes:
    data = hashlib.sha256(content.encode()).digest()
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return len(header).to_bytes(8, "little") + header + data


def _form_files(content: str) -> dict[str, bytes]:
    flavor = {"model_binary": "model", "task": "text-generation", "pipeline_model_type": "LlamaForCausalLM"}
    return {
        "MLmodel": json.dumps({"flavors": {"transformers": {**flavor, "framework": "pt"}}}).encode(),
        "model/config.json": b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}',
        "model/model.safetensors": _weights(content),
        "components/tokenizer/tokenizer.json": b'{"version": "1.0"}',
        "components/tokenizer/tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
    }


@contextmanager
def world() -> Iterator[World]:
    """A world of its own, in memory where the machine has a place for that."""
    memory = Path("/dev/shm")  # noqa: S108 (a directory of our own is made in it)
    directory = Path(tempfile.mkdtemp(prefix="registry-gate-attack-", dir=memory if memory.is_dir() else None))
    try:
        made = World(directory)
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
