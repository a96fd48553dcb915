"""deploy/enforce: a server that was started without `gated:` is gated; and a gate that does not load is closed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from conftest import Installation, Server, free_port, mlflow_server, postgresql
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine

from registry_gate.cli import main
from registry_gate.ledger.migrate import current_version

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def enforce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second distribution, built and installed into a directory of its own."""
    directory = tmp_path_factory.mktemp("enforce")
    # Built from a copy: setuptools writes beside what it builds.
    shutil.copytree(ROOT / "deploy" / "enforce", directory / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(directory), str(directory / "source")],
        check=True,
        capture_output=True,
    )
    (wheel,) = directory.glob("registry_gate_enforce-*.whl")
    target = directory / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


def with_path(environment: dict[str, str], *directories: Path) -> dict[str, str]:
    paths = [str(directory) for directory in directories]
    return {**environment, "PYTHONPATH": ":".join([*paths, environment.get("PYTHONPATH", "")])}


@contextmanager
def enforced(
    made: Installation, enforce: Path, registry: str, options: tuple[str, ...] = ("--workers", "1"), **more: str
) -> Iterator[Server]:
    """A server in whose environment the second distribution is installed."""
    port = int(made.tracking_uri.rpartition(":")[2])
    environment = with_path({**made.environment(), **more}, enforce)
    with mlflow_server(
        made.directory, backend=made.ledger_uri, registry=registry, port=port, environment=environment, options=options
    ) as log:
        engine = create_engine(made.ledger_uri)
        yield Server(
            database="sqlite", installation=made, engine=engine, artifacts=made.directory / "artifacts", log=log
        )
        engine.dispose()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(MlflowException) as caught:
        call()
    assert caught.value.error_code == "PERMISSION_DENIED", caught.value
    return str(caught.value)


def check_gated(server: Server, clinical: str) -> None:
    """Refused without evidence, allowed with it, and recorded once."""
    version = server.register(clinical)
    assert "never assessed" in refused(
        lambda: server.client.set_registered_model_alias(clinical, "champion", str(version))
    )
    refused(lambda: server.client.transition_model_version_stage(clinical, str(version), "Production"))
    server.assess(clinical, version)
    server.client.set_registered_model_alias(clinical, "champion", str(version))
    assert server.alias(clinical, "champion") == version
    allowed = [d for d in server.ledger.decisions(model=clinical) if d["decision"] == "allowed"]
    assert len(allowed) == 1
    server.client.delete_registered_model_alias(clinical, "champion")


@pytest.fixture
def made(installation: Callable[..., Installation], monkeypatch: pytest.MonkeyPatch) -> Installation:
    port = free_port()
    found = installation(tracking_uri=f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.tracking_uri)
    return found


def test_a_plain_address_is_gated_and_gated_twice_is_gated_once(
    made: Installation, enforce: Path, clinical: str, other_name: str
) -> None:
    """First as somebody forgot the flag, then on the same database with it."""
    for registry, name in ((made.ledger_uri, clinical), (f"gated:{made.ledger_uri}", clinical + "-two")):
        with enforced(made, enforce, registry) as server:
            check_gated(server, name)


