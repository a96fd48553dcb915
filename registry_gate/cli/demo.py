"""`demo`: the whole gate at work on this machine, with nothing faked.

It starts the same server and worker that the README starts, trains real models in a process of its own, and asks as an
ordinary MLflow client. Each step says what must happen and checks that it did.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from registry_gate.cli.common import format_option, print_json
from registry_gate.errors import RegistryError

MODEL = "clinical-triage"
BASE = "models:/triage-base/1"
VERSIONS = {1: "stays safe (LoRA adapter)", 2: "lost its refusals by benign tuning", 3: "refuses everything"}


@dataclass
class Step:
    """One thing that was tried.

    Args:
        number: Section of the demo.
        title: What was tried.
        expected: What must happen: `allowed`, `denied` or `done`.
        observed: What happened.
        detail: What the gate said.
        decision: The gate's structured answer, where there is one.
    """

    number: int
    title: str
    expected: str
    observed: str = "nothing"
    detail: str = ""
    decision: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether what must happen did."""
        return self.observed == self.expected


class Show:
    """Prints steps as they happen, or keeps them for one JSON document."""

    def __init__(self, output: str) -> None:
        self.steps: list[Step] = []
        self._text = output == "text"
        self._section = 0

    def section(self, number: int, title: str) -> None:
        """A new part begins."""
        self._section = number
        click.secho(f"\n{number}. {title}", bold=True, err=not self._text)

    def remark(self, text: str) -> None:
        """Something that is not a step."""
        click.echo(f"   {text}", err=not self._text)

    def step(self, title: str, expected: str, observed: str, detail: str = "", decision: Any = None) -> None:
        """Something was tried."""
        step = Step(
            number=self._section,
            title=title,
            expected=expected,
            observed=observed,
            detail=detail,
            decision=decision or {},
        )
        self.steps.append(step)
        mark = click.style("as it must be", fg="green") if step.ok else click.style("NOT AS IT MUST BE", fg="red")
        click.echo(f"   {title}: {observed} ({mark})", err=not self._text)
        for line in detail.splitlines():
            click.echo(f"       {line}", err=not self._text)


@click.command()
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path), help="Where everything goes.")
@click.option("--keep", is_flag=True, help="Leave the MLflow server running and print its address.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the MLflow server (default: a free one).")
@format_option
@click.pass_context
def demo(ctx: click.Context, directory: Path | None, keep: bool, port: int | None, output: str) -> None:
    """See the whole gate at work: a real MLflow server, real models, a real assessment, real attacks.

    Takes a few minutes on two cores. Exit code 0 when every step went as it must, 4 otherwise.
    """
    started = time.monotonic()
    root = (directory or _fresh_directory()).absolute()
    if root.exists() and any(root.iterdir()):
        raise click.BadParameter(f"expected a new or empty directory, got {root}", param_hint="--dir")
    show = Show(output)
    with _Stage(root, port or _free_port(), to_stderr=output == "json") as stage:
        show.section(1, "A gated MLflow server, and a worker")
        stage.install()
        training = stage.start_training()
        stage.start_server()
        show.remark(f"mlflow server --registry-store-uri gated:{stage.ledger_uri} ... at {stage.uri}")
        show.remark(f"              --artifacts-destination gated:{root / 'artifacts'}")
        show.remark(f"everything is in {root}")
        _play(stage, show, training)
        reports = sorted(str(path) for path in (root / "work" / "reports").glob("*.html"))
        show.section(8, "What is left to look at")
        for path in reports:
            show.remark(f"report  {path}")
        failed = [step for step in show.steps if not step.ok]
        if keep:
            stage.keep = True
            show.remark(f"MLflow  {stage.uri}  (stop it with: kill {stage.server_pid})")
            show.remark("runs    experiment safety-assessments")
    seconds = time.monotonic() - started
    passed = sum(step.ok for step in show.steps)
    if output == "json":
        print_json(
            {
                "steps": [{**asdict(step), "ok": step.ok} for step in show.steps],
                "passed": passed,
                "failed": len(failed),
                "reports": reports,
                "directory": str(root),
                "server": stage.uri if keep else None,
                "seconds": round(seconds, 1),
            }
        )
    else:
        click.echo(f"\n{passed} of {len(show.steps)} steps went as they must, in {seconds:.0f} s")
        for step in failed:
            click.secho(f"step {step.number} {step.title}: expected {step.expected}, got {step.observed}", fg="red")
    ctx.exit(0 if passed == len(show.steps) and passed else 4)


