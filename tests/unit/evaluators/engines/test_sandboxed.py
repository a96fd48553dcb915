"""The child process: its limits, its environment, and what is done with what it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from evaluators.engines import sandboxed
from evaluators.engines.child import describe
from evaluators.engines.interface import Answer, GenerationSettings
from evaluators.engines.sandboxed import SandboxedTransformersEngine, child_environment, read_answers
from evaluators.engines.transformers_engine import TransformersEngine
from registry_gate.errors import AssessmentError

SETTINGS = GenerationSettings(max_new_tokens=24, batch_size=5)
SECRETS = {"REGISTRY_GATE_SIGNING_KEY": "/etc/keys/worker.pem", "AWS_SECRET_ACCESS_KEY": "s3cr3t-value"}


def nothing(_done: int, _total: int) -> None:
    """Progress that nobody wants."""


def engine(timeout_s: float = 120, max_memory_bytes: int | None = None) -> SandboxedTransformersEngine:
    return SandboxedTransformersEngine(timeout_s=timeout_s, max_memory_bytes=max_memory_bytes, threads=1, device="cpu")


@pytest.fixture
def child_code(monkeypatch, tmp_path):
    """Start a Python script of the test's in place of the child; it gets the same arguments."""

    def use(code: str) -> None:
        script = tmp_path / "child.py"
        script.write_text(
            "import json, os, signal, sys, time\nfrom pathlib import Path\nwork = Path(sys.argv[1])\n" + code
        )
        popen = subprocess.Popen
        monkeypatch.setattr(
            sandboxed.subprocess, "Popen", lambda argv, **kw: popen([sys.executable, str(script), *argv[-2:]], **kw)
        )

    return use


def refusal(form, probes, engine_=None) -> AssessmentError:
    with pytest.raises(AssessmentError) as caught:
        (engine_ or engine()).answer(form, probes, SETTINGS, nothing)
    return caught.value


def test_child_answers_as_the_engine_does_in_process(adapted, probes):
    seen = []
    limited = engine(max_memory_bytes=4 << 30)
    answers = limited.answer(adapted, probes, SETTINGS, lambda done, total: seen.append((done, total)))
    assert answers == TransformersEngine("cpu").answer(adapted, probes, SETTINGS, nothing)
    assert seen[-1] == (len(probes), len(probes))


def test_no_probes_need_no_child(form):
    assert engine().answer(form, [], SETTINGS, nothing) == []


