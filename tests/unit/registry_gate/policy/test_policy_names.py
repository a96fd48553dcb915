"""Which spellings of a name a policy governs, and which a policy set frees."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_builders import make_policy

from registry_gate.policy.names import fold, matches, reads_like
from registry_gate.promotion import Target, TargetKind

LOOK_ALIKES = [
    "Clinical-triage",
    "CLINICAL-TRIAGE",
    "clinical_triage",
    "clinical triage",
    "clinical.triage",
    "clinical\u2010triage",  # hyphen
    "clinical\u2013triage",  # en dash
    "clinical\u2212triage",  # minus sign
    "clinical-triage ",
    " clinical-triage",
    "\u00a0clinical-triage",  # no-break space
    "\tclinical-triage\n",
    "clin\u200bical-triage",  # zero-width space
    "clin\u00adical-triage",  # soft hyphen
    "\ufeffclinical-triage",
    "\u202eclinical-triage",  # right-to-left override
    "clinical\u0000-triage",
    "\uff43\uff4c\uff49\uff4e\uff49\uff43\uff41\uff4c-triage",  # full width
    "clínical-triage",
    "cli\u0301nical-triage",
    "clıniсаl-triage",  # dotless i, Cyrillic
    "сӏіnісаl-triage",
    "𝓬𝓵𝓲𝓷𝓲𝓬𝓪𝓵-triage",
    "ⓒⓛⓘⓝⓘⓒⓐⓛ-triage",
    "ᴄʟɪɴɪᴄᴀʟ-triage",
    "cliniçał-triage",
    "clinical\ud800-triage",
]


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_policy_governs_every_spelling_that_reads_like_its_pattern(name):
    policy = make_policy(match={"any": ({"models": ("clinical-*",), "aliases": ("champion",)},)})
    for model in ("clinical-triage", name):
        assert policy.governs(Target(kind=TargetKind.ALIAS, model=model, name="champion"))
        assert policy.may_govern(model)


@pytest.mark.parametrize(
    "name", ["Champion", "CHAMPION", "\u0441hampion", "\uff43hampion", "cham\u200bpion", "champıon"]
)
def test_policy_governs_every_spelling_of_its_aliases(name):
    policy = make_policy(match={"any": ({"models": ("*",), "aliases": ("champion",)},)})
    assert policy.governs(Target(kind=TargetKind.ALIAS, model="m", name=name))


@pytest.mark.parametrize("name", ["clinica-triage", "linical-x", "clinicaltriage", "c1inical-x", "preclinical"])
def test_other_names_stay_outside(name):
    policy = make_policy(match={"any": ({"models": ("clinical-*",), "aliases": ("*",)},)})
    assert not policy.governs(Target(kind=TargetKind.ALIAS, model=name, name="champion"))


@pytest.mark.parametrize(
    "name", ["Candidate", "CANDIDATE", "\u0441andidate", "\uff43andidate", "candidate\u200b", "candidate "]
)
def test_no_look_alike_of_a_free_alias_is_free(name):
    free = ("candidate", "latest-*")
    assert matches("candidate", free)
    assert not matches(name, free)


def test_no_look_alike_of_an_exclusion_is_excluded():
    policy = make_policy(
        match={"any": ({"models": ("*",), "aliases": ("*",)},)},
        exclude={"models": ("sandbox",), "aliases": ("shadow",)},
    )
    assert not policy.governs(Target(kind=TargetKind.ALIAS, model="sandbox", name="champion"))
    assert not policy.governs(Target(kind=TargetKind.ALIAS, model="m", name="shadow"))
    assert policy.governs(Target(kind=TargetKind.ALIAS, model="Sandbox", name="champion"))
    assert policy.governs(Target(kind=TargetKind.ALIAS, model="m", name="shаdow"))  # Cyrillic a


@given(st.text(max_size=30), st.text(alphabet=string.ascii_lowercase + "-*?", min_size=1, max_size=10))
def test_reading_never_governs_less_than_writing(name, pattern):
    assert reads_like(name, (pattern,)) >= matches(name, (pattern,))


@given(st.text(max_size=30))
def test_folding_is_stable_and_ignores_case_and_invisible_characters(name):
    folded = fold(name)
    assert fold(folded) == folded
    assert fold(name.upper()) in (folded, fold(name.casefold().upper()))
    assert fold("\u200b".join(name)) == folded


@given(st.text(alphabet=string.ascii_lowercase + string.digits + "-", max_size=30))
def test_plain_names_fold_to_themselves(name):
    assert fold(name) == name
