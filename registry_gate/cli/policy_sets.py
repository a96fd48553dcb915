"""`policy publish`: put a policy set where servers read it."""

from __future__ import annotations

from pathlib import Path

import click

from registry_gate.cli.common import PLACE, format_option, print_json, settings_of
from registry_gate.errors import PolicyError


@click.command()
@click.argument("place", type=PLACE)
@click.argument("to")
@format_option
@click.pass_context
def publish(ctx: click.Context, place: Path | str, to: str, output: str) -> None:
    """Put the policy set at PLACE (a directory or a git address) into S3, TO being s3://BUCKET/PREFIX.

    A set that does not load is not published. Servers with `[gate] policies = "s3://BUCKET/PREFIX"` decide by it within
    5 seconds, all of it or none. Needs leave to put and get objects below the prefix; servers need to get them.

    \b
    Examples:
      registry-gate policy publish policies s3://governance/policies
      registry-gate policy publish git+file:///srv/policies@v1.4#clinic s3://governance/policies
    """
    settings = settings_of(ctx)
    from registry_gate.policy.document import load_policy_set
    from registry_gate.policy.s3_place import S3Place

    if not to.startswith("s3://"):
        raise PolicyError(f"expected s3://BUCKET/PREFIX to publish to, got {to!r}")
    there = S3Place.parse(to)
    policy_set = load_policy_set(place, settings.battery_dirs)
    revision = there.publish(policy_set.files)
    if output == "json":
        print_json({"digest": policy_set.digest, "place": to, "revision": revision})
    else:
        click.echo(f"published {len(policy_set.files.contents)} files to {to}: digest {policy_set.digest}, {revision}")
