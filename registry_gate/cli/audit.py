"""`audit list` and `audit verify`."""

from __future__ import annotations

import click

from registry_gate.cli.common import format_option, print_json, settings_of


@click.group()
def audit() -> None:
    """List decisions and verify the audit chain."""


@audit.command(name="list")
@click.option("--model", help="Only this registered model.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Newest first.")
@format_option
@click.pass_context
def list_decisions(ctx: click.Context, model: str | None, limit: int, output: str) -> None:
    """List recorded decisions, newest first. Exit code 5 when there is none."""
    from registry_gate.ledger import Ledger

    decisions = Ledger.connect(settings_of(ctx).require_ledger()).decisions(model=model, limit=limit)
    if output == "json":
        print_json(decisions)
    else:
        for one in decisions:
            click.echo(
                f"{one['decided_at'][:19]}Z  {one['decision']:<8} {one['verdict']:<15} {one['target']['key']} -> "
                f"{one['version']['version']}  by {one['actor']['name']}  {one['id']}"
            )
    ctx.exit(0 if decisions else 5)


@audit.command()
@format_option
@click.pass_context
def verify(ctx: click.Context, output: str) -> None:
    """Verify the audit chain. Exit code 6 when an entry was changed, removed or added from outside.

    Keep the printed head somewhere else: whoever can write the database can rewrite the whole chain, but not your copy.
    """
    from registry_gate.ledger import Ledger

    entries, head = Ledger.connect(settings_of(ctx).require_ledger()).verify_chain()
    if output == "json":
        print_json({"entries": entries, "head": head})
    else:
        click.echo(f"{entries} entries verify; head {head}")
