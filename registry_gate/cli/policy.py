"""`policy`: check, test, explain, compare and begin policy files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from registry_gate.cli.common import PLACE, print_json, settings_of
from registry_gate.cli.policy_new import new
from registry_gate.cli.policy_reading import diff, explain, schema
from registry_gate.cli.policy_replay import replay
from registry_gate.cli.policy_sets import history, key, publish, sign


@click.group()
def policy() -> None:
    """Check, test, explain and compare policy files. policies/README.md says how to write one."""


for command in (new, explain, diff, replay, schema, publish, key, sign, history):
    policy.add_command(command)


place_option = click.argument("place", type=PLACE, required=False, default=None)


@policy.command()
@place_option
@click.option(
    "--format", "output", type=click.Choice(["text", "json", "github"]), default="text", help="How to print it."
)
@click.pass_context
def lint(ctx: click.Context, place: Path | str | None, output: str) -> None:
    """Check every file of a policy set: a directory, git+file:// or s3:// (default: from the settings).

    Reports unknown keys, measures that no battery produces, thresholds that the battery's size cannot prove, and more,
    with file, line, key, expected and got. The cases are read, not run: `policy test` runs them. Exit code 0 without
    errors, 2 with any.
    """
    settings = settings_of(ctx, gate__policies=place)
    from registry_gate.calibrations import lint_calibrations
    from registry_gate.policy.cases import lint_cases
    from registry_gate.policy.document import check_policy_set
    from registry_gate.policy.files import CASES_DIRECTORY
    from registry_gate.signed_policies import lint_signature

    checked = check_policy_set(settings.gate.policies, settings.battery_dirs)
    errors, warnings = [*checked.errors], [*checked.warnings]
    if checked.files is not None:
        # No mistake in a case stops a server, so loading a set does not look there.
        errors += lint_cases(checked.policy_set, checked.files.below(CASES_DIRECTORY))
    if checked.policy_set is not None:
        warnings += lint_calibrations(checked.policy_set, datetime.now(UTC))
        warnings += lint_signature(checked.policy_set, settings)
    if output == "github":
        from registry_gate.policy.case_formats import github

        levels = [("error", problem) for problem in errors]
        levels += [("warning", problem) for problem in warnings]
        click.echo("\n".join(github(levels)))
    elif output == "json":
        print_json(
            {
                "valid": not errors,
                "digest": checked.policy_set.digest if checked.policy_set else None,
                "errors": [vars(problem) for problem in errors],
                "warnings": [vars(problem) for problem in warnings],
            }
        )
    else:
        for problem in errors:
            click.echo(f"error: {problem}")
        for warning in warnings:
            click.echo(f"warning: {warning}")
        if checked.policy_set is not None:
            names = ", ".join(sorted(checked.policy_set.policies))
            said = "the policies load, their cases do not" if errors else "valid"
            click.echo(f"{said}: {names}; digest {checked.policy_set.digest}")
    ctx.exit(2 if errors else 0)


@policy.command()
@place_option
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "junit", "github"]),
    default="text",
    help="How to print it.",
)
@click.pass_context
def test(ctx: click.Context, place: Path | str | None, output: str) -> None:
    """Run the cases beside the policies: each an assessment and the decision it must give.

    Exit code 0 when all pass, 3 when one differs, 2 when a file is invalid, 5 when there was nothing to run.
    """
    settings = settings_of(ctx, gate__policies=place)
    from registry_gate.policy.case_formats import as_problems, github, junit
    from registry_gate.policy.cases import run_cases
    from registry_gate.policy.document import load_policy_set

    policy_set = load_policy_set(settings.gate.policies, settings.battery_dirs)
    found = run_cases(policy_set, policy_set.files.below("cases"))
    passed = sum(not result.differences for result in found.results)
    if output == "junit":
        click.echo(junit(found))
    elif output == "github":
        click.echo("\n".join(github(as_problems(found))))
    elif output == "json":
        print_json(
            {
                "passed": passed,
                "failed": len(found.results) - passed,
                "problems": [vars(problem) for problem in found.problems],
                "results": [
                    {
                        "name": r.name,
                        "file": r.file,
                        "line": r.line,
                        "differences": list(r.differences),
                        "reasons": [vars(reason) for reason in r.told],
                    }
                    for r in found.results
                ],
            }
        )
    else:
        for problem in found.problems:
            click.echo(f"error: {problem}")
        for result in found.results:
            click.echo(f"{'pass' if not result.differences else 'FAIL'}  {result.name}  {result.title}")
            for difference in result.differences:
                click.echo(f"      {result.file}:{result.line}: {difference}")
            for reason in result.told:
                click.echo(f"        {reason}")
        click.echo(f"{passed} passed, {len(found.results) - passed} failed")
    if found.problems:
        ctx.exit(2)
    if not found.results:
        ctx.exit(5)
    ctx.exit(0 if passed == len(found.results) else 3)
