"""Run a study with a worker's parts: the sandboxed engine and the graders that the battery names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import evaluators.study
from evaluators.engines.sandboxed import SandboxedTransformersEngine
from evaluators.graders.catalogue import load_grader
from evaluators.graders.remembered import RememberedGrader
from evaluators.study.drift import as_csv, as_markdown, models_of
from evaluators.study.figure import as_svg
from evaluators.study.manifest import load_study
from evaluators.study.run import run_study
from registry_gate.battery import find_battery, load_batteries
from registry_gate.config import Settings

SHIPPED_STUDY = Path(evaluators.study.__file__).parent


@dataclass(frozen=True, kw_only=True)
class StudyFiles:
    """What a study wrote.

    Args:
        table: The table as CSV.
        report: The same for people, with conflicts and signs.
        figure: The figure.
        models: Models measured.
        invalid: Models of which something could not be measured or believed.
    """

    table: Path
    report: Path
    figure: Path
    models: int
    invalid: int


def study(manifest: Path, out: Path, settings: Settings, say: Callable[[str, int, int], None]) -> StudyFiles:
    """Run a study and write its table and figure; what an earlier run finished is not done again.

    Args:
        manifest: The manifest.
        out: Directory of everything that the study makes.
        settings: Of the worker: threads, device, limits, graders. Its batteries are those that policies may name, and
            the study's own.
        say: Told what is being done.

    Raises:
        DocumentError: The manifest breaks the schema.
        PolicyError: There is no such battery.
        AssessmentError: A model that should exist does not, or a grader does not load.
    """
    loaded = load_study(manifest)
    directories = [path for path in (*settings.battery_dirs, SHIPPED_STUDY / "batteries") if path.is_dir()]
    battery = find_battery(load_batteries(directories), loaded.spec.battery)
    names = dict.fromkeys(name for instrument in battery.spec.instruments for name in instrument.graders)
    worker = settings.worker
    graders = [
        RememberedGrader(
            load_grader(name, directories=worker.grader_dirs, threads=worker.threads, provider=worker.device)
        )
        for name in names
    ]
    engine = SandboxedTransformersEngine(
        timeout_s=worker.timeout_s,
        max_memory_bytes=int(worker.max_memory_gib * 1024**3),
        threads=worker.threads,
        device=worker.device,
    )
    findings = run_study(
        loaded,
        battery,
        out,
        engine,
        graders,
        root=manifest.parent,
        assessed_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        say=say,
        threads=worker.threads,
    )
    models = models_of(findings, loaded.spec.margin)
    title = loaded.metadata.title or loaded.metadata.name
    table, report, figure = out / "drift.csv", out / "drift.md", out / "drift.svg"
    table.write_text(as_csv(models), encoding="utf-8")
    report.write_text(as_markdown(models, title=title, battery=battery.id, margin=loaded.spec.margin), encoding="utf-8")
    figure.write_text(as_svg(models, title=title, margin=loaded.spec.margin), encoding="utf-8")
    return StudyFiles(
        table=table,
        report=report,
        figure=figure,
        models=len(models),
        invalid=sum(not model.valid for model in models),
    )
