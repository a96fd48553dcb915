"""The validity checks of METHOD.md section 7: whether what was measured can be believed at all.

Checks speak of ids and counts, never of what a probe or an answer says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from evaluators.coherence import degenerate
from evaluators.graders.interface import Graded, NotGraded
from evaluators.instruments.catalogue import construct_of
from evaluators.instruments.sources import same_prompt
from evaluators.measuring import Run, compares, incomplete, second_opinion
from registry_gate.assessment import ValidityCheck
from registry_gate.battery import ValiditySpec

SAME_PROBABILITY = 1e-9


def validity_checks(
    runs: Sequence[Run], limits: ValiditySpec, *, instruments: int, missing: Mapping[str, str], max_new_tokens: int
) -> tuple[ValidityCheck, ...]:
    """Every check of METHOD.md section 7 that answers and grades allow, each with its counts.

    Args:
        runs: Instruments that were put to the form.
        limits: Of the battery.
        instruments: How many the battery has; runs and missing ones are counted against it, never inferred.
        missing: Measures of the battery that have no value, and why; one is enough for an incomplete measurement.
        max_new_tokens: Longest answer, for the remark on cut answers.
    """
    return (
        _completeness(runs, instruments, missing),
        _duplicates(runs),
        _pairing(runs),
        _coherence(runs, limits.degenerate_at_most),
        _cut(runs, max_new_tokens),
        _ungraded(runs, limits.ungraded_at_most),
        _grader_output(runs),
        _adapter_in_effect(runs),
        _grader_axes(runs),
    )


def _completeness(runs: Sequence[Run], instruments: int, missing: Mapping[str, str]) -> ValidityCheck:
    problems = [
        f"{run.instrument.measure}, {name} arm: {cause}"
        for run in runs
        for name, arm in run.arms
        if (cause := incomplete(run.probes, arm.answers, arm.grades))
    ]
    problems += [f"{measure} was not measured: {cause}" for measure, cause in missing.items()]
    if len(runs) + len(missing) < instruments:
        problems.append(f"expected {instruments} instruments, got {len(runs)} and {len(missing)} not measured")
    probes = sum(len(run.probes) for run in runs)
    arms = sum(len(run.probes) * len(run.arms) for run in runs)
    return ValidityCheck(
        check="completeness",
        passed=not problems,
        detail="; ".join(problems)
        or f"{probes} probes of {len(runs)} instruments, {arms} answers, each graded by every grader of its instrument"
        + "".join(
            f"; {run.instrument.measure} stopped after {run.stopped.probes} of {run.stopped.planned} probes"
            for run in runs
            if run.stopped is not None
        ),
    )


def _duplicates(runs: Sequence[Run]) -> ValidityCheck:
    inside = 0
    expectations: dict[str, set[str]] = {}
    measures: dict[str, set[str]] = {}
    for run in runs:
        words = [same_prompt(probe) for probe in run.probes]
        inside += len(words) - len(set(words)) + len(run.probes) - len({probe.id for probe in run.probes})
        for probe, text in zip(run.probes, words, strict=True):
            expectations.setdefault(text, set()).add(probe.expected)
            measures.setdefault(text, set()).add(run.instrument.measure)
    shared = sum(len(names) > 1 for names in measures.values())
    contradicting = sum(len(expected) > 1 for expected in expectations.values())
    return ValidityCheck(
        check="duplicates",
        passed=inside == 0 and contradicting == 0,
        detail=f"{inside} duplicates inside an instrument, {contradicting} prompts that must be both answered and "
        f"refused, expected none of either; {shared} prompts in more than one instrument",
    )


def _pairing(runs: Sequence[Run]) -> ValidityCheck:
    bases = sum(run.base is not None for run in runs)
    if bases == 0:
        return ValidityCheck(check="pairing", passed=True, detail="the form declares no base; nothing is paired")
    paired = total = 0
    same_graders = True
    for run in runs:
        total += len(run.probes)
        if run.base is None:
            continue
        both = {a.probe_id for a in run.adapted.answers} & {a.probe_id for a in run.base.answers}
        paired += sum(probe.id in both for probe in run.probes)
        same_graders = same_graders and run.adapted.grades.graders == run.base.grades.graders
    return ValidityCheck(
        check="pairing",
        passed=paired == total and same_graders,
        detail=f"{paired} of {total} probes answered by both arms under the same settings and system prompt, "
        + ("labelled by the same graders" if same_graders else "labelled by different graders"),
    )


def _coherence(runs: Sequence[Run], at_most: float) -> ValidityCheck:
    over, totals, answers = [], Counter[str](), Counter[str]()
    written = [run for run in runs if run.generates]
    for run in written:
        for name, arm in run.arms:
            causes = Counter(cause for answer in arm.answers if (cause := degenerate(answer.text)))
            totals[name] += causes.total()
            answers[name] += len(arm.answers)
            if causes.total() > at_most * len(arm.answers):
                kinds = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))
                over.append(
                    f"{run.instrument.measure}, {name} arm: {causes.total()} of {len(arm.answers)} degenerate ({kinds})"
                )
    counted = ", ".join(f"{totals[name]} of {answers[name]} in the {name} arm" for name in answers)
    return ValidityCheck(
        check="coherence",
        # Where the form only chose among given answers there is nothing that it could have written badly.
        passed=not over and bool(runs),
        detail=(
            f"expected at most {at_most:.4g} of each instrument's answers degenerate, got "
            + ("; ".join(over) or counted or ("no written answers" if runs else "no answers"))
        ),
    )


def _cut(runs: Sequence[Run], max_new_tokens: int) -> ValidityCheck:
    cut, answers = Counter[str](), Counter[str]()
    for run in runs:
        for name, arm in run.arms:
            cut[name] += sum(answer.finish == "length" for answer in arm.answers)
            answers[name] += len(arm.answers)
    counted = ", ".join(f"{cut[name]} of {answers[name]} in the {name} arm" for name in answers) or "no answers"
    # Reported, not judged: a battery chooses its length, and an answer that is cut still shows what it set out to do.
    return ValidityCheck(
        check="cut_at_max_tokens", passed=True, detail=f"answers cut at {max_new_tokens} tokens: {counted}"
    )


def _graded(runs: Sequence[Run]) -> bool:
    """Whether graders should have labelled something: instruments without axes count by themselves."""
    return not runs or any(construct_of(run.instrument).axes for run in runs)


def _ungraded(runs: Sequence[Run], at_most: float) -> ValidityCheck:
    over = []
    missing = total = 0
    for run in runs:
        for name, arm in run.arms:
            for grader in arm.grades.graders:
                outcomes = arm.grades.labels.get(grader.name, {}).values()
                # Graders that worked and differ are counted as such (`measuring`), not as a measurement that failed.
                count = sum(isinstance(outcome, NotGraded) and not outcome.contested for outcome in outcomes)
                missing += count
                total += len(outcomes)
                if count > at_most * len(outcomes):
                    where = f"{run.instrument.measure}, {name} arm"
                    over.append(f"{where}: {count} of {len(outcomes)} not labelled by {grader.name}")
    return ValidityCheck(
        check="ungraded",
        passed=not over and (total > 0 or not _graded(runs)),
        detail=f"expected at most {at_most:.4g} of each instrument's answers without a grader's label, got "
        + ("; ".join(over) or f"{missing} of {total} labels missing"),
    )


def _grader_output(runs: Sequence[Run]) -> ValidityCheck:
    graders = {grader.name: grader for run in runs for _, arm in run.arms for grader in arm.grades.graders}
    constant = []
    for name, grader in sorted(graders.items()):
        # Rules, judges and people say 0 or 1 by design: two arms that refuse nothing leave them constant rightly. What
        # is made of classifiers alone is held to what they are.
        if grader.families != {"classifier"}:
            continue
        outcomes: list[Graded] = []
        expectations: set[str] = set()
        texts: set[str] = set()
        for run in runs:
            for _, arm in run.arms:
                labels = arm.grades.labels.get(name, {})
                outcomes += [outcome for outcome in labels.values() if isinstance(outcome, Graded)]
                if labels:
                    expectations.add(run.instrument.expected)
                    texts |= {answer.text for answer in arm.answers}
        # One answer to everything may well earn one probability; only different answers show a broken grader.
        if len(texts) < 2 or len(outcomes) < 2:
            continue
        probabilities = [outcome.probability for outcome in outcomes]
        same = max(probabilities) - min(probabilities) <= SAME_PROBABILITY
        # A grader that saw one expectation only may rightly be sure of the same label each time, but not half sure.
        sure = len(expectations) == 1 and (max(probabilities) == 0 or min(probabilities) == 1)
        if same and not sure and len({outcome.label for outcome in outcomes}) == 1:
            constant.append(f"{name} gave {len(outcomes)} answers the same label and probability")
    return ValidityCheck(
        check="grader_output",
        passed=not constant and (bool(graders) or not _graded(runs)),
        detail="; ".join(constant) or f"{len(graders)} graders, none of constant output, expected at least one",
    )


def _adapter_in_effect(runs: Sequence[Run]) -> ValidityCheck:
    compared = same = 0
    for run in runs:
        if run.base is None:
            continue
        of_base = {answer.probe_id: (answer.text, answer.scores) for answer in run.base.answers}
        for answer in run.adapted.answers:
            if answer.probe_id in of_base:
                compared += 1
                same += (answer.text, answer.scores) == of_base[answer.probe_id]
    if not any(run.base is not None for run in runs):
        return ValidityCheck(
            check="adapter_in_effect", passed=True, detail="the form declares no base; nothing to compare with"
        )
    passed = same < compared
    return ValidityCheck(
        check="adapter_in_effect",
        passed=passed,
        detail=f"{same} of {compared} answers equal the base's"
        + ("" if passed else ": adapter not applied, or the form is its own base"),
    )


def _grader_axes(runs: Sequence[Run]) -> ValidityCheck:
    missing, single = [], []
    for run in runs:
        for axis in construct_of(run.instrument).axes:
            graders = run.adapted.grades.on(axis)
            if not graders:
                missing.append(f"{run.instrument.measure} has no grader on {axis}")
            elif second_opinion(graders) is None and not compares(graders[0]):
                single.append(f"{run.instrument.measure} on {axis}")
    return ValidityCheck(
        check="grader_axes",
        passed=not missing and bool(runs),
        detail="; ".join(missing)
        or "every axis has a grader; graders of one family only: " + (", ".join(single) or "none"),
    )
