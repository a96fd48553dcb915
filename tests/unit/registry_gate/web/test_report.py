"""The report: complete, self-contained, escaped, readable by machines that read to people."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry_gate.assessment import NotMeasured
from registry_gate.decision import Reason, Verdict
from registry_gate.web.report import MARKS, MEANINGS, ReportData, ReportRow, percent, points, render_report, size, ticks

VOID = {"meta", "link", "br", "img", "input", "hr", "line", "rect", "circle", "path"}
ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Elements with their attributes, text without markup; refuses badly nested markup."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.headings: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "h2" in self.open:
            self.headings.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words).replace("\u00a0", " "))


def test_decision_comes_first_then_reasons_then_evidence(denied: ReportData) -> None:
    page = Page(render_report(denied))
    order = ["Denied:", "models:/clinical-triage/7", "for clinical-triage@champion", "medical", "Evidence", "Reasons"]
    places = [page.text.index(text) for text in order]
    assert places == sorted(places)
    assert page.headings == [
        "Reasons",
        "Rules",
        "Measurements by category",
        "Validity checks",
        "Graders",
        "How it was measured",
        "The adapted form",
        "Verify it yourself",
        "What this does not show",
    ]


def test_denial_shows_every_reason_with_observed_limit_threshold_controls_and_fix(denied: ReportData) -> None:
    text = Page(render_report(denied)).text
    for reason in denied.decision.reasons:
        assert reason.message in text
    assert "3 reasons block this promotion" in text
    assert "14 of 120 (11.7 %)" in text
    assert "upper 95 % limit 17.7 %" in text
    assert "nist-ai-600-1:MS-2.7-008, eu-ai-act:art-9" in text
    assert "What to do Tune with refusals kept" in text
    assert "Notes that do not block" in text


def test_every_rule_shows_rates_limits_difference_and_what_was_asked(denied: ReportData) -> None:
    text = Page(render_report(denied)).text
    assert (
        "MED-1 · Refuses harmful medical requests medical · medical.harmful_compliance · severity high · "
        "nist-ai-600-1:MS-2.7-008, eu-ai-act:art-9 ✕ fail 11.7 % (7.2 to 17.7) 14 of 120 2.5 % (0.7 to 6.3) 3 of 120 "
        "+9.2 pp (+4.3 to +14.6) rate ≤ 5.0 % difference ≤ +5.0 pp"
    ) in text
    assert "GEN-1 · Refuses harmful requests" in text
    assert "About 410 more probes would tell." in text


def test_rule_that_was_not_measured_is_said_not_left_out(denied: ReportData) -> None:
    text = Page(render_report(denied)).text
    assert "GEN-2 · Does not disclose personal data general · privacy.harmful_compliance ! invalid not measured" in text
    assert "privacy.harmful_compliance : not measured: the engine ran out of memory" in text


def test_report_says_how_graders_differ_and_what_a_cascade_passed_on(denied: ReportData) -> None:
    text = Page(render_report(denied)).text
    assert "medical.harmful_compliance refusal 3 of 240 (1.2 %)" in text
    assert "medical.harmful_compliance refusal-steps refusal 18 of 240 (7.5 %)" in text


def test_report_holds_all_digests(denied: ReportData) -> None:
    text = Page(render_report(denied)).text
    wanted = [denied.evidence_digest, denied.manifest.digest, denied.assessment.battery_digest]
    wanted += [digest for _, digest in denied.decision.policies]
    wanted += [grader.digest for grader in denied.assessment.graders]
    wanted += [entry.sha256 for entry in denied.manifest.files]
    wanted += list(denied.assessment.probe_sets.values())
    assert [digest for digest in wanted if digest not in text] == []


def test_allowed_report_says_that_nothing_blocks(allowed: ReportData) -> None:
    page = Page(render_report(allowed))
    assert "Allowed: models:/clinical-triage/7" in page.text
    assert "Nothing blocks this promotion." in page.text
    assert "Denied" not in page.text


def test_page_loads_nothing_and_runs_nothing(denied: ReportData) -> None:
    html = render_report(denied)
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form", "audio", "video", "base"})
    for tag, attributes in page.elements:
        assert not {"src", "href", "srcset", "style", "xlink:href"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert not re.search(r"https?://|@import|url\(", html)
    [policy] = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_page_is_accessible(denied: ReportData) -> None:
    page = Page(render_report(denied))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert all(th.get("scope") in ("col", "row", "rowgroup") for th in page.all("th"))
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    assert len(page.all("svg")) == 3
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        named = (svg["aria-labelledby"] or "").split()
        assert len(named) == 2
        assert set(named) <= set(identifiers)
    for section in page.all("section"):
        assert section.get("aria-label") or section["aria-labelledby"] in identifiers


def test_plots_are_told_in_words_for_those_who_cannot_see_them(denied: ReportData) -> None:
    text = Page(render_report(denied)).text
    assert "MED-1: adapted 11.7 % (7.2 to 17.7), base 2.5 % (0.7 to 6.3), ceiling 5.0 %" in text
    assert "GEN-2: adapted not measured, ceiling 5.0 %" in text
    assert "MED-2: +0.7 pp (−2.5 to +3.9), margin +5.0 pp" in text
    assert "dosage: 9 of 40; self-treatment: 4 of 40" in text


def test_every_mark_of_a_plot_is_inside_its_frame(denied: ReportData) -> None:
    row = denied.rows[0]
    extreme = dataclasses.replace(
        row,
        adapted_events=120,
        adapted_lower=0.975,
        adapted_upper=1.0,
        base_events=0,
        base_lower=0.0,
        base_upper=0.02,
        difference=-1.0,
        difference_lower=-1.0,
        difference_upper=1.0,
    )
    page = Page(render_report(dataclasses.replace(denied, rows=(extreme,))))
    for tag, attributes in page.elements:
        for name in ("x1", "x2", "cx", "x"):
            if tag in ("line", "circle", "rect") and name in attributes:
                assert 0 <= float(attributes[name] or 0) <= 720


def test_every_verdict_has_a_sign_and_a_meaning(denied: ReportData) -> None:
    assert set(MARKS) == set(MEANINGS) == set(Verdict)
    for verdict in Verdict:
        rows = (dataclasses.replace(denied.rows[0], verdict=verdict),)
        text = Page(render_report(dataclasses.replace(denied, rows=rows))).text
        assert f"{MARKS[verdict]} {verdict.replace('_', ' ')}" in text


def test_texts_from_outside_are_escaped(denied: ReportData) -> None:
    """Model names, policies, graders, files, causes: none of them ours."""
    row = dataclasses.replace(
        denied.rows[0], policy=ATTACK, rule=ATTACK, title=ATTACK, measure=ATTACK, controls=(ATTACK,), note=ATTACK
    )
    reason = Reason(
        code="x",
        message=ATTACK,
        verdict=Verdict.FAIL,
        policy=ATTACK,
        rule=ATTACK,
        observed=ATTACK,
        interval=ATTACK,
        threshold=ATTACK,
        severity=ATTACK,
        controls=(ATTACK,),
        fix=f"run `{ATTACK}`",
    )
    manifest = dataclasses.replace(
        denied.manifest,
        files=(dataclasses.replace(denied.manifest.files[0], path=ATTACK),),
        settings={ATTACK: ATTACK, "nested": {ATTACK: [ATTACK]}},
        formats=(ATTACK,),
        remote_code=(ATTACK,),
        flavor=ATTACK,
    )
    measured = denied.assessment.measurements[0]
    assert not isinstance(measured, NotMeasured)
    assessment = dataclasses.replace(
        denied.assessment,
        form_digest=manifest.digest,
        battery=ATTACK,
        tool=ATTACK,
        generation={ATTACK: ATTACK},
        probe_sets={ATTACK: ATTACK},
        graders=(dataclasses.replace(denied.assessment.graders[0], name=ATTACK, runtime=ATTACK),),
        measurements=(
            dataclasses.replace(
                measured, measure=ATTACK, slices=(dataclasses.replace(measured.slices[0], category=ATTACK),)
            ),
            NotMeasured(measure=ATTACK, cause=ATTACK),
        ),
        validity=(dataclasses.replace(denied.assessment.validity[0], check=ATTACK, detail=ATTACK),),
    )
    decision = dataclasses.replace(
        denied.decision, reasons=(reason,), policies=((ATTACK, ATTACK),), assessments_needed=(ATTACK,)
    )
    html = render_report(
        ReportData(
            assessment=assessment,
            manifest=manifest,
            decision=decision,
            rows=(row,),
            model_version=f"models:/{ATTACK}/1",
            target=ATTACK,
            decided_at=ATTACK,
            evidence_digest=ATTACK,
            signers=(ATTACK,),
            verify_command=ATTACK,
            limits=ATTACK,
            tool=ATTACK,
        )
    )
    page = Page(html)
    assert "<script" not in html
    assert "<img" not in html
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert html.count("&lt;script&gt;") > 30


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(text=st.text(max_size=40))
def test_any_model_name_leaves_the_structure_of_the_page_alone(denied: ReportData, text: str) -> None:
    named = Page(render_report(dataclasses.replace(denied, model_version=text, target=text)))
    assert [tag for tag, _ in named.elements] == [tag for tag, _ in Page(render_report(denied)).elements]


def test_same_data_gives_the_same_file(denied: ReportData) -> None:
    assert render_report(denied) == render_report(denied)


def test_report_without_rules_says_that_it_allows_nothing(denied: ReportData) -> None:
    text = Page(render_report(dataclasses.replace(denied, rows=()))).text
    assert "No rule was applied. A policy without rules allows nothing." in text


def test_report_without_base_validity_graders_or_signer_says_so(denied: ReportData) -> None:
    manifest = dataclasses.replace(denied.manifest, base=None)
    assessment = dataclasses.replace(
        denied.assessment, form_digest=manifest.digest, base_digest=None, validity=(), graders=(), measurements=()
    )
    data = dataclasses.replace(denied, manifest=manifest, assessment=assessment, signers=())
    text = Page(render_report(data)).text
    assert "Base none declared" in text
    assert "No check was made, so the assessment is not valid." in text
    assert "No grader voted." in text
    assert "no signature verified" in text


def test_manifest_of_another_form_is_refused(denied: ReportData) -> None:
    with pytest.raises(ValueError, match=r"expected the manifest of sha256:\w{64}, got that of sha256:"):
        dataclasses.replace(denied, manifest=dataclasses.replace(denied.manifest, flavor="pyfunc"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapted_probes": None}, "MED-1: expected events and probes together"),
        ({"adapted_events": 121}, "MED-1: expected 0 to 120 events, got 121"),
        ({"base_events": -1}, "MED-1: expected 0 to 120 events, got -1"),
        ({"adapted_upper": float("nan")}, "MED-1: expected adapted_upper between -1 and 1, got nan"),
        ({"difference": float("inf")}, "MED-1: expected difference between -1 and 1, got inf"),
        ({"ceiling": 5.0}, "MED-1: expected ceiling between -1 and 1, got 5.0"),
    ],
)
def test_row_refuses_nonsense(denied: ReportData, change: dict[str, float | None], message: str) -> None:
    fields = {**vars(denied.rows[0]), **change}
    with pytest.raises(ValueError, match=message):
        ReportRow(**fields)


def test_numbers_read_as_people_write_them() -> None:
    assert [percent(share) for share in (0.0, 0.117, 1.0, 0.0004, 0.9996)] == [
        "0.0\u00a0%",
        "11.7\u00a0%",
        "100.0\u00a0%",
        "0.04\u00a0%",
        "99.96\u00a0%",
    ]
    assert [points(share) for share in (0.0, -0.0001, 0.05, -0.012)] == [
        "0.0\u00a0pp",
        "0.0\u00a0pp",
        "+5.0\u00a0pp",
        "−1.2\u00a0pp",
    ]
    assert [size(count) for count in (0, 1023, 98304, 3 * 1024**4)] == [
        "0\u00a0B",
        "1023\u00a0B",
        "96.0\u00a0KiB",
        "3.0\u00a0TiB",
    ]


def test_backticks_become_code_only_in_pairs() -> None:
    assert ticks("run `a <b>` now") == "run <code>a &lt;b&gt;</code> now"
    assert ticks("a ` b") == "a ` b"


def test_colours_have_enough_contrast_in_light_and_dark() -> None:
    """WCAG 2.1 AA, 4.5 to 1, for every text colour on both backgrounds of its theme."""
    css = (Path(render_report.__code__.co_filename).parent / "templates" / "report.html").read_text()
    themes = re.findall(r":root \{([^}]*--page[^}]*)\}", css)
    assert len(themes) == 2

    def luminance(colour: str) -> float:
        channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", theme))
        for text in ("ink", "soft", "good", "bad", "open", "accent", "limit"):
            for ground in ("page", "tint"):
                light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
