"""Finding graders by name: shipped, in directories, by path, and as plugins."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest

from evaluators.graders import catalogue
from evaluators.graders.catalogue import check_plugins, known_graders, load_grader
from evaluators.graders.rules import RuleGrader
from registry_gate.errors import AssessmentError


class Renamed(RuleGrader):
    """A plugin's grader."""

    def __init__(self, **_arguments: object) -> None:
        super().__init__()
        self._identity = type(self._identity)(**{**vars(self._identity), "name": "mine"})


def explode(**_arguments: object) -> None:
    raise RuntimeError("no licence key")


def not_a_grader(**_arguments: object) -> object:
    return object()


@pytest.fixture
def plugins(monkeypatch):
    installed: list[EntryPoint] = []
    monkeypatch.setattr(
        catalogue,
        "entry_points",
        lambda group, name=None: [p for p in installed if p.group == group and name in (None, p.name)],
    )

    def install(name, value):
        installed.append(EntryPoint(name=name, value=value, group="registry_gate.graders"))

    return install


def fails(name, **arguments):
    with pytest.raises(AssessmentError) as caught:
        load_grader(name, **arguments)
    return str(caught.value)


def test_unknown_name_lists_the_known_ones(grader_directory, plugins):
    plugins("mine", f"{__name__}:Renamed")
    folder = grader_directory()
    assert fails("refusal-xl", directories=[folder.parent]) == (
        f"grader 'refusal-xl': expected one of caveat-rules, {folder.name}, harm-minilm, mine, refusal-minilm, "
        "refusal-rules, toxicity-rules, or the path of a directory with grader.yaml, got an unknown name"
    )


def test_path_of_a_directory_is_loaded(grader_directory):
    assert load_grader(str(grader_directory()), provider="cpu").identity.name == "words"


def test_path_that_holds_no_grader_is_refused(tmp_path):
    assert "expected a grader description, got no such file" in fails(str(tmp_path))


@pytest.mark.parametrize("text", ["kind: judge\nversion: 2024-99-99\n", "[" * 20_000], ids=["no date", "deep"])
def test_description_that_no_yaml_reader_can_take_is_refused(tmp_path, text):
    (tmp_path / "grader.yaml").write_text(text, encoding="utf-8")
    assert "grader.yaml: expected readable YAML, got: " in fails(str(tmp_path))


@pytest.mark.parametrize("kind", ["judges", None, 5, ["phrases"]])
def test_unknown_kind_is_refused_with_the_known_ones(grader_directory, kind):
    folder = grader_directory()
    with (folder / "grader.yaml").open("a", encoding="utf-8") as file:
        file.write(f"kind: {json.dumps(kind)}\n")
    assert fails(str(folder)) == (
        f"{folder / 'grader.yaml'}: kind: expected one of cascade, ensemble, judge, phrases, or none for an ONNX "
        f"grader, got {str(kind)!r}"
    )


def test_name_is_found_in_directories(grader_directory):
    folder = grader_directory(name="grader0")
    assert load_grader("grader0", directories=[folder.parent]).identity.name == "grader0"


def test_folder_whose_grader_has_another_name_is_refused(grader_directory):
    folder = grader_directory()
    assert fails(folder.name, directories=[folder.parent]).startswith(
        f"grader '{folder.name}' ({folder}): expected a grader that calls itself '{folder.name}', got 'words'"
    )


def test_directory_cannot_replace_a_shipped_grader(grader_directory):
    folder = grader_directory(name="refusal-rules")
    shadow = folder.rename(folder.parent / "refusal-rules")
    message = fails("refusal-rules", directories=[shadow.parent])
    assert "expected one grader of this name, got 2" in message
    assert "nothing replaces a grader silently" in message


def test_plugin_is_loaded_by_its_name(plugins):
    plugins("mine", f"{__name__}:Renamed")
    assert load_grader("mine").identity.name == "mine"
    assert [identity.name for identity in check_plugins()] == ["mine"]
    assert "mine" in known_graders()


def test_plugin_cannot_replace_a_shipped_grader(plugins):
    plugins("refusal-rules", f"{__name__}:Renamed")
    assert "expected one grader of this name, got 2" in fails("refusal-rules")


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("no_such_module:Grader", "ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{__name__}:Missing", "AttributeError"),
        (f"{__name__}:explode", "RuntimeError: no licence key"),
        (f"{__name__}:not_a_grader", "expected an object with `identity` and `grade`, got object"),
    ],
)
def test_plugin_that_does_not_load_is_named_with_its_cause(plugins, value, cause):
    plugins("broken", value)
    assert fails("broken").startswith(f"grader plugin 'broken' ({value}): ")
    assert cause in fails("broken")
    with pytest.raises(AssessmentError, match="grader plugin 'broken'"):
        check_plugins()


def test_unknown_provider_is_refused_for_every_kind_of_grader():
    assert fails("refusal-rules", provider="tpu") == (
        "grader provider: expected one of auto, tensorrt, cuda, cpu, got 'tpu'"
    )
