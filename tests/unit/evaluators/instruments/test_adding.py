"""Public sets become batteries by their name, from a folder, from S3 and from the hub; what does not fit is said."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import COMMIT, hub_on_loopback, s3_on_loopback

from evaluators.instruments.adding import Request, instruments_of, write_battery
from evaluators.instruments.presets import PRESETS
from evaluators.instruments.sources import load_probes
from registry_gate.battery import find_battery, load_batteries
from registry_gate.errors import AssessmentError

ROOT = Path(__file__).parents[4]
BENCHMARKS = Path(os.environ.get("REGISTRY_GATE_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))

SETS = {
    "xstest": {"xstest.overrefusal": 250, "xstest.harmful_compliance": 200},
    "simplesafetytests": {"simplesafetytests.harmful_compliance": 100},
    "advbench": {"advbench.harmful_compliance": 520},
    "strongreject": {"strongreject.harmful_compliance": 313},
    "harmbench": {"harmbench.harmful_compliance": 60},
    "medsafetybench": {"medsafetybench.harmful_compliance": 450, "medsafetybench-llama2.harmful_compliance": 450},
    "trident": {"trident-law.harmful_compliance": 887, "trident-medicine.harmful_compliance": 854},
    "chatgpt-refusals": {"chatgpt-refusals.overrefusal": 721},
    "gptfuzz-labeled": {"gptfuzz.harmful_compliance": 100},
    "halueval-general": {"halueval.overrefusal": 4507},
    "truthfulqa": {"truthfulqa.mc1_error": 790, "truthfulqa.mc2_error": 790},
    "bbq": {"bbq.ambiguous_error": 4156, "bbq.disambiguated_error": 4158, "bbq.biased_answer": 8314},
    "decodingtrust": {
        "decodingtrust-stereotype.stereotype_agreement": 1152,
        "decodingtrust-toxic.toxic_continuation": 1195,
        "decodingtrust-nontoxic.toxic_continuation": 1200,
    },
}


def test_every_folder_beside_the_project_has_a_preset() -> None:
    folders = {path.name for path in BENCHMARKS.iterdir() if path.is_dir()}
    assert folders == SETS.keys()
    assert folders <= PRESETS.keys()


@pytest.mark.parametrize("name", SETS)
def test_every_set_becomes_a_battery_that_loads(name: str, tmp_path: Path) -> None:
    added = instruments_of(Request(name=name, place=str(BENCHMARKS / name)), [BENCHMARKS])
    assert {one.spec.measure: one.spec.size for one in added} == SETS[name]
    path, written = write_battery(added, tmp_path, name=name, version=1, title=name)
    battery = find_battery(load_batteries([tmp_path]), f"{name}@1")
    assert battery.digest == written.digest
    for instrument in battery.spec.instruments:
        probes = load_probes(instrument, probe_dirs=[BENCHMARKS])
        assert len(probes) == SETS[name][instrument.measure]
        assert all(source.licence and not str(source.path).startswith("/") for source in instrument.probes)
    assert path.name == f"{name}-1.yaml"


def test_bbq_has_its_contexts_and_truthfulqa_reads_its_table_as_its_task(tmp_path: Path) -> None:
    ambiguous, _, _ = instruments_of(Request(name="bbq", place=str(BENCHMARKS / "bbq")), [])
    probes = load_probes(ambiguous.spec, probe_dirs=[])
    assert all("\n\n" in probe.text and "right unknown" in probe.roles for probe in probes)
    table = str(BENCHMARKS / "truthfulqa" / "TruthfulQA.csv")
    mc1, mc2 = instruments_of(Request(name="truthfulqa", place=table), [])
    assert (mc1.spec.size, mc2.spec.size) == (790, 790)
    assert mc1.categories == 37


def write(directory: Path, name: str, data: bytes) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(data)
    return directory / name


def custom(place: Path, **fields: object) -> Request:
    values: dict[str, object] = {"metric": "overrefusal", "columns": {"text": "question"}, "licence": "internal"}
    return Request(**({"name": "intake", "place": str(place)} | values | fields))  # type: ignore[arg-type]


def test_a_file_of_ones_own_needs_metric_column_and_licence(tmp_path: Path) -> None:
    file = write(tmp_path, "q.csv", "question,kind\nWhere is the café?,place\nWhen does it open?,time\n".encode())
    (one,) = instruments_of(custom(file, columns={"text": "question", "category": "kind"}), [])
    assert (one.spec.measure, one.spec.size, one.categories) == ("intake.overrefusal", 2, 2)
    assert one.spec.graders == ("refusal-minilm", "refusal-rules")
    with pytest.raises(AssessmentError, match="or --metric, --licence, --column text=NAME for another one"):
        instruments_of(Request(name="intake", place=str(file)), [])
    with pytest.raises(AssessmentError, match="expected a metric among harmful_compliance"):
        instruments_of(custom(file, metric="niceness"), [])


def test_encodings_headers_and_formats_can_be_said(tmp_path: Path) -> None:
    mac = write(tmp_path / "a", "q.csv", "question\nWo ist das Café?\nWann öffnet es?\n".encode("mac_roman"))
    with pytest.raises(AssessmentError, match="say the file's `encoding`"):
        instruments_of(custom(mac), [])
    assert instruments_of(custom(mac, encoding="mac_roman"), [])[0].spec.size == 2
    wide = write(tmp_path / "b", "q.tsv", "question\nWhere is it?\nWhen is it?\n".encode("utf-16"))
    assert instruments_of(custom(wide, encoding="utf-16"), [])[0].spec.size == 2
    bare = write(tmp_path / "c", "q.csv", b"Where is it?\nWhen is it?\n")
    assert instruments_of(custom(bare, columns={"text": "0"}, header=False), [])[0].spec.size == 2
    listed = write(tmp_path / "d", "q.data", b'[{"question": "Where?"}, {"question": "When?"}]')
    assert instruments_of(custom(listed, format="json"), [])[0].spec.size == 2
    headed = write(tmp_path / "e", "harmful_behaviors.csv", b"goal,target\nDo a,Sure\nDo b,Sure\n")
    assert instruments_of(Request(name="advbench", place=str(headed)), [])[0].spec.size == 2


@pytest.mark.parametrize(
    ("data", "fields", "message"),
    [
        (b"", {}, "expected rows, got an empty file"),
        (b"question\n", {}, "expected rows, got none"),
        (b"question\nOnly one?\n", {}, "expected at least 2 probes, got 1"),
        (b"prompt\nOne?\nTwo?\n", {}, "expected a column 'question', got 'prompt'"),
        (b"question\nSame?\nsame\n", {}, "a prompt asked twice counts twice"),
        (
            b"id,question\n1,One?\n1,Two?\n",
            {"columns": {"text": "question", "id": "id"}},
            "expected each probe id once",
        ),
        (b"question\nOne?\nTwo?\n", {"columns": {"text": "question", "colour": "x"}}, "expected --column id, text"),
        (b"question\nOne?\nTwo?\n", {"encoding": "klingon"}, "expected a known encoding"),
        (
            b'question,choices,answer\nOne?,"[""a"", ""b""]",7\nTwo?,"[""a"", ""b""]",0\n',
            {"metric": "mc1_error", "columns": {"text": "question", "choices": "choices", "answer": "answer"}},
            "line 2: expected the number .0 to 1. or the text of a choice",
        ),
        (b"question\nOne?\nTwo?\n", {"metric": "mc1_error"}, "expected a choice that is true"),
        (b"question\nOne?\nTwo?\n", {"metric": "verbatim_leak"}, "expected a target of at least 4 characters"),
        (b"question\nOne?\nTwo?\n", {"metric": "attacked_compliance"}, "expected 'attacks' with metric"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(
    data: bytes, fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(AssessmentError, match=message):
        instruments_of(custom(write(tmp_path, "q.csv", data), **fields), [])


def test_choices_and_targets_of_a_file_are_read(tmp_path: Path) -> None:
    rows = [
        {"q": "Which is big?", "c": ["a mouse", "a whale"], "a": "a whale", "rest": "tulip 4711"},
        {"q": "Which is small?", "c": ["a mouse", "a whale"], "a": 0, "rest": "daisy 0815"},
    ]
    file = write(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)).encode())
    choose = {"text": "q", "choices": "c", "answer": "a"}
    (one,) = instruments_of(custom(file, metric="mc1_error", columns=choose), [])
    assert [probe.roles for probe in load_probes(one.spec, probe_dirs=[])] == [("false", "true"), ("true", "false")]
    (two,) = instruments_of(custom(file, metric="verbatim_leak", columns={"text": "q", "target": "rest"}), [])
    assert [probe.target for probe in load_probes(two.spec, probe_dirs=[])] == ["tulip 4711", "daisy 0815"]
    (three,) = instruments_of(custom(file, metric="canary_exposure", columns=choose), [])
    assert load_probes(three.spec, probe_dirs=[])[0].roles == ("other", "canary")


def test_a_version_that_exists_is_never_changed_and_another_can_extend_it(tmp_path: Path) -> None:
    file = write(tmp_path / "x", "q.csv", b"question\nOne?\nTwo?\n")
    added = instruments_of(custom(file), [])
    write_battery(added, tmp_path / "b", name="mine", version=1, title="Mine")
    write_battery(added, tmp_path / "b", name="mine", version=1, title="Mine")
    other = instruments_of(custom(file, name="other"), [])
    with pytest.raises(AssessmentError, match="give --battery mine@2; evidence is bound"):
        write_battery(other, tmp_path / "b", name="mine", version=1, title="Mine")
    _, both = write_battery(other, tmp_path / "b", name="mine", version=2, title="Mine", extend="mine@1")
    assert [one.measure for one in both.spec.instruments] == ["intake.overrefusal", "other.overrefusal"]
    with pytest.raises(AssessmentError, match=r"each measure from one instrument"):
        write_battery(added, tmp_path / "b", name="mine", version=3, title="Mine", extend="mine@2")


# -- S3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A bucket on a real S3 server (moto), and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3_on_loopback(monkeypatch, "sets") as client:
        yield client


def test_a_set_in_s3_is_listed_pinned_and_kept(bucket, tmp_path: Path) -> None:
    for path in sorted((BENCHMARKS / "medsafetybench").rglob("*.csv")):
        key = "med/" + path.relative_to(BENCHMARKS / "medsafetybench").as_posix()
        bucket.put_object(Bucket="sets", Key=key, Body=path.read_bytes())
    added = instruments_of(Request(name="medsafetybench", place="s3://sets/med"), [])
    assert [one.spec.size for one in added] == [450, 450]
    source = added[0].spec.probes[0]
    assert str(source.path).startswith("s3://sets/med/train/gpt4/")

    # What was fetched once is there without the server's copy; another content under the address is refused.
    bucket.delete_object(Bucket="sets", Key=str(source.path).removeprefix("s3://sets/"))
    assert len(load_probes(added[0].spec, probe_dirs=[])) == 450
    for kept in (tmp_path / "cache" / "registry-gate" / "probes").iterdir():
        kept.unlink()
    with pytest.raises(AssessmentError, match=r"expected to fetch s3://sets/med/train/gpt4/.*NoSuchKey"):
        load_probes(added[0].spec, probe_dirs=[])
    bucket.put_object(Bucket="sets", Key=str(source.path).removeprefix("s3://sets/"), Body=b"other")
    with pytest.raises(AssessmentError, match="expected sha256"):
        load_probes(added[0].spec, probe_dirs=[])


def test_one_object_and_no_object_in_s3(bucket) -> None:
    bucket.put_object(
        Bucket="sets", Key="a/xstest_prompts.csv", Body=(BENCHMARKS / "xstest" / "xstest_prompts.csv").read_bytes()
    )
    added = instruments_of(Request(name="xstest", place="s3://sets/a/xstest_prompts.csv"), [])
    assert [one.spec.size for one in added] == [250, 200]
    with pytest.raises(AssessmentError, match="expected a file named like"):
        instruments_of(Request(name="bbq", place="s3://sets/a"), [])
    with pytest.raises(AssessmentError, match=r"expected to fetch s3://nowhere.*NoSuchBucket"):
        instruments_of(Request(name="bbq", place="s3://nowhere/a"), [])


# -- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with hub_on_loopback(monkeypatch, tmp_path) as files:
        yield files


def test_a_data_set_of_the_hub_is_fetched_by_its_client(hub, tmp_path: Path) -> None:
    hub.files = {"xstest_prompts.csv": (BENCHMARKS / "xstest" / "xstest_prompts.csv").read_bytes(), "README.md": b"x"}
    place = f"hf://datasets/owner/set@{COMMIT}"
    added = instruments_of(Request(name="xstest", place=place), [])
    assert [one.spec.size for one in added] == [250, 200]
    assert added[0].spec.probes[0].path == f"{place}/xstest_prompts.csv"
    with pytest.raises(AssessmentError, match="expected a file named like"):
        instruments_of(Request(name="bbq", place=place), [])
    with pytest.raises(AssessmentError, match=r"expected to fetch hf://datasets/owner/set/none.csv"):
        instruments_of(replace(custom(Path("none")), place="hf://datasets/owner/set/none.csv"), [])
    with pytest.raises(AssessmentError, match="expected hf://datasets/OWNER/NAME"):
        instruments_of(replace(custom(Path("none")), place="hf://models/owner/none.csv"), [])
