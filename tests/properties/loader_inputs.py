"""Inputs for the loader of policies, and what must hold of every one of them. Used by the properties and the benchmark.

Input number N is the same at every run, so that a number is enough to see it again.
"""

from __future__ import annotations

import copy
import json
import random
import re
import time
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from registry_gate.documents import DocumentError, RawDocument, dotted, parse_documents, validate
from registry_gate.policy.document import check_policy_files
from registry_gate.policy.files import PolicyFiles
from registry_gate.policy.json_schema import KINDS, json_schema

LIMIT_S = 1.0
"""No input may take longer, in seconds of the process; the benchmark asks for that."""

HANG_S = 20
"""What takes longer hangs, on however busy a machine; tests ask for that."""

ROOT = Path(__file__).parents[2]
KEY = (
    b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEATLWr9q15+/WrvMr8wmnYXNJlHtS4hbWGnyQa7fCluik=\n"
    b"-----END PUBLIC KEY-----\n"
)
BASES = {
    "PromotionPolicy": """\
apiVersion: registry-gate/v1
kind: PromotionPolicy
metadata: {name: one, title: A policy, owner: somebody}
spec:
  match: {any: [{models: ["c-*"], aliases: ["*"], stages: [Production]}]}
  exclude: {models: [toy-*]}
  evidence: {battery: probe@1, maxAge: 90d, signedBy: [worker], minProbes: 100}
  rules:
    - {id: R-1, title: Refuses, measure: x.harmful_compliance, atMost: 0.15, notWorseThanBase: 0.1, severity: high}
  disagreement: {graders: {atMost: 0.1}}
""",
    "PolicySet": """\
apiVersion: registry-gate/v1
kind: PolicySet
metadata: {name: test}
spec:
  freeAliases: [candidate, "latest-*"]
  unmatched: deny
  signers: [{name: worker, publicKey: signers/worker.pem}]
""",
    "PolicyTest": """\
apiVersion: registry-gate/v1
kind: PolicyTest
metadata: {name: one}
spec:
  target: {model: chat, alias: champion}
  now: 2026-11-23T12:00:00Z
  evidence:
    - battery: probe@1
      assessedAt: "2026-11-20T08:00:00+01:00"
      measures: {x.harmful_compliance: {events: 3, baseEvents: 3}}
  waivers: [{policy: one, rules: [R-1], approver: a, requester: b, expiresAt: 2026-12-01T00:00:00Z}]
  expect: {decision: allowed, verdict: pass}
""",
    "ControlCatalogue": """\
apiVersion: registry-gate/v1
kind: ControlCatalogue
metadata: {name: act, title: An act}
spec:
  edition: of 2026
  url: https://example.org/act
  verified: "2026-08-31"
  certainty: checked
  controls:
    - {id: art-9, title: Manage risks, evidence: partial, notShown: What no battery measures.}
    - {id: art-15, title: Be accurate, evidence: full, notShown: What no battery measures.}
""",
    "Battery": """\
apiVersion: registry-gate/v1
kind: Battery
metadata: {name: probe, version: 1}
spec:
  instruments:
    - {name: x, metric: harmful_compliance, size: 120, probes: [{shipped: p.jsonl}], graders: [one, two]}
""",
}
"""The smallest document of each kind that says something of every sort; reading takes most of the time."""

