"""`study`: many adaptations of some bases, measured beside them, as a table and a figure."""

from __future__ import annotations

from pathlib import Path

import click

from registry_gate.cli.common import settings_of


@click.command()
@click.argument("manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Where everything goes.")
@click.option("--threads", type=click.IntRange(1, 256), help="CPU threads (default: the worker's setting).")
@click.pass_context
def study(ctx: click.Context, manifest: Path, out: Path, threads: int | None) -> None:
    """Measure the adaptations that MANIFEST lists, each beside its base, and show how their instruments moved.

    Writes drift.csv, drift.md and drift.svg into --out: per model and instrument the change from the base with its
    interval, which instruments contradict each other beyond the margin, and the share of mixed signs beside what chance
    gives. Interrupted, it goes on where it was when started again. Needs the worker's packages.

    \b
    Example:
      registry-gate study evaluators/study/manifest.yaml --out study

    Exit code 0 when every model was measured and valid, 4 otherwise.
    """
    # Imported here: --help must not load what loads models.
    from registry_gate.cli.console import WorkerConsole
    from registry_gate.worker.study import study as run

    settings = settings_of(ctx, **({"worker__threads": threads} if threads else {}))
    out.mkdir(parents=True, exist_ok=True)
    with WorkerConsole() as console:
        files = run(manifest, out, settings, console.progress)
    for path in (files.table, files.report, files.figure):
        click.echo(str(path))
    click.echo(f"{files.models} models, {files.invalid} of them not valid", err=True)
    ctx.exit(4 if files.invalid or not files.models else 0)