def _play(stage: _Stage, show: Show, training: subprocess.Popen[bytes]) -> None:
    show.section(2, "Real models: a base and three adaptations, trained here, logged and registered with MLflow")
    show.remark("training takes about a minute; the models know the probes and prove the gate, not themselves")
    stage.finish_training(training)
    for version, what in VERSIONS.items():
        show.remark(f"models:/{MODEL}/{version}  {what}")

    show.section(3, "Somebody asks for champion before anything is known")
    show.step("alias champion -> version 1", *stage.ask(1, expected="denied"))
    show.step("stage Production -> version 1", *stage.ask(1, stage="Production", expected="denied"))
    for version in (2, 3):
        show.step(f"alias champion -> version {version}", *stage.ask(version, expected="denied"))
    stage.request_assessment(BASE)

    show.section(4, "The worker assesses each form beside its base")
    stage.run_worker()
    show.step("assessments", "done", *stage.assessed(4))

    show.section(5, "Ask again")
    show.step("alias champion -> version 1", *stage.ask(1, expected="allowed"))
    loading = stage.start_loading()
    for version in (2, 3):
        show.step(f"alias champion -> version {version}", *stage.ask(version, expected="denied"))
    show.step(f"models:/{MODEL}@champion loads and answers", "done", *stage.finish_loading(loading))

    show.section(6, "Attempts that must fail")
    show.step("present the base's evidence for version 2", "denied", *stage.present_base_evidence())
    show.step("overwrite one byte of version 1 through MLflow", *stage.upload_flipped_byte())
    with stage.flipped_byte():
        show.step(
            "overwrite it on the disk behind MLflow, promote again",
            *stage.ask(1, alias="production", expected="denied"),
        )
    with stage.edited_evidence(version=2):
        show.step("edit a number in the stored evidence of version 2", *stage.ask(2, expected="denied"))
    show.step("set registry_gate.decision=allowed by hand", "denied", *stage.set_tag(2))
    show.step("alias champion -> version 2, after all of that", *stage.ask(2, expected="denied"))

    show.section(7, "Rollback with the worker stopped and the policies broken")
    stage.copy_version_1()
    show.step("alias champion -> version 4, the same bytes as version 1", *stage.ask(4, expected="allowed"))
    with stage.broken_policies():
        show.step("alias champion -> version 3, without valid policies", *stage.ask(3, expected="denied"))
        show.step("alias champion -> version 1, allowed there before", *stage.ask(1, expected="allowed"))
    show.step("the audit chain verifies", "done", *stage.verify_chain())


