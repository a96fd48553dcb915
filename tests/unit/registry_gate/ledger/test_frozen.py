"""Places below the artifact root: every spelling that some store takes for the same file is the same place."""

from __future__ import annotations

import os
import posixpath
import time
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from registry_gate.errors import FormError, LedgerError
from registry_gate.ledger import Ledger
from registry_gate.ledger.frozen import (
    WRITE_LEASE,
    WRITES_KEPT,
    FrozenError,
    FrozenTrees,
    Held,
    OutsideRootError,
    fold,
    spellings,
    touches,
)

TREE = "7/models/m-0123abc/artifacts"
LOCATION = f"mlflow-artifacts:/{TREE}"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 25, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> FrozenTrees:
    """A ledger beside MLflow's table of versions, with one version whose tree is frozen."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'mlflow.db'}"
    ledger = Ledger.connect(uri, clock)
    with ledger.engine.begin() as connection:
        connection.execute(text("CREATE TABLE model_versions (storage_location TEXT, source TEXT, current_stage TEXT)"))
    made = FrozenTrees(ledger)
    register(made, LOCATION)
    freeze(made, TREE)
    return made


def register(trees: FrozenTrees, location: str) -> None:
    with trees._ledger.engine.begin() as connection:
        statement = text("INSERT INTO model_versions VALUES (:location, 'models:/m-1', 'None')")
        connection.execute(statement, {"location": location})


def freeze(trees: FrozenTrees, place: str, location: str = LOCATION, decision: str = "d-1") -> None:
    with trees._ledger.transaction() as connection:
        trees.freeze(connection, [place], location=location, decision=decision)


def is_refused(trees: FrozenTrees, path: str, *, deletes: bool = False) -> bool:
    """Whether writing a path is refused, for whichever reason."""
    try:
        trees.check(spellings(path), also_below=deletes)
    except (FrozenError, OutsideRootError):
        return True
    return False


# What people and attackers put into paths: ordinary names, and everything that some store, proxy or system ignores.
NOISE = st.sampled_from(["", ".", "./.", "\u200b", "\u200d", "\ufe0f", "\u00ad", " ", "."])
SEGMENT = st.text(
    st.one_of(
        st.sampled_from("amsx7-.%\\/ \u017f\u212a\uff41\uff0f\u2024\u2025\u0130\u0131\u00df"),
        st.characters(codec="utf-8"),
    ),
    max_size=12,
)


def disguised(data: st.DataObject, path: str) -> str:
    """A path that a case-folding, Unicode-normalising, percent-decoding store takes for `path`."""
    segments = []
    for segment in path.split("/"):
        letters = []
        for letter in segment:
            changed = data.draw(st.sampled_from([letter, letter.upper(), letter.lower()]))
            changed = data.draw(st.sampled_from([changed, unicodedata.normalize("NFD", changed)]))
            if data.draw(st.integers(0, 9)) == 0:
                changed = "".join(f"%{byte:02X}" for byte in changed.encode())
            letters.append(changed)
        segments.append("".join(letters))
        if data.draw(st.integers(0, 4)) == 0:
            segments.append(data.draw(st.sampled_from(["", ".", "%2e", "./."])))
    return data.draw(st.sampled_from(["/", "//", "\\", "/./", "%2F"])).join(segments)


@given(data=st.data(), inside=st.lists(SEGMENT, max_size=3))
def test_no_disguise_of_a_path_inside_a_frozen_tree_is_allowed(trees, data, inside):
    path = "/".join([TREE, *inside])
    assert is_refused(trees, disguised(data, path))


@given(prefix=st.lists(SEGMENT, max_size=3), suffix=st.lists(SEGMENT, max_size=3), decode=st.integers(0, 2))
def test_whatever_the_system_would_resolve_into_a_frozen_tree_is_refused(trees, prefix, suffix, decode):
    """Stated with the system's own functions: `os.path.normpath`, then case and Unicode form."""
    path = "/".join([*prefix, TREE.upper(), *suffix])
    seen = path
    for _ in range(decode):
        seen = unquote(seen)
    for form in ("NFC", "NFD", "NFKC"):
        meant = unicodedata.normalize(form, os.path.normpath(seen)).casefold()
        if "\0" not in meant and (meant == TREE or meant.startswith(TREE + "/")):
            assert is_refused(trees, path)


