"""The worker process: claim requests, run each as a durable workflow, and say what happens.

DBOS keeps the finished steps in a database of the worker's own. After SIGKILL the same worker goes on after the last
finished step; answers that were already obtained are reused from disk, so the assessment comes out byte for byte the
same. A worker that is gone for good is replaced by any other one when its lease runs out.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from dbos import DBOS, DBOSConfig, SetWorkflowID

from registry_gate import __version__
from registry_gate.battery import Battery
from registry_gate.config import Settings
from registry_gate.errors import (
    AssessmentError,
    ConfigError,
    EvidenceError,
    LedgerError,
    PolicyError,
    RegistryGateError,
)
from registry_gate.evidence.envelope import verify
from registry_gate.evidence.files import store_evidence
from registry_gate.evidence.keys import EvidenceSigner, load_signer
from registry_gate.grants import record_ends
from registry_gate.ledger import AssessmentRequest, Ledger
from registry_gate.policy.outcomes import stopping_tests
from registry_gate.policy.source import PATIENT_S
from registry_gate.policy_uses import PolicyUses
from registry_gate.signed_policies import policy_source
from registry_gate.statistics.sequential import FailTest
from registry_gate.web.summary import Summary, policies_for, summarise
from registry_gate.worker.assess import Assessor, evidence_dir, signed_evidence
from registry_gate.worker.forms import FormFetcher, in_workspace
from registry_gate.worker.publish import log_run, write_report

_logger = logging.getLogger(__name__)

POLL_S = 0.5


class Console(Protocol):
    """What a person sees of the worker."""

    def started(self, request: AssessmentRequest) -> None:
        """A request was taken."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Something moved on."""

    def finished(self, summary: Summary, report: str) -> None:
        """An assessment is done."""

    def failed(self, request: AssessmentRequest, failure: str) -> None:
        """A request failed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a workflow ended; plain values, because DBOS stores them.

    Args:
        evidence: Digest of the evidence, or None.
        code: Reason code of the failure, or None.
        failure: Sentence of the failure, or None.
    """

    evidence: str | None = None
    code: str | None = None
    failure: str | None = None


