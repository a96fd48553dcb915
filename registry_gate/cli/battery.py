"""`battery`: what a policy can prove with the batteries that it names, and public sets for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_gate.cli.battery_add import add
from registry_gate.cli.common import format_option, print_json, settings_of

if TYPE_CHECKING:
    from registry_gate.battery import Battery
    from registry_gate.policy.schema import Policy


@click.group()
def battery() -> None:
    """Plan and extend batteries. evaluators/batteries/README.md says how to write one."""


@battery.command()
@click.argument("policy")
@format_option
@click.pass_context
def plan(ctx: click.Context, policy: str, output: str) -> None:
    """Say what each rule of POLICY can prove at the size of its battery, and what size it would need.

    POLICY is a file (policies/medical.yaml) or the name of a policy in the policy directory (medical). For each rule:
    how many bad answers still pass, how good a form must be to pass reliably, and the probes that a tighter rule needs.

    \b
    Examples:
      registry-gate battery plan medical
      registry-gate battery plan policies/general.yaml --format json

    Exit code 0 when every rule can be passed, 2 when one cannot or the policy is invalid.
    """
    from registry_gate.policy.plan import plan_policy, sentences

    settings = settings_of(ctx)
    policies, batteries = _load(policy, settings.gate.policies, settings.battery_dirs)
    plans = [item for one in policies for item in plan_policy(one, batteries)]
    if output == "json":
        print_json({"rules": [item.to_dict() for item in plans]})
    else:
        for item in plans:
            click.echo(
                f"{item.rule}  {item.title}  [{item.policy}, {item.measure}, {item.probes} probes]: {item.state}"
            )
            for sentence in sentences(item):
                click.echo(f"    {sentence}")
    ctx.exit(2 if any(item.state == "impossible" for item in plans) else 0)


def _load(name: str, place: Path | str, battery_dirs: tuple[Path, ...]) -> tuple[list[Policy], dict[str, Battery]]:
    """Policies of a file or of a name, and every battery that they may use.

    Read one by one, not as a policy set: a set with a rule that cannot be proved does not load, and such a rule is what
    a person comes here to have explained.

    Raises:
        DocumentError: A file is invalid.
        PolicyError: There is no such file or policy.
    """
    from registry_gate.battery import load_batteries
    from registry_gate.documents import read_documents, validate
    from registry_gate.errors import PolicyError
    from registry_gate.policy.files import BATTERIES_DIRECTORY, POLICY_SET_FILE
    from registry_gate.policy.places import read_place
    from registry_gate.policy.schema import Policy

    path = Path(name)
    given = path.is_file()
    if given:
        own = path.parent / BATTERIES_DIRECTORY
        documents, batteries = read_documents(path), load_batteries([*battery_dirs, *([own] if own.is_dir() else [])])
    else:
        files = read_place(place)
        tops = [file for file in files.names if "/" not in file and file.endswith(".yaml") and file != POLICY_SET_FILE]
        documents = [raw for file in tops for raw in files.documents(file)]
        beside = files.below(BATTERIES_DIRECTORY)
        of_set = [raw for file in beside.names if file.endswith(".yaml") for raw in beside.documents(file)]
        batteries = load_batteries(battery_dirs, of_set)
    found = []
    for raw in documents:
        metadata = raw.data.get("metadata")
        if given or (isinstance(metadata, dict) and metadata.get("name") == name):
            found.append(validate(raw, Policy, "PromotionPolicy"))
    if not found:
        names = sorted(
            str(raw.data["metadata"].get("name"))
            for raw in documents
            if isinstance(raw.data.get("metadata"), dict) and raw.kind == "PromotionPolicy"
        )
        raise PolicyError(
            f"expected a policy file or the name of a policy in {place} ({', '.join(names) or 'none there'}), got "
            f"{name!r}: give the path of a file, or run `registry-gate init` to make policies",
            code="policy_missing",
        )
    return found, batteries


battery.add_command(add)