def test_childs_refusal_keeps_its_code_and_message(form, probes):
    (form.model_dir / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    error = refusal(form, probes)
    assert error.code == "pickle_weights"
    assert "pytorch_model.bin may be a pickle" in str(error)


def test_childs_refusal_after_loading_keeps_its_code(form, probes, edit_tensors):
    edit_tensors(form.model_dir / "model.safetensors", lambda t: {k: v for k, v in t.items() if "lm_head" not in k})
    error = refusal(form, probes)
    assert error.code == "newly_initialised"
    assert "lm_head.weight" in str(error)


def test_time_out_kills_the_child(form, probes, child_code, tmp_path):
    # It ignores SIGTERM and has a child of its own, which must go too.
    child_code(
        "import subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "grandchild = subprocess.Popen(['sleep', '600'])\n"
        f"Path({str(tmp_path / 'pids')!r}).write_text(f'{{os.getpid()}} {{grandchild.pid}}')\n"
        "time.sleep(600)\n"
    )
    error = refusal(form, probes, engine(timeout_s=2))
    assert error.code == "engine_timeout"
    assert "took longer than 2 s" in str(error)
    assert_gone(tmp_path / "pids")


def test_real_child_is_killed_by_time_out(form, probes):
    started = time.monotonic()
    assert refusal(form, probes, engine(timeout_s=0.5)).code == "engine_timeout"
    assert time.monotonic() - started < 10


def test_too_much_memory_kills_the_child(form, probes, child_code):
    child_code("block = bytearray(os.urandom(1)) * (300 << 20)\ntime.sleep(600)\n")
    error = refusal(form, probes, engine(max_memory_bytes=200 << 20))
    assert error.code == "engine_memory"
    assert "allowed are 209715200" in str(error)


def test_real_child_is_killed_by_the_memory_limit(form, probes):
    # Importing torch alone takes more.
    assert refusal(form, probes, engine(max_memory_bytes=60 << 20)).code == "engine_memory"


def test_failing_progress_kills_the_child(form, probes, child_code, tmp_path):
    child_code(
        f"Path({str(tmp_path / 'pids')!r}).write_text(str(os.getpid()))\nprint(1, 2, flush=True)\ntime.sleep(600)\n"
    )

    def fail(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine().answer(form, probes, SETTINGS, fail)
    assert_gone(tmp_path / "pids")


@pytest.mark.parametrize(
    ("code", "expected", "message"),
    [
        ("sys.exit(7)", "engine_crashed", "ended with status 7"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "engine_crashed", "killed by signal 11"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", "engine_crashed", "killed by signal 35"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "engine_memory", "as the kernel does when memory runs out"),
        ("sys.exit(3)", "engine_crashed", "left no reason"),
        ("(work/'error.json').write_text('{}'); sys.exit(3)", "engine_crashed", "left no reason"),
        (
            "(work/'error.json').write_text(json.dumps(dict(code='integrity', message='x'))); sys.exit(3)",
            "engine_crashed",
            "left no reason",
        ),
        ("pass", "engine_output", "without a readable file of answers"),
    ],
)
def test_each_end_of_a_child_has_its_own_sentence(form, probes, child_code, code, expected, message):
    child_code(code)
    error = refusal(form, probes)
    assert error.code == expected
    assert message in str(error)


def test_child_dies_with_its_parent(tmp_path):
    """The parent is killed without a chance to tidy up; the kernel ends the child."""
    waiting = (
        "import os, sys, time\nfrom pathlib import Path\nfrom evaluators.engines.child import die_with\n"
        "die_with(int(sys.argv[1])); Path(sys.argv[2]).write_text(str(os.getpid())); time.sleep(600)\n"
    )
    script = (
        "import os, subprocess, sys, time\n"
        f"code = {waiting!r}\n"
        "subprocess.Popen([sys.executable, '-c', code, str(os.getpid()), sys.argv[1]], start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "pids")])
    try:
        while not (tmp_path / "pids").exists() or not (tmp_path / "pids").read_text():
            assert parent.poll() is None
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    assert_gone(tmp_path / "pids")


def assert_gone(pids: Path) -> None:
    deadline = time.monotonic() + 10
    for pid in map(int, pids.read_text().split()):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} still lives"
            time.sleep(0.05)


def test_environment_is_an_allow_list(tmp_path):
    parent = {"PATH": "/bin", "LANG": "C.UTF-8", "HF_TOKEN": "t", "PYTHONPATH": "/x", "HTTPS_PROXY": "p"} | SECRETS
    environment = child_environment(parent, home=tmp_path, threads=3)
    assert environment["PATH"] == "/bin"
    assert environment["HOME"] == str(tmp_path)
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert not {"HF_TOKEN", "HTTPS_PROXY", *SECRETS} & set(environment)
    assert not {"t", "p", "/x", *SECRETS.values()} & set(environment.values())


def test_true_child_sees_no_secret_and_no_descriptor(form, probes, child_code, monkeypatch, tmp_path):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    key = tmp_path / "key"
    key.write_text("private")
    descriptor = os.open(key, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    child_code(
        "fds = [f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd')]\n"
        f"Path({str(tmp_path / 'seen')!r}).write_text(json.dumps([dict(os.environ), "
        "[os.readlink(fd) for fd in fds if os.path.lexists(fd)], os.getcwd(), "
        "os.listdir(os.environ['HOME']), os.getsid(0) == os.getpid()]))"
    )
    try:
        refusal(form, probes)
    finally:
        os.close(descriptor)
    environment, files, cwd, home, leads_session = json.loads((tmp_path / "seen").read_text())
    assert not set(SECRETS) & set(environment)
    assert not any(secret in value for secret in SECRETS.values() for value in environment.values())
    assert str(key) not in files
    assert Path(cwd) == Path(environment["HOME"])
    assert home == []
    assert leads_session


def lines(*answers: object) -> str:
    return "".join((a if isinstance(a, str) else json.dumps(a)) + "\n" for a in answers)


def test_complete_output_comes_back_in_the_order_of_the_probes(probes, tmp_path):
    answers = [Answer(probe_id=p.id, text=f"answer \u2028 {p.id}", tokens=2, finish="stop") for p in probes]
    (tmp_path / "out").write_text(lines(*(asdict(a) for a in reversed(answers))))
    assert read_answers(tmp_path / "out", probes) == answers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:-1], "left 1 of 16 probes without answer, the first is p-15"),
        (lambda a: [*a, a[0]], "answered probe p-00 twice"),
        (lambda a: [*a, a[0] | {"probe_id": "else"}], "line 17 of the engine's output answers a probe nobody asked"),
        (lambda a: ["private text", *a], "line 1 of the engine's output is no answer"),
        (lambda a: [a[0] | {"tokens": True}, *a[1:]], "line 1 of the engine's output is no answer"),
        (lambda a: [a[0] | {"tokens": -1}, *a[1:]], "line 1 of the engine's output is no answer"),
        (lambda a: [a[0] | {"finish": "bored"}, *a[1:]], "line 1 of the engine's output is no answer"),
        (lambda a: [a[0] | {"text": None}, *a[1:]], "line 1 of the engine's output is no answer"),
        (lambda a: [a[0] | {"label": "refused"}, *a[1:]], "line 1 of the engine's output is no answer"),
        (lambda a: [[], *a[1:]], "line 1 of the engine's output is no answer"),
    ],
)
def test_output_that_is_not_one_answer_per_probe_is_refused(probes, tmp_path, change, message):
    whole = [{"probe_id": p.id, "text": "private text", "tokens": 2, "finish": "stop"} for p in probes]
    (tmp_path / "out").write_text(lines(*change(whole)))
    with pytest.raises(AssessmentError) as caught:
        read_answers(tmp_path / "out", probes)
    assert caught.value.code == "engine_output"
    assert message in str(caught.value)
    assert "private text" not in str(caught.value)


