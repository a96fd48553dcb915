"""`policy lint` and `policy test`."""

from __future__ import annotations

from pathlib import Path

import click

from registry_gate.cli.common import format_option, print_json, settings_of


@click.group()
def policy() -> None:
    """Check and test policy files. policies/README.md says how to write one."""


directory_option = click.argument(
    "directory", type=click.Path(file_okay=False, path_type=Path), required=False, default=None
)


@policy.command()
@directory_option
@format_option
@click.pass_context
def lint(ctx: click.Context, directory: Path | None, output: str) -> None:
    """Check every file of a policy directory (default: from the settings).

    Reports unknown keys, measures that no battery produces, thresholds that the battery's size cannot prove, and more,
    with file, line, key, expected and got. Exit code 0 without errors, 2 with any.
    """
    settings = settings_of(ctx, gate__policy_dir=directory.absolute() if directory else None)
    from registry_gate.policy.document import check_policy_directory

    checked = check_policy_directory(settings.gate.policy_dir, settings.battery_dirs)
    if output == "json":
        print_json(
            {
                "valid": checked.policy_set is not None,
                "digest": checked.policy_set.digest if checked.policy_set else None,
                "errors": [vars(problem) for problem in checked.errors],
                "warnings": [vars(problem) for problem in checked.warnings],
            }
        )
    else:
        for problem in checked.errors:
            click.echo(f"error: {problem}")
        for warning in checked.warnings:
            click.echo(f"warning: {warning}")
        if checked.policy_set is not None:
            names = ", ".join(sorted(checked.policy_set.policies))
            click.echo(f"valid: {names}; digest {checked.policy_set.digest}")
    ctx.exit(0 if checked.policy_set is not None else 2)


@policy.command()
@directory_option
@format_option
@click.pass_context
def test(ctx: click.Context, directory: Path | None, output: str) -> None:
    """Run the cases beside the policies: each an assessment and the decision it must give.

    Exit code 0 when all pass, 3 when one differs, 2 when a file is invalid, 5 when there was nothing to run.
    """
    settings = settings_of(ctx, gate__policy_dir=directory.absolute() if directory else None)
    from registry_gate.policy.cases import run_cases
    from registry_gate.policy.document import load_policy_set

    policy_set = load_policy_set(settings.gate.policy_dir, settings.battery_dirs)
    found = run_cases(policy_set, settings.gate.policy_dir / "cases")
    passed = sum(not result.differences for result in found.results)
    if output == "json":
        print_json(
            {
                "passed": passed,
                "failed": len(found.results) - passed,
                "problems": [vars(problem) for problem in found.problems],
                "results": [
                    {"name": r.name, "file": r.file, "line": r.line, "differences": list(r.differences)}
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
        click.echo(f"{passed} passed, {len(found.results) - passed} failed")
    if found.problems:
        ctx.exit(2)
    if not found.results:
        ctx.exit(5)
    ctx.exit(0 if passed == len(found.results) else 3)