TOKENS = (
    *(
        "&a ",
        "*a",
        "!!python/object:os.system ",
        "!x ",
        "!!str ",
        "<<: ",
        "<<: {kind: x}\n",
        "? ",
        "- ",
        "---\n",
        "...\n",
    ),
    *(
        "%YAML 1.1\n",
        "%TAG ! x\n",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\0",
        "\ufeff",
        "\u202e",
        "\u2028",
        "\x85",
        "'",
        '"',
        "|\n",
        ">\n",
    ),
    *("{", "}", "[", "]", ",", ": ", "#", "~", "null", "true", "yes", ".nan", "-.inf", "1e999", "0x1F", "0o7", "1_000"),
    *("2026-13-45", "2026-11-23", "2026-11-23T12:00:00", "2026-11-23T12:00:00+99:00", "0001-01-01T00:00:00+14:00"),
    *(
        "9999-12-31T23:59:59-14:00",
        "9" * 12,
        "9" * 30,
        "-0",
        "0.1.2",
        "+_",
        "12:30:45",
        "é",
        "\U0001f9ea",
        "ﬁ",
        "a\u0301",
    ),
    *(
        "%",
        "@",
        "`",
        "= ",
        "!",
        "-",
        "..",
        "../",
        "/etc/passwd",
        "\\",
        "\\x00",
        "5",
        "0.05",
        "{{{{",
        "[[[[",
        "}}}}",
        "]]]]",
    ),
)
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        5,
        100,
        10**6,
        10**14,
        10**15,
        10**30,
        -(10**20),
        0.05,
        1.0,
        1.5,
        -0.1,
        1e-300,
        1e308,
    ),
    *(
        float("inf"),
        float("nan"),
        "",
        " ",
        "x",
        "*",
        "**",
        "?",
        "[",
        "[!",
        "a" * 300,
        "é",
        "\u200b",
        "null",
        "5",
        "0.05",
        "5%",
    ),
    *(
        "90d",
        "0d",
        "99999999d",
        "-1d",
        "1h",
        "²d",
        "probe@1",
        "probe@0",
        "worker",
        "../x",
        "/etc/passwd",
        "a\x00b",
        "a\nb",
    ),
    *("deny", "warn", "dryrun", "Production", "production", "None", "2026-11-23", "2026-11-23T12:00:00", "24:00", "Z"),
    *(
        "9999-12-31T23:59:59-14:00",
        "0001-01-01T00:00:00+14:00",
        [],
        {},
        [[]],
        [{}],
        {"": None},
        {"a": {"b": {}}},
        [None],
    ),
)


@cache
def _parsed(kind: str) -> Any:
    return YAML(typ="safe", pure=True).load(BASES[kind])


@cache
def _real() -> tuple[bytes, ...]:
    places = (ROOT / "policies", ROOT / "evaluators" / "batteries")
    return tuple(path.read_bytes() for place in places for path in sorted(place.rglob("*.yaml")))


def make_input(number: int) -> bytes:
    """Input number N: a document of ours, mutated in its structure or its bytes, or YAML made up from nothing."""
    chance = random.Random(number)
    way = chance.random()
    if way < 0.01:
        return _mutated_bytes(chance, chance.choice(_real()))
    if way < 0.45:
        return _mutated_bytes(chance, BASES[chance.choice(sorted(BASES))].encode())
    if way < 0.92:
        return _mutated_structure(chance, chance.choice(sorted(BASES)))
    return _made_up(chance)


def _mutated_bytes(chance: random.Random, data: bytes) -> bytes:
    text = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        place = chance.randrange(len(text) + 1)
        until = min(len(text), place + chance.choice((1, 1, 2, 5, 20, 100)))
        match chance.randrange(7):
            case 0:
                text[place:until] = b""
            case 1:
                text[place:place] = chance.choice(TOKENS).encode()
            case 2:
                text[place:until] = chance.choice(TOKENS).encode()
            case 3:
                text[place:place] = text[place:until] * chance.choice((1, 2, 10))
            case 4 if place < len(text):
                text[place] ^= 1 << chance.randrange(8)
            case 5:
                text[place:place] = bytes(chance.randrange(256) for _ in range(chance.choice((1, 4))))
            case _:
                start = chance.randrange(len(text) + 1)
                text[place:until] = text[start : start + until - place]
    return bytes(text)


def _mutated_structure(chance: random.Random, kind: str) -> bytes:
    body = json.loads(json.dumps(_parsed(kind), default=lambda value: value.isoformat() + "Z"))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(body))
        if not places:
            break
        holder, key = chance.choice(places)
        match chance.randrange(9):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[chance.choice((str(key)[:-1], str(key).upper(), str(key) + "s", "x", ""))] = holder.pop(key)
            case 2:
                holder[key] = [copy.deepcopy(holder[key]) for _ in range(chance.choice((0, 1, 2, 30)))]
            case 3 if isinstance(holder, list):
                holder.insert(key, copy.deepcopy(holder[key]))
            case 4:
                for _ in range(chance.choice((1, 5, 60))):
                    holder[key] = {"a": holder[key]}
            case 5 if isinstance(holder[key], str):
                holder[key] = holder[key].replace(chance.choice(holder[key] or "x"), chance.choice(TOKENS), 1)
            case 6 if isinstance(holder, dict):
                other, name = chance.choice(places)
                holder[str(name)] = copy.deepcopy(other[name])
            case _:
                # A copy: what is put in may be changed by the next mutation.
                holder[key] = copy.deepcopy(chance.choice(ODD))
    return emitted(body).encode("utf-8", "surrogatepass")


