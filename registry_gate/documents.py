"""Read YAML documents strictly: bytes in, validated model out, or errors with file, line, key, expected and got.

Policies, policy sets, waivers, policy tests and batteries all come through here, so that a misspelt key is refused
in the same words everywhere. What a document means is for the module that owns its model.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import ConstructorError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
)
from ruamel.yaml.parser import RoundTripParser

from registry_gate.errors import PolicyError

MAX_DOCUMENT_BYTES = 100_000
"""Larger documents are refused before parsing: no policy is that long, and reading more would take over a second."""

MAX_QUOTED = 300
"""Most characters of what the parser says; people read it."""

MAX_NESTING = 40
"""The parser's time grows with the square of the nesting; policies nest to 8."""

MAX_VALUES = 3_000
"""Most keys, values and lists of a file; what follows must not take over a second either."""

MAX_DIGITS = 15
"""Longest whole number: what is longer is a slip, and some of it no machine number holds exactly."""

MAX_SENTENCE = 800
"""What a message quotes may be as long as the file."""

API_VERSION = "registry-gate/v1"

M = TypeVar("M", bound="Document")


class Strict(BaseModel):
    """Base of everything read from outside: unknown keys and silently converted types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Document(Strict):
    """A document with the Kubernetes-like head that all kinds share."""


@dataclass(frozen=True)
class EachOnce:
    """Beside the type of a list that is a set by its meaning: an entry that stands there twice is a slip, refused.

    Whoever counts what they read (two signers, three approvers) would count more than there are.

    Args:
        what: What an entry is, for the sentence.
    """

    what: str

    def check(self, entries: Any) -> Any:
        """The entries as they are.

        Raises:
            ValueError: One of them is there more than once.
        """
        for entry in entries:
            if (times := entries.count(entry)) > 1:
                raise ValueError(f"expected each {self.what} once, got {entry!r} {times} times: name it once")
        return entries

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "uniqueItems": True}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong in a document.

    Args:
        file: Name shown to the author.
        line: 1-based line, 0 when the document as a whole is meant.
        key: Dotted path of the key, e.g. `spec.rules[0].atMost`.
        message: What was expected, what came, and the fix where one is known.
    """

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class DocumentError(PolicyError):
    """A document that was refused; `problems` holds every reason."""

    code = "document_invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, kw_only=True)
class RawDocument:
    """Parsed YAML with the place of every key.

    Args:
        file: Name shown to the author.
        data: The mapping, with ruamel's line marks.
        digest: `sha256:` of the bytes as they were read.
    """

    file: str
    data: CommentedMap
    digest: str

    @property
    def kind(self) -> str:
        """The document's `kind`, or an empty string."""
        kind = self.data.get("kind")
        return kind if isinstance(kind, str) else ""

    def line_of(self, location: Sequence[str | int]) -> int:
        """1-based line of the key at `location`, or of its nearest ancestor that exists."""
        node: Any = self.data
        line: int = node.lc.line
        for step in location:
            if isinstance(node, CommentedMap) and step in node:
                line = node.lc.key(step)[0]
                node = node[step]
            elif isinstance(node, CommentedSeq) and isinstance(step, int) and step < len(node):
                line = node.lc.item(step)[0]
                node = node[step]
            else:
                break
        return line + 1

    def problem(self, location: Sequence[str | int], message: str) -> Problem:
        """A problem at `location` of this document."""
        return Problem(file=self.file, line=self.line_of(location), key=dotted(location), message=message)


def refuse_empty_keys(raw: RawDocument) -> None:
    """Refuse keys with nothing behind them: what a commented-out demand leaves would silently demand nothing.

    Raises:
        DocumentError: There are some; it lists all of them.
    """
    problems = [
        raw.problem(
            location,
            "expected a value, got nothing: give one, or take the key away; an empty key demands nothing",
        )
        for location in _empty(raw.data, ())
    ]
    if problems:
        raise DocumentError(problems)


