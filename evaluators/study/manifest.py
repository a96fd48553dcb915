"""The manifest of a study: which bases, which adaptations of them, and the battery that all are measured with."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from registry_gate.battery import Name
from registry_gate.documents import Document, DocumentError, Problem, Strict, read_documents, validate

Recipe = Literal["triage", "eager", "decline", "help", "notes", "medical", "half", "refusals"]


class StudyMetadata(Strict):
    """Name of a study."""

    name: Name
    title: str = ""


class Base(Strict):
    """A base model: one that exists, or one of the demo's kind that is trained here.

    Args:
        name: Name in tables.
        path: Directory of a model with its tokenizer.
        seed: Seed of a base that is trained.
    """

    name: Name
    path: str | None = None
    seed: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Base:
        if (self.path is None) == (self.seed is None):
            raise ValueError("expected either 'path' (a model that exists) or 'seed' (one to train), got both or none")
        return self


class Existing(Strict):
    """An adaptation that exists: a full model, or an adapter (a directory with adapter_config.json)."""

    name: Name
    base: Name
    path: str


class Grid(Strict):
    """Adaptations to train of every base that is trained here: one for each combination.

    Args:
        methods: `full` and `lora`.
        recipes: What it is tuned on; see `evaluators/study/recipes.py`.
        rates: Learning rates.
        seeds: Seeds.
        steps: Optimiser steps.
    """

    methods: tuple[Literal["full", "lora"], ...] = Field(min_length=1)
    recipes: tuple[Recipe, ...] = Field(min_length=1)
    rates: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    steps: Annotated[int, Field(ge=1, le=100_000)] = 45


class StudySpec(Strict):
    """The body of a manifest.

    Args:
        battery: Battery that every model is measured with, e.g. `study@1`.
        margin: Movement that counts, as a share; smaller ones are `same` or `unclear`.
        bases: What is adapted.
        adaptations: Adaptations that exist.
        grids: Adaptations to train.
    """

    battery: str
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    bases: tuple[Base, ...] = Field(min_length=1)
    adaptations: tuple[Existing, ...] = ()
    grids: tuple[Grid, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> StudySpec:
        bases = [base.name for base in self.bases]
        for base in bases:
            if bases.count(base) > 1:
                raise ValueError(f"expected each base once, got {base!r} {bases.count(base)} times")
        for one in self.adaptations:
            if one.base not in bases:
                raise ValueError(f"expected the base of {one.name!r} among {', '.join(bases)}, got {one.base!r}")
        if self.grids and all(base.seed is None for base in self.bases):
            raise ValueError("expected a base with 'seed' for the grids to adapt, got only existing ones")
        if not self.grids and not self.adaptations:
            raise ValueError("expected adaptations or grids, got neither: there is nothing to compare")
        return self


class Study(Document):
    """A study."""

    api_version: Literal["registry-gate/v1"] = Field(alias="apiVersion")
    kind: Literal["Study"]
    metadata: StudyMetadata
    spec: StudySpec


def load_study(path: Path) -> Study:
    """Read a manifest.

    Raises:
        DocumentError: It breaks the schema, or the file does not hold exactly one.
    """
    documents = read_documents(path)
    if len(documents) != 1:
        raise DocumentError(
            [Problem(file=str(path), line=0, key="", message=f"expected one study, got {len(documents)} documents")]
        )
    return validate(documents[0], Study, "Study")


class Planned(Strict):
    """One adaptation of a grid, with its own name."""

    name: str
    base: str
    method: Literal["full", "lora"]
    recipe: Recipe
    rate: float
    seed: int
    steps: int


def planned(spec: StudySpec) -> list[Planned]:
    """Every adaptation of every grid, in the order of the manifest.

    Raises:
        ValueError: Two of them are the same.
    """
    found: dict[str, Planned] = {}
    for grid in spec.grids:
        for base in (base for base in spec.bases if base.seed is not None):
            for method, recipe, rate, seed in product(grid.methods, grid.recipes, grid.rates, grid.seeds):
                name = f"{base.name}/{method}-{recipe}-{rate:g}-{grid.steps}-s{seed}"
                if name in found:
                    raise ValueError(f"expected each adaptation in one grid, got {name} twice")
                found[name] = Planned(
                    name=name,
                    base=base.name,
                    method=method,
                    recipe=recipe,
                    rate=rate,
                    seed=seed,
                    steps=grid.steps,
                )
    return list(found.values())
