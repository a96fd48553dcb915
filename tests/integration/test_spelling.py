"""Databases that take `CHAMPION` for `champion`: no spelling of a name gets past what the policies say of its row.

MariaDB and MySQL compare text without letter case, accents and trailing blanks unless told otherwise, so another
spelling of a model or an alias is the same row there. In-process, on the gated store itself.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Installation, signed_envelope
from form_files import form_files
from mariadb_server import mariadb
from mlflow.entities.model_registry import RegisteredModelTag
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import text

from registry_gate.artifact import HashCache, LocalTree, read_manifest
from registry_gate.evidence.envelope import envelope_digest
from registry_gate.ledger import Ledger
from registry_gate.mlflow_plugin.store import build_store

_NAMES = itertools.count()


class Registry:
    """The gated store on MariaDB, with an installation, and what is really in the tables."""

    def __init__(self, store: Any, installation: Installation, directory: Path) -> None:
        self.store = store
        self.installation = installation
        self.ledger = Ledger(store.engine)
        self.directory = directory

    def register(self, model: str, *, evidence: Sequence[str] = ()) -> int:
        """A new version of other bytes; with evidence by these batteries."""
        tree = self.directory / f"{next(_NAMES)}"
        base = self.directory / "base"
        if not base.exists():
            write(base, form_files(base=None, seed="base"))
            self.store.create_registered_model("base")
            self.store.create_model_version("base", str(base))
        write(tree, form_files(base="models:/base/1", seed=str(tree)))
        version = int(self.store.create_model_version(model, str(tree)).version)
        for battery in evidence:
            manifest = read_manifest(LocalTree(tree, HashCache()), lambda _name, _version: LocalTree(base, HashCache()))
            envelope = signed_envelope(self.installation, manifest, battery=battery)
            self.ledger.store_evidence(
                digest=envelope_digest(envelope),
                form_digest=manifest.digest,
                battery=battery,
                workspace="default",
                envelope=envelope,
            )
        return version

    def aliases(self) -> list[tuple[str, str, int]]:
        with self.store.engine.connect() as connection:
            rows = connection.execute(text("SELECT name, alias, version FROM registered_model_aliases ORDER BY 1, 2"))
            return [tuple(row) for row in rows]

    def decided(self) -> list[tuple[str, bool]]:
        """Targets of all decisions, oldest first."""
        return [(d["target"]["key"], d["decision"] == "allowed") for d in reversed(self.ledger.decisions())]


def write(directory: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with mariadb() as uri:
        yield uri


@pytest.fixture
def registry(
    database: str,
    installation: Callable[..., Installation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Registry]:
    made = installation(ledger_uri=database)
    monkeypatch.setenv("REGISTRY_GATE_CONFIG", str(made.config))
    store: Any = build_store(f"gated:{database}")
    yield Registry(store, made, tmp_path)
    with store.engine.begin() as connection:
        for table in (
            *("registered_model_aliases", "model_versions", "registered_model_tags", "registered_models"),
            "registry_gate_decision",
        ):
            connection.execute(text(f"DELETE FROM {table}"))
    shutil.rmtree(tmp_path, ignore_errors=True)


def refused(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(MlflowException) as caught:
        call()
    assert caught.value.error_code == "PERMISSION_DENIED", caught.value
    return [reason["code"] for reason in caught.value.json_kwargs["registry_gate"]["reasons"] if reason["blocking"]]


def test_alias_in_another_case_is_the_same_target(registry: Registry) -> None:
    registry.store.create_registered_model("clinical-x")
    good, unknown = registry.register("clinical-x", evidence=["medical@1"]), registry.register("clinical-x")
    registry.store.set_registered_model_alias("clinical-x", "champion", good)
    for alias in ("CHAMPION", "Champion", "chämpion"):
        assert refused(lambda a=alias: registry.store.set_registered_model_alias("clinical-x", a, unknown)) == [
            "evidence_missing"
        ]
    assert registry.aliases() == [("clinical-x", "champion", good)]
    assert {target for target, _ in registry.decided()} == {"clinical-x@champion"}


def test_free_alias_does_not_replace_a_governed_one_by_its_spelling(registry: Registry) -> None:
    """`candidate` is free in the shipped set, `Candidate` is not, and here both are one row."""
    registry.store.create_registered_model("clinical-x")
    good, unknown = registry.register("clinical-x", evidence=["medical@1"]), registry.register("clinical-x")
    registry.store.set_registered_model_alias("clinical-x", "Candidate", good)
    assert refused(lambda: registry.store.set_registered_model_alias("clinical-x", "candidate", unknown)) == [
        "evidence_missing"
    ]
    assert registry.aliases() == [("clinical-x", "Candidate", good)]
    # A row that was free from the start stays free, whatever it is called by.
    registry.store.delete_registered_model_alias("clinical-x", "CANDIDATE")
    registry.store.set_registered_model_alias("clinical-x", "candidate", unknown)
    registry.store.set_registered_model_alias("clinical-x", "Candidate", good)
    assert registry.aliases() == [("clinical-x", "candidate", good)]


def test_model_in_another_case_is_governed_as_its_row_is_called(registry: Registry) -> None:
    registry.store.create_registered_model("clinical-x")
    # What would do for a name that only the general policy governs.
    general = registry.register("clinical-x", evidence=["general@1"])
    for name in ("CLINICAL-X", "Clinical-X", "clínical-x", "clinical-x ", "clinical-x  "):
        for call in (
            lambda n=name: registry.store.set_registered_model_alias(n, "champion", general),
            lambda n=name: registry.store.transition_model_version_stage(n, general, "Production", False),
        ):
            assert "evidence_missing" in refused(call)
    assert registry.aliases() == []
    assert {target for target, _ in registry.decided()} == {"clinical-x@champion", "clinical-x/Production"}


def test_allowed_promotion_under_another_spelling_keeps_the_names_of_the_rows(registry: Registry) -> None:
    registry.store.create_registered_model("clinical-x")
    first, second = (registry.register("clinical-x", evidence=["medical@1"]) for _ in range(2))
    registry.store.set_registered_model_alias("clinical-x", "champion", first)
    registry.store.set_registered_model_alias("CLINICAL-X", "CHAMPION", second)
    staged = registry.store.transition_model_version_stage("Clinical-X", first, "production", False)
    assert (staged.name, staged.current_stage) == ("clinical-x", "Production")
    assert registry.aliases() == [("clinical-x", "champion", second)]
    assert registry.store.get_model_version_by_alias("CLINICAL-x", "Champion").version == second
    # The way back needs no evidence, however the target is spelt.
    with registry.store.engine.begin() as connection:
        connection.execute(text("DELETE FROM registry_gate_evidence"))
    registry.store.set_registered_model_alias("CLINICAL-X", "Champion", first)
    assert registry.aliases() == [("clinical-x", "champion", first)]


def test_name_that_this_database_takes_for_a_governed_one_is_governed_alike(registry: Registry) -> None:
    """Whoever asks for `clinical-x` gets this row, so the policies of `clinical-*` hold for it."""
    registry.store.create_registered_model("CLÍNICAL-X")
    version = registry.register("CLÍNICAL-X", evidence=["general@1"])
    assert "evidence_missing" in refused(
        lambda: registry.store.set_registered_model_alias("CLÍNICAL-X", "champion", version)
    )
    registry.store.create_registered_model("assistant")
    other = registry.register("assistant", evidence=["general@1"])
    registry.store.set_registered_model_alias("assistant", "champion", other)
    assert "target_changed" not in refused(lambda: registry.store.rename_registered_model("ASSISTANT", "Clínical-Y"))
    assert registry.aliases() == [("assistant", "champion", other)]


def test_rename_to_another_spelling_of_itself_is_reviewed(registry: Registry) -> None:
    registry.store.create_registered_model("clinical-x")
    medical = registry.register("clinical-x", evidence=["medical@1"])
    registry.store.set_registered_model_alias("clinical-x", "champion", medical)
    # general.yaml leaves `clinical-*` to medical.yaml, letter by letter: any other spelling falls under both.
    assert refused(lambda: registry.store.rename_registered_model("Clinical-x", "CLINICAL-X")) == ["evidence_missing"]
    registry.store.delete_registered_model_alias("clinical-x", "champion")
    good = registry.register("clinical-x", evidence=["medical@1", "general@1"])
    registry.store.set_registered_model_alias("clinical-x", "champion", good)
    registry.store.rename_registered_model("Clinical-x", "CLINICAL-X")
    assert registry.aliases() == [("CLINICAL-X", "champion", good)]
    assert [target for target, allowed in registry.decided() if allowed] == [
        "clinical-x@champion",
        "clinical-x@champion",
        "CLINICAL-X@champion",
    ]


def test_model_does_not_become_a_prompt_by_another_spelling_of_the_tag(registry: Registry) -> None:
    registry.store.create_registered_model("clinical-x")
    version = registry.store.create_model_version("clinical-x", "dummy-source").version
    with pytest.raises(MlflowException, match="to stay a model"):
        registry.store.set_registered_model_tag("CLINICAL-X", RegisteredModelTag("mlflow.prompt.is_prompt", "true"))
    for key in ("MLFLOW.prompt.IS_PROMPT", "mlflow.prompt.is_prómpt", "mlflow.prompt.is_prompt "):
        registry.store.set_registered_model_tag("clinical-x", RegisteredModelTag(key, "true"))
        assert refused(lambda: registry.store.set_registered_model_alias("clinical-x", "champion", version))
    assert registry.aliases() == []


def test_second_model_of_another_spelling_is_refused_by_the_registry(registry: Registry) -> None:
    registry.store.create_registered_model("clinical-x")
    with pytest.raises(MlflowException) as caught:
        registry.store.create_registered_model("CLINICAL-X")
    assert caught.value.error_code == "RESOURCE_ALREADY_EXISTS"


def test_row_that_appears_between_decision_and_write_is_not_respelt(registry: Registry) -> None:
    """A free name is being set; meanwhile somebody promotes the governed spelling, rightly."""
    registry.store.create_registered_model("clinical-x")
    good, unknown = registry.register("clinical-x", evidence=["medical@1"]), registry.register("clinical-x")
    meanwhile: Any = build_store(registry.installation.ledger_uri and f"gated:{registry.installation.ledger_uri}")
    looked_up = registry.store._stored_alias

    def raced(model: str, alias: str) -> str:
        found: str = looked_up(model, alias)
        meanwhile.set_registered_model_alias("clinical-x", "Candidate", good)
        return found

    registry.store._stored_alias = raced
    assert refused(lambda: registry.store.set_registered_model_alias("clinical-x", "candidate", unknown)) == [
        "target_changed"
    ]
    assert registry.aliases() == [("clinical-x", "Candidate", good)]


def test_plain_store_cannot_respell_an_alias_either(registry: Registry) -> None:
    registry.store.create_registered_model("clinical-x")
    good, unknown = registry.register("clinical-x", evidence=["medical@1"]), registry.register("clinical-x")
    registry.store.set_registered_model_alias("clinical-x", "champion", good)
    plain = SqlAlchemyStore(registry.installation.ledger_uri)
    assert refused(lambda: plain.set_registered_model_alias("CLINICAL-X", "CHAMPION", unknown)) == ["target_changed"]

    def respell() -> None:
        with plain.ManagedSessionMaker(read_only=False) as session:
            session.query(SqlRegisteredModelAlias).one().alias = "live"

    assert refused(respell) == ["target_changed"]
    assert registry.aliases() == [("clinical-x", "champion", good)]
