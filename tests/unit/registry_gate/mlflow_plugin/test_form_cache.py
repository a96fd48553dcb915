"""Manifests are remembered while nothing changed, and never longer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from form_files import form_files

from registry_gate.artifact import HashCache, LocalTree
from registry_gate.errors import FormError
from registry_gate.form import FormManifest
from registry_gate.mlflow_plugin import form_cache
from registry_gate.mlflow_plugin.form_cache import FormCache


class Place:
    """A form and its base on disk, read through one cache; counts how often they are really read."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.cache, self.hashes, self.reads = root, FormCache(), HashCache(), 0
        self.base = self.write("base", form_files(base=None, seed="base"))
        self.form = self.write("form", form_files(base="models:/base/1", seed="form"))
        read = form_cache.read_manifest

        def counted(*arguments: object, **options: object) -> FormManifest:
            self.reads += 1
            return read(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(form_cache, "read_manifest", counted)

    def write(self, name: str, files: dict[str, bytes]) -> Path:
        for path, data in files.items():
            (self.root / name / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name / path).write_bytes(data)
        return self.root / name

    def read(self) -> FormManifest:
        return self.cache.read(lambda: LocalTree(self.form, self.hashes), "form", self.base_tree)

    def base_tree(self, name: str, version: int) -> LocalTree:
        if name != "base":
            raise FormError(f"no {name}")
        return LocalTree(self.base, self.hashes)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are old enough for their times to tell them apart."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 60)


def replace(path: Path, data: bytes) -> None:
    """Other bytes of the same size at the same path, with the old modification time."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Place], object]] = {
    "weights": lambda p: replace(p.form / "model/model.safetensors", b"x" * 100),
    "settings": lambda p: (p.form / "model/generation_config.json").write_bytes(b'{"temperature": 2}'),
    "removed": lambda p: (p.form / "components/tokenizer/tokenizer.json").unlink(),
    "base": lambda p: replace(p.base / "model/model.safetensors", b"y" * 100),
}


@pytest.mark.usefixtures("settled")
def test_unchanged_form_is_read_once(place: Place) -> None:
    first = place.read()
    assert place.read() is first
    assert place.reads == 1
    assert place.cache.unchanged("form", first.digest) is True


def test_files_as_young_as_the_clock_is_coarse_are_read_again(place: Place) -> None:
    assert place.read() == place.read()
    assert place.reads == 2


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_is_seen(place: Place, change: str) -> None:
    before = place.read()
    CHANGES[change](place)
    assert place.cache.unchanged("form", before.digest) is False
    assert place.read().digest != before.digest


@pytest.mark.usefixtures("settled")
def test_base_that_comes_to_lie_elsewhere_is_seen(place: Place) -> None:
    before = place.read()
    place.base = place.write("other", form_files(base=None, seed="another base"))
    assert place.read().digest != before.digest


@pytest.mark.usefixtures("settled")
def test_form_that_is_gone_is_an_error_although_it_was_remembered(place: Place) -> None:
    digest = place.read().digest
    place.form.rename(place.root / "elsewhere")
    assert place.cache.unchanged("form", digest) is False
    with pytest.raises(FormError):
        place.read()


def test_what_was_never_read_cannot_be_told_and_another_digest_is_a_change(place: Place) -> None:
    assert place.cache.unchanged("form", "sha256:1") is None
    place.read()
    # Somebody who read it later found other bytes than whoever asks.
    assert place.cache.unchanged("form", "sha256:1") is False
