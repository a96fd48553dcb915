"""What several commands share: settings, options, and decisions as text, JSON and exit codes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from registry_gate.config import Settings, load_settings
from registry_gate.decision import Decision, Verdict
from registry_gate.errors import RegistryError

F = TypeVar("F", bound=Callable[..., Any])

INTEGRITY_REASONS = frozenset({"signature_invalid", "evidence_integrity"})

format_option = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", help="How to print the answer."
)


def settings_of(ctx: click.Context, **overrides: Any) -> Settings:
    """The settings of this call; `worker__threads=2` overrides `[worker] threads`."""
    file = ctx.find_root().obj.get("config_file")
    pairs = {tuple(key.split("__", 1)): value for key, value in overrides.items()}
    return load_settings(Path(file) if file else None, overrides=pairs)  # type: ignore[arg-type]


class PlaceType(click.ParamType[Path | str]):
    """A directory of policies, or the address of a policy set."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """Addresses as they are, directories with their full path."""
        if str(value).startswith(("git+", "s3://")):
            return str(value)
        if Path(value).is_file():
            self.fail(f"expected a directory or an address (git+file://, s3://), got the file {value}", param, ctx)
        return Path(value).absolute()


PLACE = PlaceType()


def tracking_uri_option(function: F) -> F:
    """`--tracking-uri`."""
    return click.option("--tracking-uri", help="Address of the MLflow server (default: from the settings).")(function)


def parse_version(text: str) -> tuple[str, int]:
    """`models:/name/7` -> `("name", 7)`.

    Raises:
        RegistryError: Another form; an alias is refused because it can be moved meanwhile.
    """
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)/(?P<version>[1-9][0-9]*)", text)
    if match is None:
        raise click.BadParameter(f"expected models:/NAME/VERSION with a number, got {text!r}")
    return match["name"], int(match["version"])


def give_up_soon() -> None:
    """Let MLflow's client ask a server that is away for seconds, not for its four minutes: a person waits for us."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def root_cause(error: BaseException) -> str:
    """What the operating system said at the bottom of a client's error, else the error's first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0]


def exit_code(verdict: Verdict, *, allowed: bool, codes: set[str]) -> int:
    """The exit code of a decision (METHOD.md section 2)."""
    if allowed:
        return 0
    if codes & INTEGRITY_REASONS:
        return 6
    return 3 if verdict in (Verdict.FAIL, Verdict.CONFLICT) else 4


def exit_code_of_decision(decision: Decision) -> int:
    """The exit code of a decision value."""
    blocking = {reason.code for reason in decision.reasons if reason.blocking}
    return exit_code(decision.verdict, allowed=decision.allowed, codes=blocking)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def require_known(value: Any, what: str) -> Any:
    """The value, or an error that says that it is not there.

    Raises:
        RegistryError: It is None.
    """
    if value is None:
        raise RegistryError(f"expected {what} in the ledger, got none")
    return value
