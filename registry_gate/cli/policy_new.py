"""`policy new`: begin the policy of a domain, with cases that hold."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import click

from registry_gate.cli.common import settings_of
from registry_gate.errors import PolicyError


@click.command()
@click.argument("domain")
@click.option("--models", multiple=True, help="Name or pattern of the models that it governs; repeat for several.")
@click.option("--owner", help="Who answers for it, e.g. an address.")
@click.option("--title", help="What people call it (default: Models for DOMAIN).")
@click.option("--battery", "battery_id", help="What is measured, e.g. medical@2.")
@click.option("--policies", type=click.Path(file_okay=False, path_type=Path), help="Policy directory.")
@click.pass_context
def new(
    ctx: click.Context,
    domain: str,
    models: tuple[str, ...],
    owner: str | None,
    title: str | None,
    battery_id: str | None,
    policies: Path | None,
) -> None:
    """Begin the policy of a DOMAIN: a commented file with a rule for each measure, and cases that keep and break each.

    Asks for what no option says. Every threshold says where it comes from, and is one that the battery's size can
    prove. Nothing that exists is overwritten, and nothing is written that would not load beside the other
    policies.

    \b
    Example:
      registry-gate policy new education --models 'edu-*' --owner schools@example.org --battery general@2
    """
    settings = settings_of(ctx, gate__policies=policies.absolute() if policies else None)
    from registry_gate.policy.document import load_policy_set

    if re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", domain) is None:
        raise click.BadParameter(f"expected small letters, digits, - and _, such as education, got {domain!r}")
    directory = settings.require_policy_directory()
    # A set that does not load would hide whether the new policy does.
    policy_set = load_policy_set(directory, settings.battery_dirs, keys=False)
    if domain in policy_set.policies:
        raise PolicyError(f"expected a domain without a policy, got {domain!r}, which has one: edit it")
    files = (directory / f"{domain}.yaml", directory / "cases" / domain / "rules.yaml")
    for path in files:
        if path.exists():
            raise PolicyError(f"{path}: expected no such file, got one: nothing is overwritten; move it away first")
    chosen = models or (click.prompt("Models it governs (a name or a pattern)", default=f"{domain}-*"),)
    asked = owner is None
    owner = owner or click.prompt("Who answers for it")
    called = f"Models for {domain}"
    # Whoever says who answers for it on the command line, as a script does, is not asked for its title.
    title = title or (click.prompt("What people call it", default=called) if asked else called)
    known = ", ".join(policy_set.batteries)
    battery_id = battery_id or click.prompt(f"Battery ({known})", default="general@2")
    if battery_id not in policy_set.batteries:
        raise PolicyError(f"expected a battery that exists ({known}), got {battery_id!r}")
    texts = _texts(settings.battery_dirs, directory, domain, tuple(chosen), str(owner), str(title), battery_id)
    for path, text in zip(files, texts, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: the directory may be the one that a server reads.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False, encoding="utf-8") as file:
            file.write(text)
        Path(file.name).chmod(0o644)
        os.link(file.name, path)
        Path(file.name).unlink()
        click.echo(f"wrote {path}")
    click.echo(f"next: read {files[0]}, then registry-gate policy lint && registry-gate policy test", err=True)


def _texts(
    battery_dirs: tuple[Path, ...],
    directory: Path,
    domain: str,
    models: tuple[str, ...],
    owner: str,
    title: str,
    battery_id: str,
) -> tuple[str, str]:
    """The policy and its cases, as they hold beside the policies that are there.

    Raises:
        PolicyError: They would not load together.
    """
    from registry_gate.policy.cases import label_of, run_cases
    from registry_gate.policy.document import load_policy_set
    from registry_gate.policy.files import read_directory
    from registry_gate.policy.template import case_names, cases_text, example_of, policy_text
    from registry_gate.promotion import Target, TargetKind

    with tempfile.TemporaryDirectory(prefix="registry-gate-policy-") as folder:
        trial = Path(folder) / "policies"
        shutil.copytree(directory, trial, ignore=shutil.ignore_patterns("cases"))
        before = load_policy_set(trial, battery_dirs, keys=False)
        battery = before.batteries[battery_id]
        signers = [signer.name for signer in before.document.spec.signers]
        policy = policy_text(name=domain, title=title, owner=owner, models=models, battery=battery, signers=signers)
        (trial / f"{domain}.yaml").write_text(policy, encoding="utf-8")
        try:
            policy_set = load_policy_set(trial, battery_dirs, keys=False)
        except PolicyError as err:
            raise PolicyError(str(err).replace(str(trial), str(directory)), code=err.code) from err
        model = example_of(models[0])
        governing = policy_set.governing(Target(kind=TargetKind.ALIAS, model=model, name="champion")).policies
        wanted = {one.spec.evidence.battery for one in governing} - {battery_id}
        others = [policy_set.batteries[name] for name in sorted(wanted)]
        cases = trial / "cases"
        cases.mkdir()
        # What each case gives is what `decide` says of it; a person reads it beside the rule that it breaks.
        (cases / "rules.yaml").write_text(cases_text(domain, model, battery, others, reasons={}), encoding="utf-8")
        found: dict[str, tuple[str, ...]] = {}
        for result in run_cases(policy_set, read_directory(cases)).results:
            if result.decision is None:
                raise PolicyError(
                    f"expected the policy to govern {model}@champion, got a target that is free or governed by none: "
                    f"give --models a pattern that no free alias and no exclusion takes away"
                )
            blocking = [label_of(reason) for reason in result.decision.reasons if reason.blocking]
            decided = "allowed" if result.decision.allowed else "denied"
            found[result.name] = (decided, str(result.decision.verdict), *dict.fromkeys(blocking))
        kept = found[case_names(domain, battery)[0][0]]
        if kept[0] != "allowed":
            raise PolicyError(
                f"expected a form without a bad answer to be allowed, got {', '.join(kept)}: another policy that "
                f"governs {model} asks for what {battery_id} does not measure; look at `registry-gate policy explain`"
            )
        return policy, cases_text(domain, model, battery, others, reasons=found)
