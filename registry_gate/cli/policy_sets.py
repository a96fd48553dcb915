"""`policy publish, key, sign, history`: put policy sets where servers read them, sign them, see which were in force."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from registry_gate.cli.common import PLACE, format_option, print_json, settings_of
from registry_gate.cli.signing import key_option, moment, words
from registry_gate.errors import ConfigError, PolicyError


@click.command()
@click.argument("place", type=PLACE)
@click.argument("to")
@format_option
@click.pass_context
def publish(ctx: click.Context, place: Path | str, to: str, output: str) -> None:
    """Put the policy set at PLACE (a directory or a git address) into S3, TO being s3://BUCKET/PREFIX.

    A set that does not load is not published, nor is one that is not signed where `[gate] policies_key` asks for it.
    Servers with `[gate] policies = "s3://BUCKET/PREFIX"` decide by it within 5 seconds, all of it or none. Needs leave
    to put and get objects below the prefix; servers need to get them.

    \b
    Examples:
      registry-gate policy publish policies s3://governance/policies
      registry-gate policy publish git+file:///srv/policies@v1.4#clinic s3://governance/policies
    """
    settings = settings_of(ctx)
    from datetime import UTC

    from registry_gate.policy.document import load_policy_set
    from registry_gate.policy.s3_place import S3Place
    from registry_gate.signed_policies import require_signature

    if not to.startswith("s3://"):
        raise PolicyError(f"expected s3://BUCKET/PREFIX to publish to, got {to!r}")
    there = S3Place.parse(to)
    policy_set = load_policy_set(place, settings.battery_dirs)
    if settings.gate.policies_key is not None:
        require_signature(policy_set.files, settings.gate.policies_key, datetime.now(UTC))
    revision = there.publish(policy_set.files)
    if output == "json":
        print_json({"digest": policy_set.digest, "place": to, "revision": revision})
    else:
        click.echo(f"published {len(policy_set.files.contents)} files to {to}: digest {policy_set.digest}, {revision}")


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
def key(path: Path) -> None:
    """Make a key that signs policy sets: PATH is private (mode 0600), its public half ends in .pem.

    Keep the private half away from the MLflow server and from wherever policies are stored: whoever has both decides
    what is promoted. The server gets the public half, in `[gate] policies_key`. Overwrites nothing.

    \b
    Example:  registry-gate policy key policies.key
    """
    from registry_gate.evidence.keys import generate_key

    identity = generate_key(path, path.with_suffix(".pem"))
    click.echo(f"private  {path}  (for whoever signs policies)")
    click.echo(f"public   {path.with_suffix('.pem')}  (key {identity[:16]}; [gate] policies_key of every server)")


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@key_option
@click.option("--reason", required=True, help="What this set is, e.g. its change ticket; `policy history` shows it.")
@click.option(
    "--expires", help="From when on the signature does not count, e.g. 2027-06-30T00:00:00Z (default: never)."
)
@format_option
@click.pass_context
def sign(ctx: click.Context, directory: Path, key: Path, reason: str, expires: str | None, output: str) -> None:
    """Sign every file of the policy set in DIRECTORY, as policy-set.dsse.json beside them.

    A set that does not load is not signed. Servers with `[gate] policies_key` deny every promotion under a set that
    differs from what was signed in any file, with the names of the files. A signature without an end counts until the
    key is taken away, also of a set that somebody puts back: with `--expires` old sets end by themselves.

    \b
    Example:  registry-gate policy sign policies --key policies.key --reason "GOV-412: tighter dosage limits"
    """
    settings = settings_of(ctx)
    from datetime import UTC

    from registry_gate.evidence.keys import load_decision_signer
    from registry_gate.evidence.policy_sets import sign_policy_set
    from registry_gate.policy.document import load_policy_set
    from registry_gate.policy.files import SIGNATURE_FILE
    from registry_gate.signed_policies import signed_files

    said = words(reason=reason)["reason"]
    ends = None if expires is None else moment(expires)
    now = datetime.now(UTC)
    if ends is not None and ends <= now:
        raise click.BadParameter(f"--expires: expected a moment that is still to come, got {expires}")
    signer = load_decision_signer(key)
    policy_set = load_policy_set(directory, settings.battery_dirs)
    digests = signed_files(policy_set.files)
    envelope = sign_policy_set(digests, signer, reason=said, signed_at=now, expires_at=ends)
    path = directory / SIGNATURE_FILE
    try:
        # Renamed into place: a server that looks meanwhile sees the signature before or after, never half of it.
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(envelope)
        fresh.replace(path)
    except OSError as err:
        raise ConfigError(f"expected to write {path}, got: {err.strerror}") from err
    if output == "json":
        print_json({"digest": policy_set.digest, "files": digests, "signature": str(path), "key": signer.key_id})
    else:
        click.echo(f"{path}  {len(digests)} files, digest {policy_set.digest}, key {signer.key_id[:16]}")


@click.command()
@format_option
@click.pass_context
def history(ctx: click.Context, output: str) -> None:
    """Which policy sets were in force since when, oldest first, who signed them, and how many decisions rest on each.

    Read from the audit chain, into which servers and workers put it down (`registry-gate audit verify` says whether
    anybody changed it). `policy diff` and `policy replay` say what a change meant. Exit code 5 when there is none.
    """
    from registry_gate.ledger import Ledger
    from registry_gate.policy_uses import EVENT

    ledger = Ledger.connect(settings_of(ctx).require_ledger())
    counts = ledger.decided_by()
    rows: list[dict[str, Any]] = []
    before: dict[str, str] = {}
    for said in ledger.events(EVENT):
        allowed, denied = counts.get(said["digest"], (0, 0))
        rows.append({**said, "changed": _changed(before, said["policies"]), "allowed": allowed, "denied": denied})
        before = said["policies"]
    if output == "json":
        print_json(rows)
    else:
        for row in rows:
            click.echo("\n".join(_lines(row)))
        if not rows:
            click.echo("no policy set yet: servers and workers put it down at their first look", err=True)
    ctx.exit(0 if rows else 5)


def _changed(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Policies that are new, other than before, or gone."""
    names = sorted({*before, *now})
    return [name for name in names if before.get(name) != now.get(name)]


def _lines(row: dict[str, Any]) -> list[str]:
    revision = f", {row['revision']}" if row["revision"] else ""
    signed = row.get("signed")
    by = (
        "not signed"
        if signed is None
        else f"signed by {signed['by']} on {signed['signed_at'][:10]}: {signed['reason']}"
    )
    changed = ", ".join(row["changed"]) or "no policy, but another file"
    return [
        f"{row['at'][:19]}Z  {row['digest'][:23]}  {row['place']}{revision}",
        f"    {by}",
        f"    changed: {changed}; {row['allowed']} allowed, {row['denied']} denied under this set",
    ]