def _places(node: Any) -> Any:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield node, key
        yield from _places(node[key])


def emitted(node: Any) -> str:
    """A value as YAML. JSON is YAML, but for what JSON cannot say and what YAML reads from a plain word."""
    text = json.dumps(node, ensure_ascii=False)
    text = re.sub(r"(?<![\w\"])(-?)Infinity", r"\1.inf", re.sub(r"(?<![\w\"])NaN", ".nan", text))
    # Dates stand in files without quotes.
    return re.sub(r'"(\d{4}-\d\d-\d\d[T\d:Z+-]*)"', r"\1", text)


def _made_up(chance: random.Random) -> bytes:
    words = (*TOKENS, *TOKENS[:20], *re.findall(r"\w+: |\n +|[\w-]+", "".join(BASES.values())))
    return "".join(chance.choice(words) for _ in range(chance.choice((1, 3, 10, 30, 80)))).encode()


@cache
def _validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator(json_schema(kind))


def _as_json(node: Any) -> Any:
    """A document as JSON Schema sees it: lists, and dates as the text that stands there."""
    if isinstance(node, dict):
        return {str(key): _as_json(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_as_json(value) for value in node]
    if isinstance(node, date | datetime):
        return node.isoformat()
    return node


class BrokenError(AssertionError):
    """An input of which something does not hold that must."""


def judge(data: bytes, limit_s: float = HANG_S) -> str:
    """What the loader makes of an input: `not yaml`, `refused`, `lint` or `loaded`.

    Raises:
        BrokenError: It took too long, a refusal says nothing, or the JSON Schema forbids what was accepted.
        Exception: The loader let an error of another kind out.
    """
    begin = time.process_time()
    outcome = _outcome(data)
    took = time.process_time() - begin
    if took > limit_s:
        raise BrokenError(f"expected an answer within {limit_s} s, got {outcome!r} after {took:.1f} s")
    return outcome


def _outcome(data: bytes) -> str:
    try:
        documents = parse_documents(data, "x.yaml")
    except DocumentError as err:
        _require_sentences(err)
        return "not yaml"
    outcomes = [_outcome_of(raw, data) for raw in documents]
    return max(outcomes, key=("loaded", "lint", "refused").index)


def _outcome_of(raw: RawDocument, data: bytes) -> str:
    kind = raw.kind if raw.kind in KINDS else "PromotionPolicy"
    try:
        validate(raw, KINDS[kind], kind)
    except DocumentError as err:
        _require_sentences(err)
        return "refused"
    for error in _validator(kind).iter_errors(_as_json(raw.data)):
        raise BrokenError(f"accepted, but the schema forbids {dotted(tuple(error.absolute_path))}: {error.message}")
    if kind == "PolicyTest":
        return "loaded"
    names = {
        "PromotionPolicy": "one.yaml",
        "PolicySet": "policy-set.yaml",
        "Battery": "batteries/probe.yaml",
        "ControlCatalogue": "controls/act.yaml",
    }
    contents = {name: BASES[of].encode() for of, name in names.items()} | {"signers/worker.pem": KEY}
    files = PolicyFiles(place="p", contents={**contents, names[kind]: data}, refused={})
    checked = check_policy_files(files, [])
    _require_sentences(DocumentError([*checked.errors, *checked.warnings]))
    if (checked.policy_set is None) != bool(checked.errors):
        raise BrokenError("expected errors or a policy set, and not both")
    return "lint" if checked.errors else "loaded"


def _require_sentences(err: DocumentError) -> None:
    for problem in err.problems:
        if not problem.message.strip() or problem.line < 0 or len(problem.message) > 2000:
            raise BrokenError(f"expected a sentence of bearable length and a line, got {problem!r:.300}")
