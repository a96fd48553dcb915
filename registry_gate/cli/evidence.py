"""`evidence show` and `evidence verify`: look at evidence files, offline."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import click

from registry_gate.cli.common import format_option, print_json, settings_of

file_argument = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def evidence() -> None:
    """Show and verify evidence files. registry_gate/evidence/FORMAT.md is the written format."""


@evidence.command()
@file_argument
def show(file: Path) -> None:
    """Print what FILE says, as JSON. Nothing about it is verified."""
    try:
        payload = json.loads(base64.b64decode(json.loads(file.read_bytes())["payload"], validate=True))
    except (ValueError, KeyError, TypeError) as err:
        raise click.BadParameter(f"expected an evidence file (*.dsse.json), got: {type(err).__name__}") from err
    print_json(payload)


@evidence.command()
@file_argument
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public key in PEM (default: the signers of the policy set).",
)
@format_option
@click.pass_context
def verify(ctx: click.Context, file: Path, key: Path | None, output: str) -> None:
    """Verify FILE's signature and digests. Exit code 0 when it verifies, 6 when it does not."""
    from registry_gate.evidence.envelope import verify as verify_envelope
    from registry_gate.evidence.keys import load_public_key
    from registry_gate.policy.document import load_policy_set

    if key is not None:
        signers = {key.stem: load_public_key(key)}
    else:
        settings = settings_of(ctx)
        signers = dict(load_policy_set(settings.gate.policies, settings.battery_dirs).signers)
    verified = verify_envelope(file.read_bytes(), signers)
    said = {
        "evidence": verified.digest,
        "signers": list(verified.signers),
        "model_version": verified.statement.name,
        "form": verified.statement.subject,
        "battery": verified.assessment.battery,
        "assessed_at": verified.assessment.assessed_at,
    }
    if output == "json":
        print_json(said)
    else:
        for name, value in said.items():
            click.echo(f"{name:<14} {', '.join(value) if isinstance(value, list) else value}")
        click.echo("the signature verifies; whether the evidence is enough is for `registry-gate decide`", err=True)
