"""Measure one form with one battery, and turn the assessment into signed evidence."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from evaluators.engines.sandboxed import SandboxedTransformersEngine
from evaluators.graders.catalogue import load_grader
from evaluators.graders.interface import Grader
from evaluators.graders.remembered import RememberedGrader
from evaluators.instruments.catalogue import check_plugins
from evaluators.runner import AnswerStore, Subject
from evaluators.runner import assess as run_battery
from registry_gate import __version__
from registry_gate.assessment import Assessment
from registry_gate.battery import Battery
from registry_gate.config import WorkerSettings
from registry_gate.evidence.envelope import sign
from registry_gate.evidence.keys import EvidenceSigner
from registry_gate.evidence.statement import Producer, Statement
from registry_gate.form import FormManifest
from registry_gate.statistics.sequential import FailTest
from registry_gate.worker.forms import FetchedForm

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all)."""

SHARD_PROBES = 512
"""Probes of one child process. Each loads the form anew, so small shards cost more than they save after a kill."""


class Assessor:
    """What a worker measures with. Everything that could fail to load is loaded here, before any request is taken.

    Args:
        settings: The worker's settings.

    Raises:
        AssessmentError: A grader cannot be loaded.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._engine = SandboxedTransformersEngine(
            timeout_s=settings.timeout_s,
            max_memory_bytes=int(settings.max_memory_gib * 1024**3),
            threads=settings.threads,
            device=settings.device,
        )
        self._graders: dict[str, Grader] = {}
        self._store = AnswerStore(settings.work_dir / "answers")

    def load_graders(self, batteries: Sequence[Battery]) -> None:
        """Load every grader that some batteries name, and every instrument that a plugin brings.

        Raises:
            AssessmentError: A grader is missing, damaged or labels another axis than it claims, or a plugin fails.
        """
        check_plugins()
        for battery in batteries:
            for instrument in battery.spec.instruments:
                for name in instrument.graders:
                    if name not in self._graders:
                        grader = load_grader(
                            name,
                            directories=self._settings.grader_dirs,
                            threads=self._settings.threads,
                            provider=self._settings.device,
                        )
                        self._graders[name] = RememberedGrader(grader)

    def assess(
        self,
        battery: Battery,
        fetched: FetchedForm,
        assessed_at: str,
        progress: Progress,
        stopping: Sequence[Sequence[FailTest]] = (),
    ) -> Assessment:
        """Run the battery on a form and its base.

        Args:
            battery: What to measure.
            fetched: The form and its base.
            assessed_at: When the run began.
            progress: Told what is being done.
            stopping: What ends an instrument early, policy by policy; nothing measures everything.

        Raises:
            AssessmentError: Nothing could be measured.
        """
        self.load_graders([battery])
        wanted = {name for instrument in battery.spec.instruments for name in instrument.graders}
        base = fetched.manifest.base
        return run_battery(
            battery,
            Subject(form=fetched.form, base=fetched.base),
            None if base is None else base.digest,
            self._engine,
            [self._graders[name] for name in sorted(wanted)],
            self._settings.probe_dirs,
            self._store,
            assessed_at,
            progress,
            shard_size=SHARD_PROBES,
            stopping=stopping,
        )


def signed_evidence(name: str, assessment: Assessment, manifest: FormManifest, signer: EvidenceSigner) -> bytes:
    """The envelope to store.

    Args:
        name: Where the form was found, e.g. `models:/clinical-triage/7`.
        assessment: What was measured.
        manifest: On what.
        signer: The worker's key.
    """
    statement = Statement(
        name=name,
        assessment=assessment,
        manifest=manifest,
        producer=Producer(name="registry-gate worker", version=__version__, environment=environment()),
    )
    return sign(statement, signer)


def environment() -> dict[str, str]:
    """Versions that the numbers may depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("torch", "transformers", "peft", "tokenizers", "onnxruntime-gpu", "onnxruntime", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def evidence_dir(settings: WorkerSettings) -> Path:
    """Where a worker keeps evidence files."""
    return settings.work_dir / "evidence"
