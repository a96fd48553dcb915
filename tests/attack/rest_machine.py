"""Arbitrary sequences of HTTP calls against a real gated server, with evidence and tampering beside them.

Smaller than `attack_machine.py`, which turns the clock, the policies and the database too: here are the handlers, the
four server processes and the artifact proxy between attacker and gate. After each step the pointers of the sequence's
models are read from the database: a new one must be one that the oracle allows, with its decision beside it.
"""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import hypothesis
import requests
from attack_world import BrokenError
from conftest import Server
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from registry_gate.ledger.store import target_key
from registry_gate.promotion import Target, TargetKind

ROUTES = ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow")
ALIASES = ("champion", "live", "candidate")
FREE = frozenset({"candidate"})
STAGES = ("Production", "production", "Staging", "Archived", "None")
BATTERIES = {"clinical": "medical@1", "assistant": "general@1"}
"""What decides about models of a name that begins so."""


@dataclass
class Content:
    """A logged model: its bytes, and what the ledger knows about them."""

    source: str
    directory: Any
    digest: str
    evidence: dict[str, bool] = field(default_factory=dict)  # by battery: whether it is good
    original: bytes | None = None  # what the overwritten file held


class Pointer(NamedTuple):
    kind: str
    model: str
    name: str
    version: int
    created: int
    source: str


class Version(NamedTuple):
    model: str
    number: int
    source: str
    stage: str


