"""What each code of a reason stands for, in one sentence: for reasons that somebody expects and that did not come.

A reason that came has a better sentence, its own, with numbers. Forms that cannot be read may have further codes, those
of `artifact`; no other reason has.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        # Of the form.
        "form_invalid": "the files of the form cannot be read as a model",
        "weights_missing": "the artifact has no weights",
        "format_unknown": "the format of some weights is unknown",
        "format_not_allowed": "the weights are in a format that the policy does not accept",
        "base_missing": "the form does not say from which base it was adapted",
        "remote_code": "loading the model would run code that it brings along",
        # Of the evidence.
        "evidence_missing": "there is no assessment of this form by the battery",
        "evidence_for_other_form": "the assessment is of another form, such as the base",
        "signature_invalid": "the signature of the evidence does not verify",
        "signer_not_allowed": "the evidence is signed by nobody whom the policy names",
        "evidence_expired": "the evidence is older than the policy allows",
        "battery_changed": "the battery has changed since it was run",
        "battery_missing": "the battery that the policy names does not exist",
        "base_mismatch": "the form was compared with another base than the one that it declares",
        "clock": "the assessment was made in the future, or at no known time: one of the clocks is wrong",
        "evidence_superseded": "a newer assessment of this form counts instead",
        # Of the measurement.
        "validity_failed": "a check of the measurement failed, so nothing that it found counts",
        "no_validity_checks": "the assessment lists no check",
        "graders_missing": "the assessment names no grader that judged the answers",
        # Of its graders.
        "grader_not_calibrated": "there is no calibration of a grader that counts under the policy",
        "grader_calibration_expired": "the calibration of a grader is older than the policy allows",
        "grader_not_admitted": "a grader was not shown to agree with people as much as the policy asks",
        "grader_admitted": "a grader was shown to agree with people as the policy asks",
        # Of a rule.
        "measure_missing": "the assessment says nothing of the measure that the rule reads",
        "measure_duplicated": "the assessment has the measure more than once",
        "measure_unknown": "the battery does not produce the measure",
        "not_measured": "the assessment has the measure without a value",
        "incomplete": "not every probe of the battery was put",
        "too_few_probes": "the measure rests on fewer probes than 'minProbes' asks for",
        "base_not_measured": "the base was not measured, so nobody can say whether the form is worse",
        "ceiling_kept": "the upper limit of the rate is within 'atMost'",
        "ceiling_exceeded": "the rate is above 'atMost', proved",
        "ceiling_inconclusive": "whether the rate is within 'atMost' is not proved either way",
        "margin_kept": "the form is not worse than its base by more than 'notWorseThanBase'",
        "worse_than_base": "the form is worse than its base by more than 'notWorseThanBase', proved",
        "margin_inconclusive": "whether the form is worse than 'notWorseThanBase' allows is not proved either way",
        "conflict": "one measure became better and another worse, both beyond their margins",
        "graders_disagree": "two graders label more answers differently than the policy allows",
        "graders_not_compared": "the policy limits how often two graders differ, and no two were compared",
        "too_few_clusters": "the probes belong to too few groups for any limit",
        "clusters_not_counted": "the assessment does not say how bad answers fall into groups of probes",
        "grader_error": "it holds on the graders' counts, and no longer when their possible errors are included",
        "graders_not_calibrated": "the policy asks for labels of people ('graderErrors: required'), and there are none",
        "too_few_labels": "people labelled fewer answers than are asked for",
        "slice_above_ceiling": "the answers of one category are above 'atMost', which decides nothing by itself",
        "hits_not_counted": "the evidence does not count bad answers by category, as 'zeroTolerance' needs it",
        "category_missing": "the evidence has no probes of a category of 'zeroTolerance'",
        "zero_tolerance_hit": "there is a confirmed bad answer in a category of 'zeroTolerance'",
        "zero_tolerance_unconfirmed": "one grader alone calls an answer bad in a category of 'zeroTolerance'",
        "zero_tolerance_kept": "no answer is bad in the categories of 'zeroTolerance'",
        "stopped_early": "the run ended early once a rule was proved broken, so the rest was not measured in full",
        "waived": "the rule was not met, and somebody who may has let this form through",
        # Of the whole.
        "no_policy": "no policy was asked",
        "unmatched": "no policy governs the target, and the policy set says what happens then",
        "free_alias": "the alias moves freely by the policy set",
        "notes_not_allowed": "the policy lets no note pass ('allowNotes: false')",
        "waiver_not_counted": "there is a waiver that does not count",
        "approvals_missing": "fewer people approved this form than the policy asks for",
        "approved": "as many people approved this form as the policy asks for",
        "approval_not_counted": "there is an approval that does not count",
        "break_glass": "the policies deny, and somebody who may has overridden them for a short time",
        "break_glass_open": "somebody has overridden the policies for a short time, which changes nothing here",
        "break_glass_not_counted": "there is an opening of break-glass that does not count",
    }
)


def sentence_of(code: str) -> str:
    """What a code stands for, or that nobody knows it."""
    known = SENTENCES.get(code)
    if known is not None:
        return known
    close = difflib.get_close_matches(code, list(SENTENCES), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else " (policies/README.md lists all)"
    return f"no such reason is known; only a form that cannot be read gives others{hint}"
