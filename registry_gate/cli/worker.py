"""`worker`: run the process that measures."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from registry_gate.cli.common import settings_of, tracking_uri_option


@click.command()
@click.option("--until-idle", is_flag=True, help="End when no request is left.")
@click.option("--id", "worker_id", help="Name of this worker (default: from the settings).")
@click.option("--threads", type=click.IntRange(min=1), help="Threads for generation and grading.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where candidates run.")
@click.option("--work-dir", type=click.Path(file_okay=False, path_type=Path), help="Answers, durable state, evidence.")
@tracking_uri_option
@click.pass_context
def worker(
    ctx: click.Context,
    until_idle: bool,
    worker_id: str | None,
    threads: int | None,
    device: str | None,
    work_dir: Path | None,
    tracking_uri: str | None,
) -> None:
    """Run a worker: take assessment requests, measure, sign, file the evidence.

    Candidates are loaded in a child process without network credentials and without the signing key. Kill it whenever
    you like: it goes on where it stopped.

    \b
    Example:  registry-gate worker
              registry-gate worker --until-idle --threads 2
    """
    settings = settings_of(
        ctx,
        worker__id=worker_id,
        worker__threads=threads,
        worker__device=device,
        worker__work_dir=work_dir,
        mlflow__tracking_uri=tracking_uri,
    )
    # MLflow's client would draw its own bars and print addresses between ours.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Here, not above: these import torch-free but slow packages (MLflow, DBOS, ONNX Runtime).
    from registry_gate.cli.console import WorkerConsole
    from registry_gate.ledger import Ledger
    from registry_gate.worker.service import Worker

    stop = threading.Event()

    def end(_number: int, _frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    with WorkerConsole() as console:
        running = Worker(settings, Ledger.connect(settings.require_ledger()), console)
        console.say(f"worker {settings.worker.id} is ready; ledger schema {running.ledger.schema()[0]}")
        ended = running.run(stop, until_idle=until_idle)
        console.say(f"worker {settings.worker.id} ended after {ended} requests")
