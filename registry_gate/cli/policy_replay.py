"""`policy replay`: what a change of policies would have changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry_gate.cli.common import format_option, print_json, settings_of

if TYPE_CHECKING:
    from registry_gate.policy.replay import Replayed

_BAR = 40


@click.command()
@click.argument("old")
@click.argument("new", required=False)
@click.option("--since", help="Only decisions from this moment on, e.g. 2026-11-01T00:00:00Z.")
@click.option("--limit", type=click.IntRange(min=1), default=100_000, show_default=True, help="The newest so many.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the figure (SVG) to this file.")
@format_option
@click.pass_context
def replay(
    ctx: click.Context, old: str, new: str | None, since: str | None, limit: int, plot: Path | None, output: str
) -> None:
    """Decide every past decision again: which promotions NEW would deny, and which denials it would release.

    OLD and NEW are directories, or REV:DIRECTORY in a git repository; one argument REV..REV compares two revisions of
    the policy directory, and one directory alone compares it with what was decided then. Nothing is measured again:
    each decision gets its own moment, its form, and the evidence and waivers that were filed by then. What cannot be
    replayed is counted with its cause.

    \b
    Examples:
      registry-gate policy replay main..HEAD
      registry-gate policy replay new-policies --since 2026-10-01T00:00:00Z --plot replay.svg

    Exit code 0 when no decision turns, 3 when one does, 5 when there is nothing to replay.
    """
    settings = settings_of(ctx)
    from registry_gate.calibrations import calibrations_of
    from registry_gate.cli.policy_places import policy_set_at, two_places
    from registry_gate.ledger import Ledger
    from registry_gate.past import past_decisions
    from registry_gate.policy.document import load_policy_set
    from registry_gate.policy.replay import Outcome, counts
    from registry_gate.policy.replay import replay as run

    alone = new is None and (".." not in old or Path(old).is_dir())
    places = (None, old) if alone else two_places(old, new, settings)
    in_force = load_policy_set(settings.gate.policies, settings.battery_dirs)
    ledger = Ledger.connect(settings.require_ledger())
    with ExitStack() as stack:
        before = None if places[0] is None else stack.enter_context(policy_set_at(places[0], settings.battery_dirs))
        after = stack.enter_context(policy_set_at(places[1], settings.battery_dirs))
        past = list(past_decisions(ledger, in_force, since=_moment(since), limit=limit))
        result = run(past, before, after, lambda one: calibrations_of(one, in_force.signers))
    turned = [*result.of(Outcome.DENIED), *result.of(Outcome.RELEASED)]
    causes = [
        (str(outcome), cause, count)
        for outcome in (Outcome.DENIED, Outcome.RELEASED)
        for cause, count in result.by_cause(outcome)
    ]
    compared = f"{places[0] or 'as decided'} to {places[1]}"
    if plot is not None:
        from registry_gate.web.replay_plot import replay_svg

        plot.write_text(replay_svg(causes, title=f"Replay: {compared}"), encoding="utf-8")
        click.echo(f"figure: {plot}", err=True)
    if output == "json":
        print_json(
            {
                "old": None if before is None else before.digest,
                "new": after.digest,
                "counts": counts(result),
                "causes": [{"outcome": turn, "cause": cause, "decisions": n} for turn, cause, n in causes],
                "turned": [one.to_dict() for one in turned],
                "not_replayed": [one.to_dict() for one in result.of(Outcome.NOT_REPLAYED)],
            }
        )
    else:
        for one in turned:
            click.echo(
                f"{one.outcome:<9} {one.past.target} -> {one.past.version}  {one.past.decided_at:%Y-%m-%d}  "
                f"{', '.join(one.causes)}  {one.past.id}"
            )
        most = max((count for _, _, count in causes), default=1)
        for turn, cause, count in causes:
            click.echo(f"{turn:<9} {'█' * max(1, _BAR * count // most):<{_BAR}} {count} {cause}")
        for note, count in _notes(result.of(Outcome.NOT_REPLAYED)):
            click.echo(f"not replayed: {count}: {note}")
        said = counts(result)
        click.echo(
            f"{len(past)} past decisions, {compared}: {said['denied']} would be denied, {said['released']} released, "
            f"{said['same']} the same, {said['not replayed']} not replayed"
        )
    ctx.exit(5 if len(past) == len(result.of(Outcome.NOT_REPLAYED)) else 3 if result.changes else 0)


def _notes(results: Sequence[Replayed]) -> list[tuple[str, int]]:
    return Counter(one.note for one in results).most_common()


def _moment(text: str | None) -> str | None:
    from registry_gate.ledger.store import as_text

    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as err:
        raise click.BadParameter(f"--since: expected a date such as 2026-11-01T00:00:00Z, got {text!r}") from err
    if moment.tzinfo is None:
        raise click.BadParameter(f"--since: expected a date with its zone (a Z at the end for UTC), got {text!r}")
    return as_text(moment.astimezone(UTC))