@given(path=st.lists(SEGMENT, min_size=1, max_size=5).map("/".join))
def test_folding_again_changes_nothing_and_the_result_has_no_odd_segment(path):
    try:
        place = fold(path)
    except OutsideRootError:
        return
    assert fold(place) == place
    assert not {"", ".", ".."} & set(place.split("/")) or place == ""


@given(
    name=SEGMENT,
    change=st.sampled_from([str.upper, str.lower, str.swapcase, str.casefold, str.title]),
    form=st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]),
)
def test_names_that_differ_in_case_or_form_only_are_one_place(name, change, form):
    # Upper and lower case of some letters are no pair (a dotless i becomes I, which becomes i): only true pairs count.
    assume(change(name).casefold() == name.casefold())
    try:
        place = fold(name)
    except OutsideRootError:
        with pytest.raises(OutsideRootError):
            fold(unicodedata.normalize(form, change(name)))
    else:
        assert fold(unicodedata.normalize(form, change(name))) == place


@pytest.mark.parametrize("depth", range(1, 5))
def test_deleting_a_directory_above_is_refused_and_writing_beside_is_not(trees, depth):
    above = "/".join(TREE.split("/")[:depth])
    assert is_refused(trees, above, deletes=True)
    assert is_refused(trees, quote(above.upper()) + "//", deletes=True)
    assert not is_refused(trees, f"{above}_beside/file")
    assert not is_refused(trees, f"{above}_beside", deletes=True)


def test_deleting_the_root_is_refused_while_anything_is_frozen(trees):
    for root in ("", ".", "/", "./"):
        assert is_refused(trees, root, deletes=True)


@pytest.mark.parametrize("wildcard", ["7/models/m-0123ab_", "%25", "_/models", "7/%25"])
def test_wildcards_of_the_database_are_letters(trees, wildcard):
    assert not is_refused(trees, wildcard, deletes=True)


@pytest.mark.parametrize(
    "path", ["..", "a/../b", "a/%2e%2e/b", "\uff0e\uff0e/b", "a/\u2025/b", "a\\..\\b", "x\0y", ".. /a"]
)
def test_a_path_that_climbs_is_no_place(path):
    with pytest.raises(OutsideRootError):
        spellings(path)


def test_a_path_that_is_encoded_without_end_is_no_place():
    path = "a/.."
    for _ in range(20):
        path = quote(path, safe="")
    with pytest.raises(OutsideRootError, match="percent-encoded at most"):
        spellings(path)


@given(one=st.lists(st.sampled_from("ab"), max_size=3), other=st.lists(st.sampled_from("ab"), max_size=3))
def test_places_touch_when_one_holds_the_other(one, other):
    short, long = sorted((one, other), key=len)
    assert touches("/".join(one), "/".join(other)) == (long[: len(short)] == short)


# ---------------------------------------------------------------------------------------------------------------------
# How long, and who else


@pytest.fixture
def own(tmp_path: Path, clock: Clock) -> FrozenTrees:
    ledger = Ledger.connect(f"sqlite:///{tmp_path / 'mlflow.db'}", clock)
    with ledger.engine.begin() as connection:
        connection.execute(text("CREATE TABLE model_versions (storage_location TEXT, source TEXT, current_stage TEXT)"))
    return FrozenTrees(ledger)


def set_stage(trees: FrozenTrees, location: str, stage: str) -> None:
    with trees._ledger.engine.begin() as connection:
        statement = text("UPDATE model_versions SET current_stage = :stage WHERE storage_location = :location")
        connection.execute(statement, {"stage": stage, "location": location})


