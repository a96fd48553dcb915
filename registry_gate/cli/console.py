"""Tables and progress on a terminal. Shows counts, rates and digests, never a probe or an answer."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from registry_gate.decision import Decision, Verdict
from registry_gate.ledger import AssessmentRequest
from registry_gate.policy.outcomes import Rate, RuleOutcome
from registry_gate.web.summary import Summary

STYLES = {
    Verdict.PASS: "green",
    Verdict.PASS_WITH_NOTES: "green",
    Verdict.WAIVED: "yellow",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.CONFLICT: "red",
    Verdict.FAIL: "red",
    Verdict.STALE: "magenta",
    Verdict.INVALID: "magenta",
}


def outcome_table(outcomes: Sequence[RuleOutcome], title: str) -> Table:
    """One row for each rule: rates of both arms, paired difference, what was asked, verdict."""
    caption = "Shares of bad answers in %, differences in points; [one-sided 95 % limits]"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", header_style="bold")
    table.add_column("rule", no_wrap=True)
    table.add_column("measure", overflow="fold")
    for name in ("adapted", "base", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("asked", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for outcome in outcomes:
        difference = outcome.difference
        table.add_row(
            outcome.rule.id,
            outcome.rule.measure,
            _rate(outcome.adapted),
            _rate(outcome.base),
            "-"
            if difference is None
            else f"{100 * difference.value:+.1f} [{100 * difference.lower:+.1f}, {100 * difference.upper:+.1f}]",
            _asked(outcome),
            f"[{STYLES[outcome.verdict]}]{outcome.verdict}[/]",
        )
    return table


def _rate(rate: Rate | None) -> str:
    if rate is None:
        return "-"
    return f"{rate.events}/{rate.probes} {100 * rate.value:.1f} [{100 * rate.lower:.1f}, {100 * rate.upper:.1f}]"


def _asked(outcome: RuleOutcome) -> str:
    asked = []
    if outcome.rule.at_most is not None:
        asked.append(f"≤ {100 * outcome.rule.at_most:g}")
    if outcome.rule.not_worse_than_base is not None:
        asked.append(f"≤ base+{100 * outcome.rule.not_worse_than_base:g}")
    if outcome.rule.zero_tolerance:
        asked.append(f"none in {', '.join(outcome.rule.zero_tolerance)}")
    return ", ".join(asked)


def print_decision(console: Console, decision: Decision, title: str) -> None:
    """The decision first, then every reason."""
    word = "allowed" if decision.allowed else "denied"
    console.print(f"[bold]{title}: {word}[/], verdict [{STYLES[decision.verdict]}]{decision.verdict}[/]")
    for reason in decision.reasons:
        head = f"{reason.policy}: " if reason.policy else ""
        mark = "✕" if reason.blocking else "·"
        console.print(f"  {mark} {head}{reason.message}", markup=False, highlight=False)
        if reason.blocking and reason.controls:
            console.print(f"      controls: {', '.join(reason.controls)}", markup=False, highlight=False)
        if reason.blocking and reason.fix:
            console.print(f"      next: {reason.fix}", markup=False, highlight=False)


class WorkerConsole:
    """Progress bars on a terminal, a line for each phase elsewhere. Implements `worker.service.Console`."""

    def __init__(self) -> None:
        self._out = Console(soft_wrap=not Console().is_terminal, width=None if Console().is_terminal else 160)
        self._remarks = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._remarks,
            transient=True,
            disable=not self._remarks.is_terminal,
        )
        self._task: TaskID | None = None
        self._phase = ""

    def __enter__(self) -> WorkerConsole:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A remark."""
        self._remarks.print(text, markup=False, highlight=False, soft_wrap=True)

    def started(self, request: AssessmentRequest) -> None:
        """See `Console.started`."""
        self.say(
            f"assessing models:/{request.model}/{request.version} with {request.battery} "
            f"(request {request.id}, form {request.form_digest[:19]}…)"
        )

    def progress(self, what: str, done: int, total: int) -> None:
        """See `Console.progress`."""
        if what != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(what, total=total)
            self._phase = what
            if not self._remarks.is_terminal:
                self.say(f"  {what}: {total}")
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def finished(self, summary: Summary, report: str) -> None:
        """See `Console.finished`."""
        self._end_phase()
        statement = summary.verified.statement
        title = f"{statement.name} · {statement.assessment.battery} · {summary.verified.digest[:19]}…"
        self._out.print(outcome_table(summary.outcomes, title))
        print_decision(self._out, summary.decision, "under these policies")
        self._out.print(f"report: {report}", markup=False, highlight=False)

    def failed(self, request: AssessmentRequest, failure: str) -> None:
        """See `Console.failed`."""
        self._end_phase()
        self.say(f"request {request.id} failed: {failure}")

    def _end_phase(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task, self._phase = None, ""