class Attacked:
    """A server under attack, and what the attackers know of it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session = requests.Session()
        self.contents: dict[str, Content] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.home = f"archive-{uuid.uuid4().hex[:8]}"  # where contents are registered once, for their files to be found
        for evidence in ({"medical@1": True, "general@1": True}, {"general@1": True}, {"medical@1": False}, {}):
            self.new_content(evidence)

    def new_content(self, evidence: dict[str, bool]) -> Content:
        """A model of new bytes, with this evidence."""
        server = self.server
        source = server.log_model(server.form_files())
        version = server.register(self.home, source=source)
        content = Content(source, server.directory_of(self.home, version), server.manifest(self.home, version).digest)
        self.contents[source] = content
        for battery, good in evidence.items():
            self.assess(content, battery, good=good)
        return content

    def assess(self, content: Content, battery: str, *, good: bool) -> None:
        """File evidence of a content that has none of this battery and is as it was."""
        server = self.server
        number = next(v.number for v in self.versions((self.home,)) if v.source == content.source)
        domain = battery.partition("@")[0]
        events = None if good else {f"{domain}.harmful_compliance": 20}
        server.assess(self.home, number, events=events, battery=battery)
        content.evidence[battery] = good

    def versions(self, models: tuple[str, ...]) -> list[Version]:
        rows = self.server.sql("SELECT name, version, source, current_stage FROM model_versions ORDER BY name, version")
        return [Version(*row) for row in rows if row[0] in models and row[3] != "Deleted_Internal"]

    def pointers(self, models: tuple[str, ...]) -> set[Pointer]:
        rows = self.server.sql(
            "SELECT 'alias', a.name, a.alias, v.version, v.creation_time, v.source FROM registered_model_aliases a "
            "JOIN model_versions v ON v.name = a.name AND v.version = a.version AND v.workspace = a.workspace "
            "UNION ALL SELECT 'stage', name, current_stage, version, creation_time, source FROM model_versions "
            "WHERE current_stage IN ('Production', 'Staging')"
        )
        return {Pointer(*row) for row in rows if row[1] in models}

    def allows(self, kind: str, model: str, name: str, source: str) -> bool:
        """Whether this promotion has what it needs."""
        if kind == "alias" and name in FREE:
            return True
        content = self.contents[source]
        return content.original is None and content.evidence.get(BATTERIES[model.partition("-")[0]], False)

    def has_decision(self, pointer: Pointer) -> bool:
        rows = self.server.sql(
            "SELECT id FROM registry_gate_decision WHERE allowed AND target_key = :target AND version = :version "
            "AND version_created_ms = :created AND form_digest = :digest",
            target=target_key(Target(kind=TargetKind(pointer.kind), model=pointer.model, name=pointer.name)),
            version=pointer.version,
            created=pointer.created,
            digest=self.contents[pointer.source].digest,
        )
        return bool(rows)

    def call(self, kind: str, method: str, path: str, body: dict[str, Any], *, route: str = ROUTES[0]) -> str:
        """`done`, `denied` (by the gate) or `refused` (by MLflow, in its own words)."""
        answer = self.session.request(method, f"{self.server.uri}{route}/{path}", json=body, timeout=60)
        # MLflow answers 500 when asked to archive others beside a stage that nobody serves from; so must the gate.
        if answer.status_code >= 500 and "is not an Active stage" not in answer.text:
            raise BrokenError(f"{kind}: HTTP {answer.status_code}: {answer.text[:500]}")
        code = "" if answer.ok else str(answer.json().get("error_code"))
        outcome = "done" if answer.ok else "denied" if code == "PERMISSION_DENIED" else "refused"
        self.counts[kind, outcome] += 1
        return outcome


small = st.integers(0, 7)
routes = st.sampled_from(ROUTES)


class RestAttack(RuleBasedStateMachine):
    """Several people with HTTP clients, a worker that files evidence, and somebody who reaches the artifact store."""

    attacked: Attacked

    def __init__(self) -> None:
        super().__init__()
        tag = uuid.uuid4().hex[:10]
        self.names = tuple(f"{kind}-{tag}{end}" for kind in BATTERIES for end in ("", "-b"))
        self.known: set[Pointer] = set()
        self.attacked.counts["sequence", "begun"] += 1
        for name in (f"clinical-{tag}", f"assistant-{tag}"):
            self._call("create_registered_model", "POST", "registered-models/create", {"name": name})
            for pick in (0, 3):
                self.create_version(self.names.index(name), pick, ROUTES[0])
        for pick in range(4):  # so that what is renamed carries something
            self.transition(pick, "Production", False, ROUTES[0])

    def teardown(self) -> None:
        for content in self.attacked.contents.values():
            self._put_back(content)

    # -- how ----------------------------------------------------------------------------------------------------------

    def _call(self, kind: str, method: str, path: str, body: dict[str, Any], route: str = ROUTES[0]) -> str:
        outcome = self.attacked.call(kind, method, path, body, route=route)
        self._check(kind)
        return outcome

    def _check(self, step: str) -> None:
        now = self.attacked.pointers(self.names)
        for pointer in now - self.known:
            if not self.attacked.allows(pointer.kind, pointer.model, pointer.name, pointer.source):
                raise BrokenError(f"{step}: {pointer} has nothing that allows it")
            if pointer.name not in FREE and not self.attacked.has_decision(pointer):
                raise BrokenError(f"{step}: {pointer} has no allowed decision")
        self.known = now

    def _must(self, what: str, outcome: str, expected: str) -> None:
        if outcome != expected:
            raise BrokenError(f"{what}: expected {expected}, got {outcome}")

    def _version(self, pick: int) -> Version | None:
        versions = self.attacked.versions(self.names)
        return versions[pick % len(versions)] if versions else None

    def _put_back(self, content: Content) -> None:
        if content.original is not None:
            (content.directory / "model/model.safetensors").write_bytes(content.original)
            content.original = None

    # -- promotions ---------------------------------------------------------------------------------------------------

    @rule(pick=small, alias=st.sampled_from(ALIASES), route=routes)
    def set_alias(self, pick: int, alias: str, route: str) -> None:
        if (found := self._version(pick)) is None:
            return
        expected = "done" if self.attacked.allows("alias", found.model, alias, found.source) else "denied"
        body = {"name": found.model, "alias": alias, "version": str(found.number)}
        self._must(f"{alias} -> {found}", self._call("alias", "POST", "registered-models/alias", body, route), expected)

    @rule(alias=st.sampled_from(ALIASES), route=routes)
    def promote_each(self, alias: str, route: str) -> None:
        """One version after the other, so that each sequence meets good and bad ones."""
        for number in range(len(self.attacked.versions(self.names))):
            self.set_alias(number, alias, route)

    @rule(pick=small, stage=st.sampled_from(STAGES), archive=st.booleans(), route=routes)
    def transition(self, pick: int, stage: str, archive: bool, route: str) -> None:
        if (found := self._version(pick)) is None:
            return
        promoted = stage.capitalize() in ("Production", "Staging")
        if not promoted:
            expected = "refused" if archive else "done"
        else:
            name = stage.capitalize()
            expected = "done" if self.attacked.allows("stage", found.model, name, found.source) else "denied"
        body = {
            "name": found.model,
            "version": str(found.number),
            "stage": stage,
            "archive_existing_versions": archive,
        }
        outcome = self._call("stage", "POST", "model-versions/transition-stage", body, route)
        self._must(f"{stage} -> {found}", outcome, expected)

    @rule(pick=small, new=small, route=routes)
    def rename(self, pick: int, new: int, route: str) -> None:
        if (found := self._version(pick)) is None:
            return
        target = self.names[new % len(self.names)]
        carried = [p for p in self.known if p.model == found.model]
        allowed = all(self.attacked.allows(p.kind, target, p.name, p.source) for p in carried)
        models = {v.model for v in self.attacked.versions(self.names)}
        rows = self.attacked.server.sql("SELECT name FROM registered_models WHERE name = :name", name=target)
        body = {"name": found.model, "new_name": target}
        outcome = self._call("rename", "POST", "registered-models/rename", body, route)
        if target not in models and not rows:
            self._must(f"rename of {found.model} to {target}", outcome, "done" if allowed else "denied")

    # -- what promotes nothing ----------------------------------------------------------------------------------------

    @rule(model=small, pick=small, route=routes)
    def create_version(self, model: int, pick: int, route: str) -> None:
        sources = list(self.attacked.contents)
        source, name = sources[pick % len(sources)], self.names[model % len(self.names)]
        there = self.attacked.server.sql("SELECT name FROM registered_models WHERE name = :name", name=name)
        body = {"name": name, "source": source, "model_id": source.removeprefix("models:/")}
        outcome = self._call("create_model_version", "POST", "model-versions/create", body, route)
        self._must("create_model_version", outcome, "done" if there else "refused")

    @rule(model=small, source=st.sampled_from(["runs:/0/model", "/nowhere"]))
    def create_odd_version(self, model: int, source: str) -> None:
        body = {"name": self.names[model % len(self.names)], "source": source}
        outcome = self._call("odd create_model_version", "POST", "model-versions/create", body)
        if outcome == "done":
            raise BrokenError(f"create_model_version from {source} was not refused")

    @rule(model=small)
    def create_model(self, model: int) -> None:
        body = {"name": self.names[model % len(self.names)]}
        self._call("create_registered_model", "POST", "registered-models/create", body)

    @rule(pick=small, what=st.sampled_from(["alias", "version", "model"]), alias=st.sampled_from(ALIASES))
    def demote(self, pick: int, what: str, alias: str) -> None:
        if (found := self._version(pick)) is None:
            return
        paths: dict[str, tuple[str, dict[str, Any]]] = {
            "alias": ("registered-models/alias", {"name": found.model, "alias": alias}),
            "version": ("model-versions/delete", {"name": found.model, "version": str(found.number)}),
            "model": ("registered-models/delete", {"name": found.model}),
        }
        path, body = paths[what]
        self._must(f"delete {what}", self._call(f"delete {what}", "DELETE", path, body), "done")

    @rule(
        pick=small,
        key=st.sampled_from(["owner", "registry_gate.verdict", "mlflow.prompt.is_prompt"]),
        of=st.sampled_from(["registered-models", "model-versions"]),
    )
    def tag(self, pick: int, key: str, of: str) -> None:
        if (found := self._version(pick)) is None:
            return
        body = {"name": found.model, "version": str(found.number), "key": key, "value": "true"}
        outcome = self._call(f"tag {of}", "POST", f"{of}/set-tag", body)
        if key == "registry_gate.verdict":
            self._must(f"tag {key}", outcome, "denied")
        elif key == "owner":
            self._must(f"tag {key}", outcome, "done")

    # -- beside the server --------------------------------------------------------------------------------------------

    @rule(good=st.booleans(), battery=st.sampled_from(sorted(BATTERIES.values())))
    def assess(self, good: bool, battery: str) -> None:
        """Evidence of a content that has none yet; of a new one where all have some."""
        attacked = self.attacked
        without = [c for c in attacked.contents.values() if battery not in c.evidence and c.original is None]
        if len(attacked.contents) < 12 and not without:
            without = [attacked.new_content({})]
        if without:
            attacked.assess(without[-1], battery, good=good)
        self._check("assess")

    @rule(pick=small)
    def overwrite(self, pick: int) -> None:
        """Other bytes behind a version, or the first ones again."""
        if (found := self._version(pick)) is None:
            return
        content = self.attacked.contents[found.source]
        file = content.directory / "model/model.safetensors"
        if content.original is not None:
            self._put_back(content)
        else:
            content.original = file.read_bytes()
            file.write_bytes(content.original[:-1] + bytes([content.original[-1] ^ 1]))
        self._check("overwrite")


def run_rest(attacked: Attacked, *, sequences: int, steps: int, seed: int | None = None) -> None:
    """Run sequences against a server.

    Args:
        attacked: The server; each sequence uses models of its own on it.
        sequences: How many.
        steps: Most steps of each.
        seed: The same sequences at every run with it; others each time without.

    Raises:
        BrokenError: A pointer is there that should not be, or an answer is not what it has to be.
    """
    machine = type("RestAttack", (RestAttack,), {"attacked": attacked})
    if seed is not None:
        hypothesis.seed(seed)(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=steps,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
