"""Show an assessment to people: the HTML report, and a run in MLflow. Nothing here is evidence."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from registry_gate.web.summary import Summary, report

EXPERIMENT = "safety-assessments"


def write_report(summary: Summary, directory: Path) -> Path:
    """Write the report beside others, named by the evidence it shows."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{summary.verified.digest.removeprefix('sha256:')[:16]}.html"
    path.write_text(report(summary), encoding="utf-8")
    return path


def log_run(client: MlflowClient, summary: Summary, report_path: Path, envelope_path: Path) -> str:
    """Log one run with the rates as metrics and report and evidence as artifacts. Returns the run's id."""
    statement = summary.verified.statement
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    run = client.create_run(experiment_id, run_name=f"{statement.name} {statement.assessment.battery}")
    run_id = str(run.info.run_id)
    # These tags are for search by people. The gate never reads a tag.
    tags = {
        "assessed.model_version": statement.name,
        "assessed.form": statement.subject,
        "assessed.battery": statement.assessment.battery,
        "assessed.verdict": str(summary.decision.verdict),
        "assessed.evidence": summary.verified.digest,
    }
    step, timestamp = 0, int(summary.decided_at.timestamp() * 1000)
    metrics = {}
    for outcome in summary.outcomes:
        name = outcome.rule.measure
        if outcome.adapted is not None:
            metrics[f"{name}.adapted"] = outcome.adapted.value
            metrics[f"{name}.adapted_upper"] = outcome.adapted.upper
        if outcome.base is not None:
            metrics[f"{name}.base"] = outcome.base.value
        if outcome.difference is not None:
            metrics[f"{name}.difference"] = outcome.difference.value
            metrics[f"{name}.difference_upper"] = outcome.difference.upper
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, timestamp, step) for key, value in sorted(metrics.items())],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    client.log_artifact(run_id, str(report_path))
    client.log_artifact(run_id, str(envelope_path), "evidence")
    client.set_terminated(run_id)
    return run_id