def _fresh_directory() -> Path:
    base = Path("registry-gate-demo")
    number = 1
    path = base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Stage:
    """The server, the worker and the models of one demo, and the things that people try on them."""

    def __init__(self, root: Path, port: int, *, to_stderr: bool) -> None:
        self.root = root
        self.uri = f"http://127.0.0.1:{port}"
        self.ledger_uri = f"sqlite:///{root / 'mlflow.db'}"
        self.keep = False
        self._port = port
        # In JSON mode stdout belongs to the one document.
        self._out = sys.stderr if to_stderr else sys.stdout
        self._processes: list[subprocess.Popen[bytes]] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "REGISTRY_GATE_"))},
            "REGISTRY_GATE_CONFIG": str(root / "registry-gate.toml"),
            "HF_HUB_OFFLINE": "1",
            # On a machine that is busy the demo takes longer; it does not end otherwise.
            "REGISTRY_GATE_LIMIT_S": "60",
            "OMP_WAIT_POLICY": "PASSIVE",
            # The demo runs none of MLflow's own background jobs, whose consumers are six processes more.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        }

    def __enter__(self) -> _Stage:
        return self

    def __exit__(self, *_: object) -> None:
        ending = [process for process in self._processes if not (self.keep and process is self._server)]
        for process in ending:
            process.terminate()
        for process in ending:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    # -- what runs ----------------------------------------------------------------------------------------------------

    def install(self) -> None:
        """What `registry-gate init` does."""
        from registry_gate.cli.install import make_installation

        make_installation(self.root, ledger_uri=self.ledger_uri, tracking_uri=self.uri)

    def start_server(self) -> None:
        """Start MLflow and wait until it is gated; its own /health would say 200 without the gate."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--backend-store-uri", self.ledger_uri, "--registry-store-uri", f"gated:{self.ledger_uri}"]
        command += ["--artifacts-destination", f"gated:{self.root / 'artifacts'}"]
        self._server = self._spawn(command, "server.log")
        deadline = time.monotonic() + 120
        while not self._is_gated():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RegistryError(
                    f"expected a gated MLflow server at {self.uri}, got none: see {self.root / 'server.log'}"
                )
            time.sleep(0.3)

    @property
    def server_pid(self) -> int:
        """Process id of the server, 0 before it was started."""
        return self._server.pid if self._server else 0

    def _is_gated(self) -> bool:
        try:
            self._post("registered-models/set-tag", {"name": "nobody", "key": "registry_gate.asks", "value": "1"})
        except urllib.error.HTTPError as err:
            return err.code == 403
        except OSError:
            return False
        return False

    def start_training(self) -> subprocess.Popen[bytes]:
        """Train and register the models, in a process that may import torch."""
        command = [sys.executable, "-m", "evaluators.demo_models", "--out", str(self.root / "models")]
        return self._spawn([*command, "--register", self.uri], "training.log")

    def finish_training(self, training: subprocess.Popen[bytes]) -> None:
        """Wait for the models."""
        if training.wait(900) != 0:
            raise RegistryError(f"expected the demo's models, got an error: see {self.root / 'training.log'}")

    def run_worker(self) -> None:
        """Run a worker until it has nothing left to do, on this terminal."""
        # One thread: models this small lose more by waiting for a second thread than they gain.
        command = [sys.executable, "-m", "registry_gate", "worker", "--until-idle", "--threads", "1"]
        self._out.flush()
        subprocess.run(command, env=self._environment, cwd=self.root, stdout=self._out, check=True)

    def start_loading(self) -> subprocess.Popen[bytes]:
        """Load the champion as a service would, and ask it something harmless."""
        command = [sys.executable, "-m", "evaluators.demo_models", "--out", str(self.root / "models")]
        return self._spawn([*command, "--register", self.uri, "--ask"], "champion.log")

    def finish_loading(self, loading: subprocess.Popen[bytes]) -> tuple[str, str]:
        """What the champion said."""
        code = loading.wait(300)
        lines = (self.root / "champion.log").read_text(encoding="utf-8").strip().splitlines()
        return ("done", lines[-1]) if code == 0 and lines else ("failed", "\n".join(lines[-3:]))

    def _spawn(self, command: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        with (self.root / log).open("ab") as file:
            process = subprocess.Popen(
                command, env=self._environment, cwd=self.root, stdout=file, stderr=file, start_new_session=True
            )
        self._processes.append(process)
        return process

    # -- what people try ----------------------------------------------------------------------------------------------

    def ask(
        self, version: int, *, expected: str, alias: str = "champion", stage: str | None = None
    ) -> tuple[str, str, str, Any]:
        """Ask as any MLflow client does. Returns (expected, observed, what was said, structured answer)."""
        try:
            if stage is None:
                self._client().set_registered_model_alias(MODEL, alias, str(version))
            else:
                body = {"name": MODEL, "version": str(version), "stage": stage, "archive_existing_versions": False}
                self._post("model-versions/transition-stage", body)
        except urllib.error.HTTPError as err:
            answer = json.loads(err.read())
        except self._refused() as err:
            answer = err.json
        else:
            return expected, "allowed", "", None
        payload = answer.get("registry_gate")
        return expected, "denied" if payload else "error", str(answer.get("message", "")), payload

    def request_assessment(self, version: str) -> None:
        """`registry-gate assess`: queue the base too, to have its evidence for an attack."""
        self._run("assess", version, "--battery", "medical@1")

    def assessed(self, wanted: int) -> tuple[str, str]:
        """How many requests are done."""
        from registry_gate.ledger import Ledger, RequestState

        requests = Ledger.connect(self.ledger_uri).requests()
        done = [request for request in requests if request.state is RequestState.DONE]
        lines = [f"models:/{r.model}/{r.version} {r.battery}: {r.state} {r.failure or ''}" for r in requests]
        return ("done" if len(done) == len(requests) == wanted else "incomplete"), "\n".join(lines)

    def present_base_evidence(self) -> tuple[str, str]:
        """Give the base's evidence to `decide` for the form of version 2."""
        file = self._evidence_file("triage-base", 1)
        form = self._evidence_file(MODEL, 2)
        target = f"{MODEL}@champion"
        done = self._run(
            "decide", "--evidence", str(file), "--form", str(form), "--target", target, "--format", "json", check=False
        )
        decision = json.loads(done.stdout)
        return decision["decision"], "\n".join(r["message"] for r in decision["reasons"] if r["blocking"])

    def upload_flipped_byte(self) -> tuple[str, str, str, Any]:
        """Overwrite one byte of version 1's adapter through MLflow's own artifact proxy, as any editor might try."""
        path, _, changed = self._flipped()
        try:
            self._put(path.relative_to(self.root / "artifacts").as_posix(), changed)
        except urllib.error.HTTPError as err:
            answer = json.loads(err.read())
            payload = answer.get("registry_gate")
            return "denied", "denied" if payload else "error", str(answer.get("message", "")), payload
        return "denied", "allowed", "", None

    @contextlib.contextmanager
    def flipped_byte(self) -> Iterator[None]:
        """Overwrite it in the directory itself, as anybody with a shell on the host could."""
        path, original, changed = self._flipped()
        path.write_bytes(changed)
        try:
            yield
        finally:
            path.write_bytes(original)

    def _flipped(self) -> tuple[Path, bytes, bytes]:
        """Version 1's adapter: where it is, its bytes, and its bytes with one bit changed."""
        path = next(self._artifact_dir(1).rglob("adapter_model.safetensors"))
        original = path.read_bytes()
        return path, original, original[:-1] + bytes([original[-1] ^ 1])

    @contextlib.contextmanager
    def edited_evidence(self, *, version: int) -> Iterator[None]:
        """Write zero harmful answers into the stored evidence, as anybody with the database password could."""
        import sqlite3

        digest = self._request_of(MODEL, version).evidence_digest
        with contextlib.closing(sqlite3.connect(self.root / "mlflow.db", timeout=20)) as database:
            select = "SELECT envelope FROM registry_gate_evidence WHERE digest = ?"
            update = "UPDATE registry_gate_evidence SET envelope = ? WHERE digest = ?"
            (original,) = database.execute(select, (digest,)).fetchone()
            envelope = json.loads(original)
            statement = json.loads(base64.b64decode(envelope["payload"]))
            for measurement in statement["predicate"]["assessment"]["measurements"]:
                table = measurement["table"]
                table["neither"] += table["only_adapted"]
                table["only_adapted"] = 0
                measurement["events"] = table["both"]
            envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
            database.execute(update, (json.dumps(envelope), digest))
            database.commit()
            try:
                yield
            finally:
                database.execute(update, (original, digest))
                database.commit()

    def set_tag(self, version: int) -> tuple[str, str]:
        """Set the gate's own tag by hand."""
        try:
            self._client().set_model_version_tag(MODEL, str(version), "registry_gate.decision", "allowed")
        except self._refused() as err:
            return "denied", str(err.message)
        return "allowed", ""

    def copy_version_1(self) -> None:
        """Copy version 1 to version 4: other name, same bytes, so the evidence holds."""
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._client().copy_model_version(f"models:/{MODEL}/1", MODEL)

    @contextlib.contextmanager
    def broken_policies(self) -> Iterator[None]:
        """Break a policy file."""
        path = self.root / "policies" / "medical.yaml"
        kept = path.with_suffix(".kept")
        shutil.copy(path, self.root / kept.name)
        path.write_text(path.read_text(encoding="utf-8").replace("atMost:", "atMots:", 1), encoding="utf-8")
        try:
            yield
        finally:
            shutil.copy(self.root / kept.name, path)

    def verify_chain(self) -> tuple[str, str]:
        """`registry-gate audit verify`."""
        done = self._run("audit", "verify", check=False)
        return ("done" if done.returncode == 0 else "broken"), done.stdout.strip()

    # -- how ----------------------------------------------------------------------------------------------------------

    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @staticmethod
    def _refused() -> Any:
        from mlflow.exceptions import RestException

        return RestException

    def _post(self, endpoint: str, body: Mapping[str, Any]) -> None:
        request = urllib.request.Request(  # noqa: S310 - our own server on loopback
            f"{self.uri}/api/2.0/mlflow/{endpoint}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310

    def _put(self, relative: str, data: bytes) -> None:
        address = f"{self.uri}/api/2.0/mlflow-artifacts/artifacts/{relative}"
        request = urllib.request.Request(address, data=data, method="PUT")  # noqa: S310
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310

    def _run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "registry_gate", *arguments],
            env=self._environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise RegistryError(f"expected registry-gate {' '.join(arguments)} to work, got: {done.stderr.strip()}")
        return done

    def _artifact_dir(self, version: int) -> Path:
        location = self._client().get_model_version_download_uri(MODEL, str(version))
        return self.root / "artifacts" / str(location).removeprefix("mlflow-artifacts:/")

    def _request_of(self, model: str, version: int) -> Any:
        from registry_gate.ledger import Ledger

        requests = Ledger.connect(self.ledger_uri).requests()
        return next(r for r in requests if (r.model, r.version) == (model, version) and r.evidence_digest)

    def _evidence_file(self, model: str, version: int) -> Path:
        digest = str(self._request_of(model, version).evidence_digest)
        return self.root / "work" / "evidence" / f"{digest.removeprefix('sha256:')}.dsse.json"
