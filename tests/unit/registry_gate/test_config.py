"""Settings: flags over variables over the file, and nothing that could weaken a decision."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from gate_builders import NOW, make_assessment, make_form
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry_gate.cli.install import shipped_policies
from registry_gate.config import ENV_PREFIX, ENVIRONMENT, PACKAGE_BATTERIES, Settings, load_settings
from registry_gate.errors import ConfigError
from registry_gate.evidence.keys import generate_key
from registry_gate.policy.document import PolicySet, load_policy_set
from registry_gate.policy.inputs import EvidenceItem, VerifiedEvidence
from registry_gate.policy.rules import decide


def write(directory: Path, text: str) -> Path:
    path = directory / "registry-gate.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(file: Path | None = None, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environment=environment)
    return str(caught.value)


def test_there_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load_settings(environment={})
    assert found == Settings()
    assert found.source is None
    assert found.battery_dirs == (PACKAGE_BATTERIES,)


def test_flags_win_over_variables_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[worker]\nid = "file"\nthreads = 2\ndevice = "cpu"\n')
    found = load_settings(
        file,
        environment={"REGISTRY_GATE_THREADS": "3", "REGISTRY_GATE_WORKER_ID": "variable"},
        overrides={("worker", "id"): "flag", ("worker", "device"): None},
    )
    assert (found.worker.id, found.worker.threads, found.worker.device) == ("flag", 3, "cpu")
    assert found.source == file


def test_relative_paths_are_relative_to_the_file_and_in_variables_to_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = write(tmp_path / "etc", '[gate]\npolicy_dir = "p"\n[worker]\nsigning_key = "/k"\nprobe_dirs = ["a", "/b"]\n')
    found = load_settings(file, environment={"REGISTRY_GATE_WORK_DIR": "w"})
    assert found.gate.policies == tmp_path / "etc" / "p"
    assert found.worker.signing_key == Path("/k")
    assert found.worker.probe_dirs == (tmp_path / "etc" / "a", Path("/b"))
    assert found.worker.work_dir == tmp_path / "here" / "w"


@pytest.mark.parametrize("key", ["policies", "policy_dir"])
@pytest.mark.parametrize("address", ["git+file:///srv/policies@main#clinic", "s3://bucket/prefix"])
def test_policies_may_have_an_address_which_is_no_path(tmp_path: Path, key: str, address: str) -> None:
    file = write(tmp_path, f'[gate]\n{key} = "{address}"\n')
    found = load_settings(file, environment={})
    assert found.gate.policies == address
    with pytest.raises(ConfigError, match=r"expected a directory of policies to write into, got "):
        found.require_policy_directory()
    for name in ("POLICIES", "POLICY_DIR"):
        variable = {f"REGISTRY_GATE_{name}": address}
        assert load_settings(environment=variable).gate.policies == address
    # A key is a file, whatever it is called.
    other = load_settings(write(tmp_path, f'[gate]\nsigning_key = "{address}"\n'), environment={})
    assert isinstance(other.gate.signing_key, Path)


def test_one_word_and_its_older_name_are_not_both_believed(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, '[gate]\npolicies = "a"\npolicy_dir = "b"\n'))
    assert "expected [gate] policies or its older name policy_dir, got both" in message
    message = refusal(REGISTRY_GATE_POLICIES="/a", REGISTRY_GATE_POLICY_DIR="/a")
    assert "expected REGISTRY_GATE_POLICIES or its older name REGISTRY_GATE_POLICY_DIR, got both" in message


def test_the_file_is_found_by_variable_and_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, '[worker]\nid = "found"\n')
    assert load_settings(environment={"REGISTRY_GATE_CONFIG": str(file)}).worker.id == "found"
    monkeypatch.chdir(tmp_path)
    assert load_settings(environment={}).worker.id == "found"


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    expected = f"expected a configuration file at {absent}, got none: make one with `registry-gate init`"
    assert refusal(absent) == expected
    assert refusal(REGISTRY_GATE_CONFIG=str(absent)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[worker]\nthread = 2\n", "[worker] thread: unknown"),
        ("[workers]\nthreads = 2\n", "[workers]: unknown"),
        ("[worker]\nthreads = 0\n", "[worker] threads: Input should be greater than or equal to 1, got 0"),
        ('[worker]\ndevice = "tpu"\n', "[worker] device: Input should be 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ("[worker]\nmax_memory_gib = nan\n", "[worker] max_memory_gib: "),
        ("[gate]\npolicy_dir = 3\n", "[gate] policies"),
        ("threads = 2\n", "expected sections ([gate], [ledger], [mlflow], [worker]), got 'threads'"),
        ("[worker\n", "expected a readable TOML file, got: "),
    ],
)
def test_an_invalid_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    found = refusal(file)
    assert found.startswith(f"{file}: ")
    assert message in found


def test_passwords_stay_out_of_messages(tmp_path: Path) -> None:
    for text in ('[ledger]\npassword = "hunter2"\n', '[ledger]\nuri = ["postgresql://u:hunter2@h/db"]\n'):
        assert "hunter2" not in refusal(write(tmp_path, text))


def test_a_misspelt_variable_is_refused() -> None:
    message = refusal(REGISTRY_GATE_POLICYDIR="/etc/policies")
    assert "got REGISTRY_GATE_POLICYDIR: unset it or correct its name" in message
    assert "REGISTRY_GATE_POLICY_DIR" in message


def test_what_must_be_set_is_asked_for_by_name() -> None:
    empty = load_settings(environment={"REGISTRY_GATE_LEDGER_URI": "", "REGISTRY_GATE_TRACKING_URI": ""})
    with pytest.raises(ConfigError, match="or REGISTRY_GATE_LEDGER_URI"):
        empty.require_ledger()
    with pytest.raises(ConfigError, match="REGISTRY_GATE_TRACKING_URI or --tracking-uri"):
        empty.require_tracking()


variable_names = st.text(st.characters(codec="ascii", exclude_characters="=\0"), min_size=1, max_size=30)


@given(variables=st.dictionaries(variable_names, st.text(max_size=10), max_size=5))
def test_no_variable_but_those_listed_changes_settings(variables: dict[str, str]) -> None:
    listed = {ENV_PREFIX + name for name in (*ENVIRONMENT, "CONFIG")}
    others = {name: value for name, value in variables.items() if name not in listed}
    try:
        assert load_settings(environment=others) == Settings()
    except ConfigError as err:
        assert any(name.startswith(ENV_PREFIX) for name in others), err  # noqa: PT017 - refused, never half believed


@pytest.fixture(scope="module")
def policy_set(tmp_path_factory: pytest.TempPathFactory) -> PolicySet:
    directory = tmp_path_factory.mktemp("set") / "policies"
    shutil.copytree(shipped_policies(), directory)
    (directory / "signers").mkdir()
    generate_key(directory.parent / "worker.key", directory / "signers" / "worker.pem")
    return load_policy_set(directory, (PACKAGE_BATTERIES,))


names = st.sampled_from(
    [*ENVIRONMENT, "CONFIG", "BENCHMARKS", "SKIP", "DISABLE", "FORCE_ALLOW", "THRESHOLD", "ENFORCEMENT", "NOW"]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    variables=st.dictionaries(
        names.map(ENV_PREFIX.__add__), st.sampled_from(["", "0", "1", "off", "allow", "1.0", "/"])
    ),
    events=st.sampled_from([3, 40]),
)
def test_no_variable_changes_a_decision(variables: dict[str, Any], events: int, policy_set: PolicySet) -> None:
    form = make_form()
    evidence: list[EvidenceItem] = [
        VerifiedEvidence(
            digest="sha256:e", assessment=make_assessment(policy_set, form, events=events), signers=("worker",)
        )
    ]

    def decided() -> Any:
        return decide(
            policies=[policy_set.policies["general"]],
            batteries=policy_set.batteries,
            form=form,
            evidence=evidence,
            now=NOW,
        )

    before = decided()
    assert before.allowed is (events == 3)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setitem(os.environ, name, value)
        assert decided() == before
