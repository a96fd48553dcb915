"""The command line. The only place that turns decisions and errors into exit codes.

0 allowed · 1 unexpected crash (never a verdict) · 2 usage, settings or invalid policy · 3 denied · 4 could not decide ·
5 nothing matched or no test ran · 6 integrity. Commands are loaded when they are called, so that `--help` stays fast.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import click

from registry_gate import __version__
from registry_gate.errors import ConfigError, IntegrityError, PolicyError, RegistryGateError

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("registry_gate.cli.demo:demo", "See the whole gate at work on this machine, in a few minutes."),
    "init": ("registry_gate.cli.install:init", "Make settings, policies and a signing key in a directory."),
    "doctor": ("registry_gate.cli.install:doctor", "Check this installation and whether a server is gated."),
    "policy": ("registry_gate.cli.policy:policy", "Check, test, explain and compare policy files."),
    "waiver": ("registry_gate.cli.waiver:waiver", "Let one form through named rules until a date; list, revoke."),
    "approval": ("registry_gate.cli.approval:approval", "Approve one form under one policy; list, revoke."),
    "break-glass": ("registry_gate.cli.break_glass:break_glass", "Override every policy for a short time, loudly."),
    "battery": ("registry_gate.cli.battery:battery", "Say what a policy can prove with its battery; add public sets."),
    "assess": ("registry_gate.cli.assessment:assess", "Ask for a model version to be assessed."),
    "status": ("registry_gate.cli.assessment:status", "Show where a request or a model version stands."),
    "promote": ("registry_gate.cli.promotion:promote", "Move an alias or stage, and wait for the evidence."),
    "decide": ("registry_gate.cli.promotion:decide", "Apply policies to evidence files; pure, offline."),
    "verify": ("registry_gate.cli.verify:verify", "Verify at deploy time that these bytes were allowed."),
    "report": ("registry_gate.cli.assessment:report", "Write the HTML report of an assessment."),
    "label": ("registry_gate.cli.label:label", "Label answers of both arms, blind, for evidence with people's word."),
    "evidence": ("registry_gate.cli.evidence:evidence", "Show and verify evidence files, offline."),
    "audit": ("registry_gate.cli.audit:audit", "List, export, verify and reconcile decisions."),
    "study": ("registry_gate.cli.study:study", "Measure many adaptations beside their bases; table and figure."),
    "grader": ("registry_gate.cli.grader:grader", "Make graders of published classifiers."),
    "worker": ("registry_gate.cli.worker:worker", "Run a worker: measure, sign, file the evidence."),
}
"""Name, where it is, and its line in the help."""


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"expected a command at {COMMANDS[cmd_name][0]}, got {type(command).__name__}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table rather than from their modules."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="registry-gate")
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False),
    help="Settings file (default: REGISTRY_GATE_CONFIG, else ./registry-gate.toml).",
)
@click.pass_context
def cli(ctx: click.Context, config_file: str | None) -> None:
    """The admission controller for models.

    A promoted name (an alias, a stage) may only mean a model version whose adapted form was assessed, on exactly these
    bytes, and satisfies every policy of its domain.

    \b
    Start with:        registry-gate demo
    Set up for real:   registry-gate init && registry-gate doctor
    Exit codes:        0 allowed, 2 usage or invalid policy, 3 denied, 4 could not decide,
                       5 nothing matched or no test ran, 6 integrity, 1 crash
    """
    ctx.ensure_object(dict)
    ctx.obj["config_file"] = config_file


def exit_code_of(error: RegistryGateError) -> int:
    """The exit code of an error: an error is never an allowed promotion."""
    match error:
        case IntegrityError():
            return 6
        case PolicyError(code="policies_unreachable"):
            return 4
        case PolicyError() | ConfigError():
            return 2
        case _:
            return 4


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the installed command."""
    try:
        # Without standalone mode click returns what `ctx.exit` was given, and leaves every other error to us.
        code = cli.main(args=arguments, standalone_mode=False)
    except click.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except RegistryGateError as error:
        click.echo(f"registry-gate: {error}", err=True)
        sys.exit(exit_code_of(error))
    sys.exit(code if isinstance(code, int) else 0)