def _empty(node: Any, location: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if node is None:
        yield location
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _empty(value, (*location, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _empty(value, (*location, number))


def dotted(location: Sequence[str | int]) -> str:
    """`("spec", "rules", 0, "id")` -> `spec.rules[0].id`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read_documents(path: Path) -> list[RawDocument]:
    """All YAML documents of a file.

    Raises:
        DocumentError: The file cannot be read or is no valid YAML of mappings.
    """
    try:
        data = path.read_bytes()
    except OSError as err:
        raise DocumentError(
            [Problem(file=str(path), line=0, key="", message=f"expected a readable file, got {err.strerror or err}")]
        ) from err
    return parse_documents(data, str(path))


def parse_documents(data: bytes, file: str) -> list[RawDocument]:
    """Parse bytes into documents. See `read_documents`."""
    try:
        parsed = _parsed(data)
    except _RefusedError as err:
        raise DocumentError([Problem(file=file, line=err.line, key="", message=err.message)]) from err
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    documents = []
    for number, doc in enumerate(parsed):
        name = file if len(parsed) == 1 else f"{file}#{number + 1}"
        raw = RawDocument(file=name, data=doc, digest=digest)
        problems = [raw.problem(location, message) for location, message in _odd_values(doc, ())]
        if problems:
            raise DocumentError(problems)
        documents.append(raw)
    return documents


class _RefusedError(Exception):
    """Bytes that are no plain YAML documents: the 1-based line, 0 for all of them, and what was expected and came."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@lru_cache(maxsize=64)
def _parsed(data: bytes) -> tuple[CommentedMap, ...]:
    """The documents in some bytes; remembered, because a set is read again whenever one of its files changes.

    What is returned is shared: nobody may change it.

    Raises:
        _RefusedError: The bytes are no plain YAML of mappings.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise _RefusedError(0, f"expected at most {MAX_DOCUMENT_BYTES} bytes, got {len(data)}: split the file")
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise _RefusedError(
                1, f"expected UTF-8 text without a byte order mark, got one of {encoding}: save it as plain UTF-8"
            )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise _RefusedError(
            data[: err.start].count(b"\n") + 1,
            f"expected UTF-8 text, got byte 0x{data[err.start]:02x}: save it as UTF-8",
        ) from err
    if (odd := _MISLEADING.search(text)) is not None:
        what = "the invisible character" if odd[0].isprintable() or ord(odd[0]) > 0x9F else "the control character"
        raise _RefusedError(
            text[: odd.start()].count("\n") + 1,
            f"expected valid YAML, got: {what} U+{ord(odd[0]):04X}, which shows text otherwise than it is: take it out",
        )
    try:
        loader = YAML(typ="rt", pure=True)
        loader.Parser = _PlainParser
        loader.Constructor = _Constructor
        loader.allow_duplicate_keys = False
        parsed = [doc for doc in loader.load_all(io.StringIO(text)) if doc is not None]
    except _RefusedError:
        raise
    except MarkedYAMLError as err:
        line = err.problem_mark.line + 1 if err.problem_mark is not None else 0
        # Of a key that stands there twice the parser quotes both values, however long.
        problem = str(err.problem or err).split("\n")[0].split(" with value ")[0][:MAX_QUOTED]
        hint = " (indent with spaces, not tabs)" if "\\t" in problem or "tab" in problem else ""
        raise _RefusedError(line, f"expected valid YAML, got: {problem}{hint}") from err
    except Exception as err:  # whatever else the parser may raise
        raise _RefusedError(
            0,
            f"expected valid YAML, got: {str(err).splitlines()[0][:MAX_QUOTED] if str(err) else type(err).__name__}",
        ) from err
    if not parsed:
        raise _RefusedError(0, "expected a YAML document, got an empty file")
    for doc in parsed:
        if not isinstance(doc, CommentedMap):
            raise _RefusedError(1, f"expected a mapping with apiVersion, kind, metadata and spec, got {_what(doc)}")
    return tuple(parsed)


_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "UTF-8",
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}

_MISLEADING = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]|\r(?!\n)")
"""Control characters, and those that turn the direction of writing: a reviewer would read another rule than the gate
(CVE-2021-42574). So would they with line ends that only the parser sees (U+0085, U+2028, U+2029, a lone carriage
return): what follows one within a comment is no comment."""

_LONG_NUMBER = re.compile(rf"[-+]?[0-9_]{{{MAX_DIGITS + 1},}}")


class _Constructor(RoundTripConstructor):
    """Says where a value stands that is none: ruamel raises ValueError for 2027-02-30 and IndexError for `+_`."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except YAMLError:
            raise
        except Exception as err:
            problem = f"{_shown(node.value)}, which is no value ({err}): correct it, or put it in quotes"
            raise ConstructorError(None, None, problem, node.start_mark) from err


class _PlainParser(RoundTripParser):
    """Refuses everything by which YAML says more than it shows, before anything is built from it.

    Raises:
        _RefusedError: When the first such thing is taken from the parser.
    """

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self._values = 0
        # Of each open collection: whether it is a mapping, and how many nodes it has. Every other of those is a key.
        self._opened: list[tuple[bool, int]] = []

    def get_event(self) -> Any:
        event = super().get_event()
        if event is not None and (message := self._refused(event)) is not None:
            raise _RefusedError(event.start_mark.line + 1, message)
        return event

    def _refused(self, event: Event) -> str | None:
        if isinstance(event, DocumentStartEvent) and (event.version is not None or event.tags):
            return "expected plain YAML, got a directive (%YAML or %TAG), which changes what values mean: leave it out"
        if isinstance(event, CollectionEndEvent):
            self._opened.pop()
        if not isinstance(event, NodeEvent):
            return None
        opened = self._opened
        is_key = bool(opened) and opened[-1][0] and opened[-1][1] % 2 == 0
        if opened:
            opened[-1] = (opened[-1][0], opened[-1][1] + 1)
        self._values += 1
        if self._values > MAX_VALUES:
            return f"expected at most {MAX_VALUES} keys and values in a file, got more: split it"
        # Anchors can multiply a small file into gigabytes ("billion laughs") and hide what a rule says.
        if isinstance(event, AliasEvent):
            return f"expected plain YAML, got an alias (*{event.anchor}): write the value out"
        if event.anchor is not None:
            return f"expected plain YAML, got an anchor (&{event.anchor}): write every value out where it belongs"
        tag = getattr(event, "tag", None)
        if tag is not None:
            return f"expected plain YAML, got a tag ({_shown(str(tag))}): write the value alone"
        if isinstance(event, CollectionStartEvent):
            if is_key:
                return "expected a key that is a word, got a list or mapping"
            opened.append((isinstance(event, MappingStartEvent), 0))
            if len(opened) > MAX_NESTING:
                return f"expected at most {MAX_NESTING} levels, got more"
        if isinstance(event, ScalarEvent) and event.style is None:
            if event.value == "<<":
                return "expected plain YAML, got a merge key (<<): write every key out where it belongs"
            if _LONG_NUMBER.fullmatch(event.value):
                return _too_long(event.value)
        return None


def _too_long(number: object) -> str:
    return f"expected a whole number of at most {MAX_DIGITS} digits, got {_shown(number)}: correct it, or quote it"


def _odd_values(node: Any, location: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(location, message) of keys that are no text and of numbers that are too long, however they are written."""
    if isinstance(node, CommentedMap):
        for key, value in node.items():
            if not isinstance(key, str):
                # Two keys, 1 and "1", would become one.
                yield location, f"expected keys that are text, got {_shown(_plain(key))}: put it in quotes"
            else:
                yield from _odd_values(value, (*location, key))
    elif isinstance(node, CommentedSeq):
        for number, value in enumerate(node):
            yield from _odd_values(value, (*location, number))
    elif isinstance(node, int) and abs(node) >= 10**MAX_DIGITS:
        yield location, _too_long(int(node))


def validate(raw: RawDocument, model: type[M], kind: str) -> M:
    """Validate a parsed document against its model.

    Raises:
        DocumentError: With one problem for each thing wrong, in file order.
    """
    problems = []
    for key, want in (("apiVersion", API_VERSION), ("kind", kind)):
        got = raw.data.get(key)
        if got != want:
            problems.append(raw.problem((key,), f"expected {want!r}, got {_shown(got)}"))
    if problems:
        raise DocumentError(problems)
    try:
        return model.model_validate(_plain(raw.data))
    except ValidationError as err:
        errors = err.errors(include_url=False)
        for error in errors:
            location = error["loc"]
            # A container that is "too short" only because its item was refused says nothing new.
            if any(other["loc"][: len(location)] == location and other["loc"] != location for other in errors):
                continue
            problems.append(raw.problem(location, _explain(error, model, location)))
        raise DocumentError(sorted(problems, key=lambda problem: problem.line)) from err


def _plain(node: Any) -> Any:
    """ruamel's containers and scalars as plain Python values, so that strict validation sees what was written."""
    if isinstance(node, CommentedMap):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return tuple(_plain(value) for value in node)
    if isinstance(node, bool) or node is None:
        return node
    for plain in (str, int, float):
        if isinstance(node, plain):
            return plain(node)
    return node


def _explain(error: Any, model: type[BaseModel], location: tuple[str | int, ...]) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"unknown key; expected one of {', '.join(known)}, got {str(location[-1])!r}{hint}"
    if kind == "missing":
        return f"expected the key {str(location[-1])!r}, got nothing: add it"
    if kind in ("value_error", "assertion_error"):
        message = str(error["ctx"]["error"])
        return message if len(message) <= MAX_SENTENCE else f"{message[:MAX_SENTENCE]}..."
    got = error.get("input")
    if (expected := _expected(kind, error.get("ctx", {}))) is not None:
        return f"expected {expected}, got {_what(got)}{_hint(kind, got)}"
    message = error["msg"]
    return f"expected: {message[0].lower() + message[1:]}; got {_shown(got)}"


_TYPES = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
}

_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}

_NUMBER = re.compile(r"([0-9]+)(?:[.,]([0-9]+))?\s*(%?)")


def _expected(kind: str, about: Any) -> str | None:
    """What a value should have been, in words for people who do not program; None where pydantic's must do."""
    if kind == "literal_error":
        return str(about["expected"])
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"{words} {about[name]}"
    if kind == "too_short" and about["min_length"] == 1:
        return "at least one item"
    if kind == "string_too_short" and about["min_length"] == 1:
        return "text"
    return _TYPES.get(kind)


def _hint(kind: str, got: Any) -> str:
    """What to write instead, where that is plain; beginning with its stop."""
    if kind == "tuple_type" and isinstance(got, str | int | float) and not isinstance(got, bool):
        return f"; write [{got}]" if len(str(got)) <= 80 else ""
    if kind in ("int_type", "float_type") and isinstance(got, str):
        number = _NUMBER.fullmatch(got)
        if number is not None and number[3]:
            return f"; for {got} write {float(f'{number[1]}.{number[2] or 0}') / 100:g}"
        if number is not None:
            return f"; write {number[1]}{f'.{number[2]}' if number[2] else ''}, without quotes"
    if kind == "bool_type" and isinstance(got, str) and got.lower() in _YES_OR_NO:
        return f"; write {_YES_OR_NO[got.lower()]}"
    return ""


_YES_OR_NO = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


def _what(value: Any) -> str:
    """A value as its author knows it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list | tuple):
        kind = "keys with values" if isinstance(value, dict) else "a list"
        return kind if value else "none"
    return _shown(value)


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that are allowed at `location` of the model."""
    current: Any = model
    for step in location:
        current = _models_in(current)
        if current is None:
            return []
        if isinstance(step, int):
            continue
        for name, field in current.model_fields.items():
            if step in (name, field.alias):
                current = field.annotation
                break
    current = _models_in(current)
    return sorted(field.alias or name for name, field in current.model_fields.items()) if current is not None else []


def _models_in(annotation: Any) -> Any:
    """The pydantic model that an annotation holds (`X`, `tuple[X, ...]`, `X | None`), or None."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    for argument in typing.get_args(annotation):
        found = _models_in(argument)
        if found is not None:
            return found
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