def test_a_postgresql_address_is_gated_and_no_answer_holds_its_password(
    installation: Callable[..., Installation], enforce: Path, clinical: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgresql() as uri:
        made = installation(
            ledger_uri=uri.replace("//postgres:@", "//postgres:s3cret-word@", 1),
            tracking_uri=f"http://127.0.0.1:{free_port()}",
        )
        monkeypatch.setenv("MLFLOW_TRACKING_URI", made.tracking_uri)
        assert "s3cret-word" in made.ledger_uri
        with enforced(made, enforce, made.ledger_uri) as server:
            check_gated(server, clinical)
            assert "s3cret-word" not in server.log.read_text()


def test_workspaces_work_behind_it(made: Installation, enforce: Path, clinical: str) -> None:
    with enforced(made, enforce, made.ledger_uri, ("--enable-workspaces", "--workers", "1")) as server:
        created = server.post("/api/3.0/mlflow/workspaces", {"name": "team-a"})
        assert created.status_code in (200, 201), created.text
        check_gated(server, clinical)
        answer = requests.post(
            f"{server.uri}/api/2.0/mlflow/registered-models/create",
            json={"name": clinical},
            headers={"X-MLFLOW-WORKSPACE": "team-a"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        assert sorted(server.sql("SELECT workspace FROM registered_models WHERE name = :n", n=clinical)) == [
            ("default",),
            ("team-a",),
        ]


def test_a_client_on_the_database_itself_is_gated(made: Installation, enforce: Path, tmp_path: Path) -> None:
    code = (
        "import sys, mlflow\n"
        "from mlflow import MlflowClient\n"
        "from mlflow.tracking._model_registry.utils import _get_store\n"
        "store = _get_store(sys.argv[1], sys.argv[1])\n"
        "print(type(store).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, made.ledger_uri],
        env=with_path(made.environment(), enforce),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "GatedSqlAlchemyStore\n", done.stderr


def test_upgrading_the_database_works_with_it(made: Installation, enforce: Path) -> None:
    upgraded = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", made.ledger_uri],
        env=with_path(made.environment(), enforce),
        capture_output=True,
        text=True,
        check=False,
    )
    assert upgraded.returncode == 0, upgraded.stderr
    engine = create_engine(made.ledger_uri)
    assert current_version(engine) is None  # it is MLflow's own command, on MLflow's own tables
    engine.dispose()


# -- a gate that does not load ----------------------------------------------------------------------------------------


def without_the_plugin(directory: Path) -> Path:
    """A Python with all that is installed here, except registry-gate."""
    venv.create(directory / "venv", with_pip=False)
    here = Path(requests.__file__).parents[1]
    (site,) = (directory / "venv" / "lib").glob("python3.*/site-packages")
    for entry in here.iterdir():
        if "registry_gate" not in entry.name and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    return directory / "venv" / "bin" / "python"


def closed(uri: str) -> None:
    """Nothing can be promoted, or even registered."""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    with pytest.raises(MlflowException):
        client.create_registered_model("clinical-x")
    with pytest.raises(MlflowException):
        client.set_registered_model_alias("clinical-x", "champion", "1")


def test_a_server_without_the_plugin_is_closed_and_doctor_shows_no_password(
    made: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REGISTRY_GATE_CONFIG", str(made.config))
    python = without_the_plugin(tmp_path)
    environment = {key: value for key, value in made.environment().items() if key != "PYTHONPATH"}
    port = int(made.tracking_uri.rpartition(":")[2])
    with mlflow_server(
        made.directory,
        backend=made.ledger_uri,
        registry="gated:postgresql://mlflow:s3cret-word@127.0.0.1:1/mlflow",
        port=port,
        environment=environment,
        python=str(python),
    ):
        assert (
            requests.get(f"{made.tracking_uri}/health", timeout=60).status_code == 200
        )  # MLflow's own: never believed
        closed(made.tracking_uri)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["doctor"])
        said = capsys.readouterr()
    assert ended.value.code == 4
    assert "is NOT gated" in said.out
    assert "s3cret-word" not in said.out + said.err


def test_a_gate_with_invalid_settings_stops_the_server_and_shows_no_password(
    made: Installation, enforce: Path, tmp_path: Path
) -> None:
    environment = {**made.environment(), "REGISTRY_GATE_POLICYDIR": "/misspelt"}
    for registry, directories in (
        (f"gated:{made.ledger_uri}?timeout=20&note=s3cret-word", ()),
        (f"{made.ledger_uri}?timeout=20&note=s3cret-word", (enforce,)),
        ("gated:gated:postgresql://mlflow:s3cret-word@127.0.0.1:1/mlflow", ()),
        ("gated:ftp://mlflow:s3cret-word@127.0.0.1:1/mlflow", ()),
    ):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(free_port())),
                *("--backend-store-uri", made.ledger_uri, "--registry-store-uri", registry),
                *("--artifacts-destination", str(tmp_path / "artifacts"), "--workers", "1"),
            ],
            env=with_path(environment, *directories),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode != 0, registry
        said = done.stdout + done.stderr
        assert ("REGISTRY_GATE_POLICYDIR" in said) or ("registry-gate expects gated:<database uri>" in said), said
        assert "s3cret-word" not in said
