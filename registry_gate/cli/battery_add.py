"""`battery add`: make a battery of your own copy of a public set, or of a file of yours."""

from __future__ import annotations

import re
from pathlib import Path

import click

from registry_gate.cli.common import format_option, print_json, settings_of


def _pairs(values: tuple[str, ...], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key or not text:
            raise click.BadParameter(f"expected NAME=VALUE, got {value!r}", param_hint=option)
        if key in found:
            raise click.BadParameter(f"expected {key!r} once, got it twice", param_hint=option)
        found[key] = text
    return found


def _battery_id(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"([a-z][a-z0-9_-]{0,63})@([1-9][0-9]{0,8})", text)
    if match is None:
        raise click.BadParameter(f"expected NAME@VERSION such as xstest@1, got {text!r}", param_hint="--battery")
    return match[1], int(match[2])


@click.command("add")
@click.argument("name")
@click.option(
    "--from", "place", required=True, help="File or folder, hf://datasets/OWNER/NAME[@REVISION][/PATH], s3://..."
)
@click.option("--battery", "battery_id", help="Battery to write (default: NAME@1).")
@click.option("--extend", help="Battery whose instruments come first, e.g. general@1.")
@click.option(
    "--dir", "directory", type=click.Path(file_okay=False, path_type=Path), help="Default: POLICY_DIR/batteries."
)
@click.option("--metric", help="What a set that is not known measures, e.g. harmful_compliance.")
@click.option("--column", "columns", multiple=True, help="text=prompt, id=..., category=..., cluster=..., context=...")
@click.option("--where", "where", multiple=True, help="Keep rows: COLUMN=VALUE[|VALUE...].")
@click.option("--licence", "--license", help="Licence of a set that is not known.")
@click.option("--encoding", default="utf-8", show_default=True, help="Text encoding, e.g. mac_roman, utf-16.")
@click.option("--file-format", type=click.Choice(["csv", "tsv", "jsonl", "json"]), help="When the name does not say.")
@click.option("--no-header", is_flag=True, help="The first line is a row; columns are 0, 1, ...")
@click.option("--category", help="Category of all probes when there is no column for it.")
@click.option("--grader", "graders", multiple=True, help="Who votes (default: the shipped graders of the metric).")
@click.option("--attack", "attacks", multiple=True, help="Wrapper for attacked_compliance, e.g. role_play.")
@click.option("--unique", is_flag=True, help="Keep the first of prompts that are repeated.")
@format_option
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    place: str,
    battery_id: str | None,
    extend: str | None,
    directory: Path | None,
    metric: str | None,
    columns: tuple[str, ...],
    where: tuple[str, ...],
    licence: str | None,
    encoding: str,
    file_format: str | None,
    no_header: bool,
    category: str | None,
    graders: tuple[str, ...],
    attacks: tuple[str, ...],
    unique: bool,
    output: str,
) -> None:
    """Make a battery of your own copy of a set: its files pinned by sha256, its columns mapped, its licence recorded.

    Nothing is copied; the worker reads the files where they lie, or fetches them. Every probe is loaded once before the
    battery is written. Known sets: xstest, simplesafetytests, advbench, strongreject, strongreject-mit, harmbench,
    medsafetybench, trident, chatgpt-refusals, gptfuzz-labeled, halueval-general, truthfulqa, bbq, decodingtrust. Any
    other file needs --metric, --column text=... and --licence.

    \b
    Examples:
      registry-gate battery add xstest --from ~/data/xstest
      registry-gate battery add bbq --from s3://benchmarks/bbq --extend general@1 --battery general-bbq@1
      registry-gate battery add intake --from intake.csv --metric overrefusal --column text=question --licence internal

    Exit codes: 0 written, 2 usage or an invalid battery, 4 the files cannot be used.
    """
    # Imported here: --help must not load what reads probes.
    from registry_gate.worker.probes import PRESETS, Request, instruments_of, write_battery

    settings = settings_of(ctx)
    number = _battery_id(battery_id or f"{name}@1")
    request = Request(
        name=name,
        place=place,
        metric=metric,
        columns=_pairs(columns, "--column"),
        where={key: tuple(value.split("|")) for key, value in _pairs(where, "--where").items()},
        licence=licence,
        encoding=encoding,
        format=file_format,
        header=not no_header,
        graders=graders,
        category=category,
        attacks=attacks,
        unique=unique,
    )
    added = instruments_of(request, settings.worker.probe_dirs)
    preset = PRESETS.get(name)
    path, battery = write_battery(
        added,
        directory or settings.require_policy_directory() / "batteries",
        name=number[0],
        version=number[1],
        title=preset.title if preset else name,
        extend=extend,
        battery_dirs=settings.battery_dirs,
    )
    if output == "json":
        print_json(
            {
                "battery": battery.id,
                "digest": battery.digest,
                "file": str(path),
                "instruments": [
                    {
                        "measure": one.spec.measure,
                        "probes": one.spec.size,
                        "clusters": one.clusters,
                        "categories": one.categories,
                        "files": [
                            {"path": source.path, "sha256": source.sha256, "licence": source.licence}
                            for source in one.spec.probes
                        ],
                    }
                    for one in added
                ],
            }
        )
        return
    for one in added:
        click.echo(
            f"{one.spec.measure}: {one.spec.size} probes, {one.clusters} clusters, {one.categories} categories, "
            f"{len(one.spec.probes)} files"
        )
    click.echo(f"{battery.id} {battery.digest} written to {path}")
    if preset and preset.note:
        click.echo(preset.note, err=True)
    click.echo(f"next: `evidence: {{battery: {battery.id}}}` in a policy, then `registry-gate policy lint`", err=True)