def test_a_base_is_frozen_until_the_last_version_that_needs_it_is_gone(own):
    for number in (1, 2):
        register(own, f"adapter-{number}")
        for _ in range(2):
            freeze(own, "base", f"adapter-{number}", f"d-{number}")
    assert is_refused(own, "base/file")
    set_stage(own, "adapter-1", "Deleted_Internal")
    with pytest.raises(FrozenError, match="frozen by decision d-2"):
        own.check(["base/file"])
    set_stage(own, "adapter-2", "Deleted_Internal")
    assert not is_refused(own, "base/file")
    assert not is_refused(own, "", deletes=True)
    set_stage(own, "adapter-2", "Archived")
    assert is_refused(own, "base/file")


def test_a_write_keeps_promotions_out_until_it_ends_or_nobody_extends_it(own, clock):
    def promote() -> None:
        with own._ledger.transaction() as connection:
            held = Held(places=("tree",), known=own.writes_at(["tree"]), began_s=time.monotonic())
            own.require_no_writes(connection, held)

    begun = own.begin_write(["tree/a", "elsewhere"])
    with pytest.raises(FormError, match="a write under way at tree"):
        promote()
    clock.now += WRITE_LEASE - timedelta(seconds=1)
    own.extend_write(begun)
    clock.now += timedelta(seconds=2)
    with pytest.raises(FormError) as caught:
        promote()
    assert caught.value.code == "artifact_being_written"
    own.end_write(begun)
    promote()
    own.begin_write(["tree/a"])
    clock.now += WRITE_LEASE + timedelta(seconds=1)
    promote()


def test_a_write_that_ended_between_reading_and_promotion_is_noticed(own, clock):
    def require(held: Held) -> None:
        with own._ledger.transaction() as connection:
            own.require_no_writes(connection, held)

    def read() -> Held:
        return Held(places=("tree", "base"), known=own.writes_at(["tree", "base"]), began_s=time.monotonic())

    before = own.begin_write(["tree/a"])
    own.end_write(before)
    first = read()
    require(first)
    for place in ("base", "tree/b", "other"):
        own.end_write(own.begin_write([place]))
        if place == "other":
            require(first)
        else:
            with pytest.raises(FormError) as caught:
                require(first)
            assert caught.value.code == "form_changed"
            first = read()
    under_way = own.begin_write(["tree/a"])
    meanwhile = read()
    own.end_write(under_way)
    with pytest.raises(FormError, match="got a write in the meantime"):
        require(meanwhile)
    require(read())
    clock.now += WRITES_KEPT + timedelta(seconds=1)
    own.end_write(own.begin_write(["other"]))
    assert not own.writes_at(["tree"])
    with pytest.raises(FormError, match="a reading that took longer"):
        require(Held(places=("tree",), known=frozenset(), began_s=time.monotonic() - WRITES_KEPT.total_seconds()))


def test_no_promotion_comes_between_check_and_write_and_none_is_kept_out_afterwards(own):
    with own.exclusive(["tree/a"]):
        impatient = create_engine(own._ledger.engine.url, connect_args={"timeout": 0.1})
        with pytest.raises(LedgerError, match="locked"), FrozenTrees(Ledger(impatient)).exclusive(["other"]):
            pass
        impatient.dispose()
    with pytest.raises(ZeroDivisionError), own.exclusive(["tree/a"]):
        raise ZeroDivisionError
    freeze(own, "tree")


def test_without_a_ledger_nothing_is_checked_and_nothing_written(own):
    with own._ledger.engine.begin() as connection:
        connection.execute(text("DROP TABLE registry_gate_frozen"))
    attempts: list[Callable[[], object]] = [
        lambda: own.check(["a"]),
        lambda: own.begin_write(["a"]),
        lambda: own.exclusive(["a"]).__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(LedgerError):
            attempt()


def test_posix_paths_are_folded_as_posix_does_it():
    for path in ("a/./b//c/", "./a/b/c", "a//b/./c/."):
        assert fold(path) == posixpath.normpath(path) == "a/b/c"