def test_failures_of_libraries_are_described_without_what_they_quote():
    assert describe(RuntimeError("an answer")) == ("engine_crashed", "generation failed with RuntimeError")
    assert describe(MemoryError())[0] == "engine_memory"
    assert describe(RuntimeError("CUDA out of memory. Tried"))[0] == "engine_memory"
    code, message = describe(AssessmentError("a\x1b[31m\nb" + "c" * 9999, code="not_loadable"))
    assert code == "not_loadable"
    assert message.startswith("a [31m b")
    assert len(message) == 600


@pytest.mark.parametrize("limits", [{"timeout_s": 0}, {"threads": 0}, {"max_memory_bytes": 0}])
def test_limits_that_limit_nothing_are_refused(limits):
    with pytest.raises(ValueError, match="expected positive limits"):
        SandboxedTransformersEngine(**({"timeout_s": 1, "max_memory_bytes": None, "threads": 1} | limits))


def test_settings_reach_the_child(form, probes):
    with pytest.raises(AssessmentError) as caught:
        engine().answer(form, probes, replace(SETTINGS, temperature=1.0), nothing)
    assert caught.value.code == "settings_unsupported"


def test_a_gpu_that_is_not_there_is_named(form, probes, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # also where there is one
    wanted = SandboxedTransformersEngine(timeout_s=120, max_memory_bytes=None, threads=1, device="cuda")
    with pytest.raises(AssessmentError, match="expected a GPU, because the worker's device is cuda") as caught:
        wanted.answer(form, probes, SETTINGS, nothing)
    assert caught.value.code == "device_missing"