class Worker:
    """Everything that one worker holds. Building it fails when anything that it needs is missing.

    Args:
        settings: All settings.
        ledger: The ledger.
        console: What a person sees.

    Raises:
        ConfigError: Key or settings.
        PolicyError: The policy set does not load.
        AssessmentError: A grader does not load.
        EvidenceError: The evidence directory cannot be written.
    """

    def __init__(self, settings: Settings, ledger: Ledger, console: Console) -> None:
        self.settings = settings.worker
        self.ledger = ledger
        self.console = console
        self.policies = policy_source(settings, wait_s=PATIENT_S)
        self._uses = PolicyUses(ledger, self.policies)
        self.signer: EvidenceSigner = load_signer(self.settings.signing_key)
        self._require_known_key()
        try:
            evidence_dir(self.settings).mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ConfigError(
                f"expected a work directory that can be written, got {err}: set [worker] work_dir"
            ) from err
        self.fetcher = FormFetcher(settings.require_tracking(), self.settings.work_dir / "forms")
        self.assessor = Assessor(self.settings)
        self.assessor.load_graders(list(self._needed_batteries().values()))
        self._lease = timedelta(seconds=self.settings.lease_s)

    def _needed_batteries(self) -> dict[str, Battery]:
        policy_set = self.policies.current()
        names = {policy.spec.evidence.battery for policy in policy_set.policies.values()}
        return {name: policy_set.batteries[name] for name in names}

    def _require_known_key(self) -> None:
        """Evidence signed by a key that no policy knows would be thrown away: say so before measuring for an hour."""
        known = set(self.policies.current().signers.values())
        if self.signer.public_pem not in known:
            raise ConfigError(
                f"expected a signing key whose public half the policy set lists under signers, got another one "
                f"({self.settings.signing_key}): put its public key into the policy directory, or use the right key"
            )

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, *, until_idle: bool = False) -> int:
        """Work until told to stop, or until nothing is left to do. Returns the number of requests ended."""
        ended = 0
        with _durable(self) as start:
            last_seen = datetime.min.replace(tzinfo=UTC)
            while not stop.is_set():
                now = datetime.now(UTC)
                try:
                    if (now - last_seen).total_seconds() > 10:
                        self.ledger.worker_seen(self.settings.id, "idle")
                        self._record_what_time_brought(now)
                        last_seen = now
                    request = self.ledger.claim(self.settings.id, self._lease)
                except LedgerError as err:
                    _logger.warning("%s", err)
                    stop.wait(5)
                    continue
                if request is None:
                    if until_idle:
                        break
                    stop.wait(POLL_S)
                    continue
                self._work(request, start)
                ended += 1
        return ended

    def _record_what_time_brought(self, now: datetime) -> None:
        """Put down, for whoever reads the audit chain, that other policies came into force or that break-glass ended.

        Both are so by the place and the clock all the same.
        """
        try:
            policy_set = self.policies.current()
            with self.ledger.transaction() as connection:
                self._uses.note(connection, policy_set, now)
            for opened in record_ends(self.ledger, policy_set, now):
                _logger.warning("break-glass %s of %s ended at %s", opened.id, opened.person, opened.expires_at)
        except PolicyError as err:
            _logger.warning("%s", err)

    def _work(self, request: AssessmentRequest, start: Callable[[AssessmentRequest], Outcome]) -> None:
        self.console.started(request)
        with self._kept_alive(request):
            outcome = start(request)
        if outcome.evidence is None:
            failure = outcome.failure or "the workflow ended without evidence"
            self.ledger.fail(request.id, self.settings.id, outcome.code or "assessment", failure)
            self.console.failed(request, failure)
            return
        summary, report = self.publish(request, outcome.evidence)
        # Another worker may have taken the request over meanwhile; the evidence is filed and counts all the same.
        self.ledger.finish(request.id, self.settings.id, outcome.evidence)
        self.console.finished(summary, report)

    @contextmanager
    def _kept_alive(self, request: AssessmentRequest) -> Any:
        """Extend the lease while the request is worked on."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self.settings.lease_s / 4):
                try:
                    self.ledger.worker_seen(self.settings.id, "busy")
                    self.ledger.report_progress(request.id, self.settings.id, self._lease, self._said)
                except LedgerError as err:
                    _logger.warning("%s", err)

        self._said = "just begun"
        thread = threading.Thread(target=beat, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    # -- the steps ----------------------------------------------------------------------------------------------------

    def measure(self, request: AssessmentRequest, assessed_at: str) -> str:
        """Fetch, measure and sign. Returns the envelope.

        Raises:
            RegistryGateError: With the family of whoever must act.
        """
        battery = self.policies.current().batteries.get(request.battery)
        if battery is None or battery.digest != request.battery_digest:
            raise AssessmentError(
                f"expected the battery {request.battery} as it was when the assessment was asked for, got another: "
                "ask for the promotion again",
                code="battery_changed",
            )
        self._say("fetching the form", 0, 1)
        with in_workspace(request.workspace):
            fetched = self.fetcher.fetch(request.model, request.version, request.form_digest)
        assessment = self.assessor.assess(battery, fetched, assessed_at, self._say, self._stopping(request))
        name = f"models:/{request.model}/{request.version}"
        return signed_evidence(name, assessment, fetched.manifest, self.signer).decode()

    def _stopping(self, request: AssessmentRequest) -> tuple[tuple[FailTest, ...], ...]:
        """What may end an instrument of this run early. Nothing where an earlier run stopped: this one is in full."""
        policy_set = self.policies.current()
        for stored in self.ledger.evidence_for(request.form_digest, request.workspace):
            if stored.battery != request.battery:
                continue
            try:
                earlier = verify(stored.envelope, policy_set.signers)
            except RegistryGateError:
                continue  # what does not verify says nothing; the gate reports it
            if earlier.assessment.stopped:
                return ()
        resting = policies_for(policy_set, request.model, request.battery)
        now = datetime.now(UTC)
        return stopping_tests([policy.as_of(now) for policy in resting if policy.may_govern(request.model)])

    def file(self, request: AssessmentRequest, envelope: str) -> str:
        """Store evidence: first the file, then the ledger row that makes it count. Returns its digest."""
        data = envelope.encode()
        path = store_evidence(evidence_dir(self.settings), data)
        digest = "sha256:" + path.name.split(".")[0]
        self.ledger.store_evidence(
            digest=digest,
            form_digest=request.form_digest,
            battery=request.battery,
            workspace=request.workspace,
            envelope=data,
        )
        return digest

    def publish(self, request: AssessmentRequest, digest: str) -> tuple[Summary, str]:
        """Report and MLflow run. A server that is away costs the run, never the evidence."""
        stored = self.ledger.evidence(digest)
        if stored is None:
            raise EvidenceError(f"expected the evidence {digest} in the ledger, got none")
        policy_set = self.policies.current()
        verified = verify(stored.envelope, policy_set.signers)
        summary = summarise(
            policy_set, policies_for(policy_set, request.model, request.battery), verified, datetime.now(UTC)
        )
        report = write_report(summary, self.settings.work_dir / "reports")
        try:
            envelope = store_evidence(evidence_dir(self.settings), stored.envelope)
            with in_workspace(request.workspace):
                log_run(self.fetcher.client(), summary, report, envelope)
        except Exception as err:  # MLflow's client raises whatever its transport does
            _logger.warning("the run for people could not be logged in MLflow: %s", err)
        return summary, str(report)

    def _say(self, what: str, done: int, total: int) -> None:
        self._said = f"{what}: {done} of {total}"
        self.console.progress(what, done, total)


@contextmanager
def _durable(worker: Worker) -> Any:
    """Register the workflow with DBOS, launch it, and give a function that runs a request through it."""
    worker.settings.work_dir.mkdir(parents=True, exist_ok=True)
    config: DBOSConfig = {
        "name": "registry-gate-worker",
        "system_database_url": f"sqlite:///{(worker.settings.work_dir / 'dbos.sqlite').absolute()}",
        "executor_id": worker.settings.id,
        # Recovery is by version; steps keep their meaning within one release of ours.
        "application_version": __version__,
        "console_log_level": "ERROR",
        "log_level": "ERROR",
    }
    DBOS(config=config)

    @DBOS.step(name="begin")
    def begin() -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @DBOS.step(name="measure")
    def measure(request_id: str, assessed_at: str) -> str:
        return _outcome(lambda: worker.measure(_found(worker, request_id), assessed_at))

    @DBOS.step(name="file")
    def file(request_id: str, envelope: str) -> str:
        return _outcome(lambda: worker.file(_found(worker, request_id), envelope))

    @DBOS.workflow(name="assess")
    def assess(request_id: str) -> str:
        result = json.loads(measure(request_id, begin()))
        if "ok" in result:
            result = json.loads(file(request_id, result["ok"]))
        return json.dumps(result)

    DBOS.launch()

    def start(request: AssessmentRequest) -> Outcome:
        with SetWorkflowID(f"{request.id}.{request.round}"):
            handle = DBOS.start_workflow(assess, request.id)
        result = json.loads(handle.get_result())
        if "ok" in result:
            return Outcome(evidence=result["ok"])
        return Outcome(code=result["code"], failure=result["failure"])

    try:
        yield start
    finally:
        DBOS.destroy(destroy_registry=True)


def _found(worker: Worker, request_id: str) -> AssessmentRequest:
    request = worker.ledger.request(request_id)
    if request is None:
        raise LedgerError(f"expected the assessment request {request_id} in the ledger, got none")
    return request


def _outcome(step: Callable[[], str]) -> str:
    """A step's result as text: failures are results too, so that a finished workflow never fails to load."""
    try:
        return json.dumps({"ok": step()})
    except RegistryGateError as err:
        return json.dumps({"code": err.code, "failure": str(err)})
    except Exception as err:
        _logger.exception("the assessment ended unexpectedly")
        return json.dumps(
            {"code": "worker_crashed", "failure": f"unexpected {type(err).__name__} in the worker: {err}"}
        )
