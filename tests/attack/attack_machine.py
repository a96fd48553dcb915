"""Arbitrary sequences of registry calls, evidence, tampering and clock moves against the real gated store.

After each step `World.check` reads the database and compares it with what the attackers know they did. Where a call
stands alone (nothing happens between its review and its write) its answer must also be exactly what the oracle
expects: not a promotion too many, and not one too few.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import hypothesis
from attack_world import (
    ALIASES,
    CONTENTS,
    MODELS,
    POLICIES,
    PROMOTED,
    QUALITIES,
    SLOTS,
    STAGES,
    WORKSPACES,
    BrokenError,
    World,
    governing,
    raw_writes,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

NEW_NAMES = ("clinical-a", "clinical-b", "clinical-new", "chat-a", "chat-new", "toy-a", "toy-new", "prompt-new")
DELTAS = tuple(
    timedelta(**d)  # type: ignore[arg-type]
    for d in ({"minutes": 4}, {"days": 1}, {"days": 100}, {"minutes": -4}, {"days": -1}, {"days": -100})
)
SOURCES = ("runs:/0/model", "prompt-template", "dummy-source", "mlflow-artifacts:/1", "/nowhere", "models:/toy-a/1")
RAW = (
    "alias", "alias", "stage", "stage, archiving", "rename", "orm add", "orm merge", "orm stage",
    "orm new version in a stage", "orm other location", "orm other source", "orm version moves to another model",
    "orm version number", "insert alias", "insert into table", "insert many", "update alias", "query update alias",
    "update stage", "query update stage", "update location", "update source", "update creation time", "update name",
    "bulk save", "bulk insert", "bulk update",
)  # fmt: skip
MEANWHILE = (
    *(None,) * 12,
    *("recreate", "delete version", "overwrite", "break policies", "tighten policies", "remove key"),
    *("set clock back", "demote", "raw alias", "promote another", "free alias elsewhere"),
)

small = st.integers(0, 7)


class _Found(BaseException):
    """A broken invariant that ends the search at once.

    Hypothesis would run the sequence again, and stop over one that went otherwise: two rows may or may not be made in
    the same millisecond.
    """

    def __init__(self, broken: BrokenError) -> None:
        super().__init__(broken)
        self.broken = broken


class Attack(RuleBasedStateMachine):
    """Actors: people on the gated store, code in the server's process, whoever reaches files, keys and the clock."""

    world: World
    first_ends = False

    def __init__(self) -> None:
        super().__init__()
        self.world.reset()
        self.world.counts["sequence", "begun"] += 1

    def teardown(self) -> None:
        self.world.check_whole_chain()

    # -- how ----------------------------------------------------------------------------------------------------------

    def _version(self, pick: int) -> tuple[str, int, str, str] | None:
        """Some version that is there."""
        versions = self.world.versions()
        return versions[pick % len(versions)] if versions else None

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except BrokenError as err:
            if self.first_ends:
                raise _Found(err) from err
            raise

    def _call(self, kind: str, action: Callable[[], object], *, raw: bool = False) -> str:
        self.world.counts["step", kind] += 1
        with self._watched():
            outcome = self.world.call(kind, action, raw=raw)
            self.world.check(kind)
        return outcome

    def _note(self, kind: str) -> None:
        self.world.counts["step", kind] += 1
        with self._watched():
            self.world.check(kind)

    def _must(self, kind: str, outcome: str, expected: str) -> None:
        with self._watched():
            if outcome != expected:
                raise BrokenError(f"{kind}: expected {expected}, got {outcome}")

    def _between(self, what: str | None, model: str, version: int, location: str, alias: str) -> bool:
        """Arrange for something to happen between review and write. Whether anything will."""
        world = self.world

        def quietly(*actions: Callable[[], object]) -> Callable[[], None]:
            def run() -> None:
                for action in actions:
                    with contextlib.suppress(MlflowException, SQLAlchemyError):
                        action()

            return run

        store: Any = world.store
        elsewhere = world.place("spoilt", 1)
        table: dict[str, Callable[[], None]] = {
            "recreate": quietly(
                lambda: store.delete_registered_model(model),
                lambda: store.create_registered_model(model),
                *(lambda: store.create_model_version(model, elsewhere),) * version,
            ),
            "delete version": quietly(lambda: store.delete_model_version(model, version)),
            "overwrite": quietly(
                lambda: world.overwrite(location, "spoilt", keep_time=True) if location in world.book.contents else None
            ),
            "break policies": quietly(lambda: world.set_policies("broken")),
            "tighten policies": quietly(lambda: world.set_policies("tight")),
            "remove key": quietly(lambda: world.set_policies("keyless")),
            "set clock back": quietly(lambda: setattr(world, "now", world.now - timedelta(days=1))),
            "demote": quietly(lambda: store.delete_registered_model_alias(model, alias)),
            "raw alias": quietly(lambda: world.plain.set_registered_model_alias(model, "raw", version)),
            "promote another": quietly(lambda: store.set_registered_model_alias(model, alias, 1)),
            "free alias elsewhere": quietly(lambda: store.set_registered_model_alias(model, "candidate", version)),
        }
        if what is None:
            return False
        world.meanwhile = table[what]
        return True

    # -- promotions ---------------------------------------------------------------------------------------------------

    def _alias(self, pick: int, alias: str, meanwhile: str | None) -> None:
        found = self._version(pick)
        if found is None:
            return
        model, version, location, source = found
        world = self.world
        target = (world.workspace, "alias", model, alias)
        prompt = source in ("prompt-template", "dummy-source") and self._is_prompt(model)
        expected = world.expected(target, location, prompt=prompt)
        disturbed = self._between(meanwhile, model, version, location, alias)
        outcome = self._call(
            "set_registered_model_alias", lambda: world.store.set_registered_model_alias(model, alias, version)
        )
        if not disturbed:
            self._must(f"{target} -> {version}", outcome, "done" if expected else "denied")

    def _is_prompt(self, model: str) -> bool:
        tags = self.world._reader.execute(
            "SELECT value FROM registered_model_tags WHERE workspace = ? AND name = ? AND key = ?",
            (self.world.workspace, model, "mlflow.prompt.is_prompt"),
        ).fetchall()
        return [str(value).lower() for (value,) in tags] == ["true"]

    @rule(pick=small, alias=st.sampled_from(ALIASES), meanwhile=st.sampled_from(MEANWHILE))
    def set_alias(self, pick: int, alias: str, meanwhile: str | None) -> None:
        self._alias(pick, alias, meanwhile)

    @rule(pick=small, meanwhile=st.sampled_from(MEANWHILE))
    def set_champion(self, pick: int, meanwhile: str | None) -> None:
        self._alias(pick, "champion", meanwhile)

    @rule(pick=small, stage=st.sampled_from(STAGES), archive=st.booleans(), meanwhile=st.sampled_from(MEANWHILE))
    def transition(self, pick: int, stage: str, archive: bool, meanwhile: str | None) -> None:
        found = self._version(pick)
        if found is None:
            return
        model, version, location, source = found
        world, canonical = self.world, PROMOTED.get(stage.lower())
        prompt = source in ("prompt-template", "dummy-source") and self._is_prompt(model)
        expected = "done"
        if canonical is not None:
            target = (world.workspace, "stage", model, canonical)
            expected = "done" if world.expected(target, location, prompt=prompt) else "denied"
        elif archive:
            expected = "refused"  # MLflow's own rule
        disturbed = self._between(meanwhile, model, version, location, "champion")
        outcome = self._call(
            "transition_model_version_stage",
            lambda: world.store.transition_model_version_stage(model, str(version), stage, archive),
        )
        if not disturbed:
            self._must(f"{model}/{stage} -> {version}", outcome, expected)

    @rule(pick=small, new=st.sampled_from(NEW_NAMES), meanwhile=st.sampled_from(MEANWHILE))
    def rename(self, pick: int, new: str, meanwhile: str | None) -> None:
        world = self.world
        models = world.models()
        if not models:
            return
        model = models[pick % len(models)]
        carried = [p for p in world.book.pointers.values() if (p.workspace, p.model) == (world.workspace, model)]
        allowed = all(
            world.expected((p.workspace, p.kind, new, p.name), p.location, prompt=p.is_prompt) for p in carried
        )
        location = carried[0].location if carried else ""
        disturbed = self._between(meanwhile, model, carried[0].version if carried else 1, location, "champion")

        def action() -> None:
            world.store.rename_registered_model(model, new)
            world.renamed = (model, new)

        outcome = self._call("rename_registered_model", action)
        if not disturbed and new not in models:
            self._must(f"rename of {model} to {new}", outcome, "done" if allowed else "denied")

    # -- what promotes nothing ----------------------------------------------------------------------------------------

    @rule(model=st.sampled_from(NEW_NAMES), prompt=st.booleans())
    def create_model(self, model: str, prompt: bool) -> None:
        there = model in self.world.models()
        tags = [RegisteredModelTag("mlflow.prompt.is_prompt", "true")] if prompt else None
        outcome = self._call("create_registered_model", lambda: self.world.store.create_registered_model(model, tags))
        self._must("create_registered_model", outcome, "refused" if there else "done")

    @rule(pick=small, content=st.sampled_from(CONTENTS), slot=st.sampled_from(SLOTS))
    def create_version(self, pick: int, content: str, slot: int) -> None:
        models = self.world.models()
        if models:
            source = self.world.place(content, slot)
            outcome = self._call(
                "create_model_version",
                lambda: self.world.store.create_model_version(models[pick % len(models)], source),
            )
            self._must("create_model_version", outcome, "done")

    @rule(pick=small, source=st.sampled_from(SOURCES), tagged=st.booleans())
    def create_odd_version(self, pick: int, source: str, tagged: bool) -> None:
        models = self.world.models()
        if models:
            tags = [ModelVersionTag("mlflow.prompt.is_prompt", "true")] if tagged else None
            self._call(
                "create_model_version",
                lambda: self.world.store.create_model_version(models[pick % len(models)], source, tags=tags),
            )

    @rule(pick=small, destination=st.sampled_from(NEW_NAMES))
    def copy(self, pick: int, destination: str) -> None:
        found = self._version(pick)
        if found is not None:
            store = self.world.store
            with contextlib.redirect_stderr(io.StringIO()):  # MLflow tells about each copy there
                self._call(
                    "copy_model_version",
                    lambda: store.copy_model_version(store.get_model_version(found[0], found[1]), destination),
                )

    @rule(pick=small, what=st.sampled_from(["version", "model", "alias", "recreate"]), alias=st.sampled_from(ALIASES))
    def demote(self, pick: int, what: str, alias: str) -> None:
        found = self._version(pick)
        if found is None:
            return
        (model, version, *_), store = found, self.world.store

        def recreate() -> None:
            store.delete_registered_model(model)
            store.create_registered_model(model)
            store.create_model_version(model, self.world.place("c3", 1))

        calls: dict[str, tuple[str, Callable[[], object]]] = {
            "version": ("delete_model_version", lambda: store.delete_model_version(model, version)),
            "model": ("delete_registered_model", lambda: store.delete_registered_model(model)),
            "alias": ("delete_registered_model_alias", lambda: store.delete_registered_model_alias(model, alias)),
            "recreate": ("delete and recreate", recreate),
        }
        self._must(what, self._call(*calls[what]), "done")

    @rule(
        pick=small,
        key=st.sampled_from(["owner", "mlflow.prompt.is_prompt", "registry_gate.verdict", "Registry_Gate.x"]),
        value=st.sampled_from(["true", "True", "false", "x"]),
        of=st.sampled_from(["set model", "delete model", "set version", "delete version"]),
    )
    def tag(self, pick: int, key: str, value: str, of: str) -> None:
        found = self._version(pick)
        if found is None:
            return
        (model, version, *_), store = found, self.world.store
        calls: dict[str, tuple[str, Callable[[], object]]] = {
            "set model": (
                "set_registered_model_tag",
                lambda: store.set_registered_model_tag(model, RegisteredModelTag(key, value)),
            ),
            "delete model": ("delete_registered_model_tag", lambda: store.delete_registered_model_tag(model, key)),
            "set version": (
                "set_model_version_tag",
                lambda: store.set_model_version_tag(model, version, ModelVersionTag(key, value)),
            ),
            "delete version": ("delete_model_version_tag", lambda: store.delete_model_version_tag(model, version, key)),
        }
        outcome = self._call(*calls[of])
        if key.lower().startswith("registry_gate."):
            self._must(f"{of} tag {key}", outcome, "denied")
        elif key == "owner" and of.startswith("set"):
            self._must(f"{of} tag {key}", outcome, "done")

    @rule(pick=small, description=st.sampled_from(["", "better"]))
    def describe(self, pick: int, description: str) -> None:
        found = self._version(pick)
        if found is not None:
            store = self.world.store
            outcome = self._call(
                "update_registered_model", lambda: store.update_registered_model(found[0], description)
            )
            self._must("update_registered_model", outcome, "done")
            outcome = self._call(
                "update_model_version", lambda: store.update_model_version(found[0], found[1], description)
            )
            self._must("update_model_version", outcome, "done")

    @rule(pick=small)
    def prompt(self, pick: int) -> None:
        """Prompts work as ever, whatever state policies, keys and clock are in."""
        if (
            self.world.workspace != "default"
            or "prompt-a" not in self.world.models()
            or not self._is_prompt("prompt-a")
        ):
            return
        store = self.world.store
        numbers = [v for n, v, _, source in self.world.versions() if n == "prompt-a" and source == "prompt-template"]
        if numbers:
            alias, number = ALIASES[pick % len(ALIASES)], numbers[pick % len(numbers)]
            outcome = self._call("prompt alias", lambda: store.set_registered_model_alias("prompt-a", alias, number))
            self._must("alias of a prompt", outcome, "done")

    # -- attackers beside the store -----------------------------------------------------------------------------------

    @rule(pick=small, kind=st.sampled_from(RAW), alias=st.sampled_from(ALIASES), other=st.sampled_from(NEW_NAMES))
    def write_past_the_gate(self, pick: int, kind: str, alias: str, other: str) -> None:
        found = self._version(pick)
        if found is not None:
            write = raw_writes(self.world, found[0], found[1], alias, other)[kind]
            self._call(f"raw {kind}", write, raw=True)

    @rule(pick=small)
    def assess(self, pick: int) -> None:
        """What an honest worker does for a version that is there."""
        found = self._version(pick)
        if found is None or found[2] not in self.world.book.contents:
            return
        for battery in ("ward", "house"):
            self.world.file_evidence(self.world.book.contents[found[2]], battery)
        self._note("assess")

    @rule(pick=small, alias=st.sampled_from(["champion", "production"]))
    def assess_and_promote(self, pick: int, alias: str) -> None:
        """The good way, so that sequences get somewhere."""
        self.assess(pick)
        self._alias(pick, alias, None)

    @rule(
        pick=small,
        batteries=st.sampled_from([("ward", "house"), ("ward", "house"), ("ward",), ("house",)]),
        quality=st.sampled_from(list(QUALITIES)),
        flaw=st.sampled_from(
            [None, None, "stranger", "elsewhere", "of another form", "of another form", "old", "early", "edited"]
        ),
        alias=st.sampled_from(["champion", *ALIASES]),
    )
    def file_evidence_and_promote(
        self, pick: int, batteries: tuple[str, ...], quality: str, flaw: str | None, alias: str
    ) -> None:
        """Evidence with at most one thing wrong about it, then the promotion that it is meant for."""
        found, world = self._version(pick), self.world
        content = None if found is None else world.book.contents.get(found[2])
        if content is None:
            return
        for battery in batteries:
            world.file_evidence(
                ("c0" if content != "c0" else "c1") if flaw == "of another form" else content,
                battery,
                quality,
                workspace=next(w for w in WORKSPACES if w != world.workspace) if flaw == "elsewhere" else None,
                signer="stranger" if flaw == "stranger" else "worker",
                filed_under=content if flaw == "of another form" else None,
                age=timedelta(days={"old": 95, "early": -1}.get(flaw or "", 0)),
                edited=flaw == "edited",
            )
        self._note("file evidence")
        self._alias(pick, alias, None)

    @rule(pick=small, battery=st.sampled_from(["ward", "house"]), quality=st.sampled_from(list(QUALITIES)))
    def assess_again(self, pick: int, battery: str, quality: str) -> None:
        """Later evidence that says something else."""
        found = self._version(pick)
        if found is not None and found[2] in self.world.book.contents:
            self.world.now += timedelta(minutes=1)
            self.world.file_evidence(self.world.book.contents[found[2]], battery, quality)
            self._note("assess again")
            self._alias(pick, "champion", None)

    @rule(pick=small, new=st.sampled_from(NEW_NAMES), alias=st.sampled_from(ALIASES), both=st.booleans())
    def carry(self, pick: int, new: str, alias: str, both: bool) -> None:
        """Promote where that is easy and carry the promoted name to where it is not."""
        found, world = self._version(pick), self.world
        if found is None or found[2] not in world.book.contents:
            return
        for battery in ("house", "ward") if both else ("house",):
            world.file_evidence(world.book.contents[found[2]], battery)
        self._note("assess")
        self._alias(pick, alias, None)
        self._alias(pick, "candidate", None)  # a free name travels too
        self.rename(world.models().index(found[0]), new, None)

    @rule(pick=small, name=st.sampled_from(["clinical-new", "chat-new"]))
    def pass_for_a_prompt(self, pick: int, name: str) -> None:
        """A model under the name of a prompt, or an empty version under the name of a model."""
        world = self.world
        if name not in world.models():
            self.create_model(name, pick % 2 == 0)
        source = world.place("c2", 0) if pick % 2 == 0 else "prompt-template"
        self._call("create_model_version", lambda: world.store.create_model_version(name, source))
        numbers = [n for n, (model, *_) in enumerate(world.versions()) if model == name]
        if numbers:
            self._alias(numbers[-1], "champion", None)

    @rule(
        pick=small,
        kind=st.sampled_from([kind for kind in RAW if kind.startswith(("orm", "update", "bulk"))]),
        stage=st.booleans(),
    )
    def rewrite_what_is_promoted(self, pick: int, kind: str, stage: bool) -> None:
        """Code inside the process changes the row that a promoted name means."""
        self.assess_and_promote(pick, "champion")
        if stage:
            self.transition(pick, "Production", False, None)
        self.write_past_the_gate(pick, kind, "champion", "chat-new")

    @rule(pick=small, days=st.sampled_from([1, 100]), ask=st.booleans())
    def turn_the_clock(self, pick: int, days: int, ask: bool) -> None:
        """Ask with a clock that is ahead, then with one that was set back, more than once."""
        self.assess(pick)
        self.world.now += timedelta(days=days)
        if ask:
            self._alias(pick, "champion", None)
        self.world.now -= timedelta(days=days)
        self._note("move the clock")
        self._alias(pick, "production", None)
        self._alias(pick, "champion", None)

    @rule(pick=small, alias=st.sampled_from(["champion", "production"]))
    def promote_what_grew_old(self, pick: int, alias: str) -> None:
        """Good evidence, and nobody asks before it is too old."""
        self.assess(pick)
        self.world.now += timedelta(days=100)
        self._note("move the clock")
        self._alias(pick, alias, None)

    @rule(pick=small, edited=st.booleans())
    def promote_again_after_tampering(self, pick: int, edited: bool) -> None:
        """A form that was allowed, then found to be bad; and somebody edits evidence of it."""
        self.assess_and_promote(pick, "champion")
        found, world = self._version(pick), self.world
        content = None if found is None else world.book.contents.get(found[2])
        if content is not None:
            world.now += timedelta(minutes=1)
            for battery in ("ward", "house"):
                world.file_evidence(content, battery, "bad")
                world.file_evidence(content, battery, edited=edited)
                world.file_evidence(content, battery, "bad", age=-timedelta(minutes=1))
            self._note("file evidence")
            self._alias(pick, "champion", None)

    @rule(pick=small, alias=st.sampled_from(["champion", "production"]), kind=st.sampled_from(["alias", "orm merge"]))
    def put_back(self, pick: int, alias: str, kind: str) -> None:
        """Take a promoted name away and put it back past the gate."""
        found = self._version(pick)
        if found is not None:
            self.assess_and_promote(pick, alias)
            self._call(
                "delete_registered_model_alias",
                lambda: self.world.store.delete_registered_model_alias(found[0], alias),
            )
            self.write_past_the_gate(pick, kind, alias, "chat-new")

    @rule(pick=small, content=st.sampled_from((*CONTENTS, "spoilt")), keep_time=st.booleans())
    def overwrite(self, pick: int, content: str, keep_time: bool) -> None:
        found = self._version(pick)
        if found is not None and found[2] in self.world.book.contents:
            self.world.overwrite(found[2], content, keep_time=keep_time)
            self._note("overwrite files")

    @rule(state=st.sampled_from((*POLICIES, "normal", "normal", "normal")))
    def policies(self, state: str) -> None:
        self.world.set_policies(state)
        self._note(f"policies {state}")

    @rule(delta=st.sampled_from(DELTAS))
    def clock(self, delta: timedelta) -> None:
        self.world.now += delta
        self._note("move the clock")

    @rule(workspace=st.sampled_from(WORKSPACES))
    def enter(self, workspace: str) -> None:
        self.world.use(workspace)
        self._note("enter another workspace")


def run(world: World, *, sequences: int, steps: int, seed: int | None = None, first_ends: bool = False) -> None:
    """Run sequences against a world.

    Args:
        world: Reset before each sequence.
        sequences: How many.
        steps: Most steps of each.
        seed: The same sequences at every run with it; others each time without.
        first_ends: Stop at the first sequence that breaks the invariant, instead of looking for the shortest one.

    Raises:
        BrokenError: The invariant was broken.
    """
    machine = type("Attack", (Attack,), {"world": world, "first_ends": first_ends})
    if seed is not None:
        hypothesis.seed(seed)(machine)
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=sequences,
                stateful_step_count=steps,
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
            ),
        )
    except _Found as found:
        raise found.broken from found


__all__ = ["MODELS", "Attack", "governing", "run"]
