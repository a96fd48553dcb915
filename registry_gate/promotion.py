"""What is asked of the registry: which names would come to mean which model version, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DOMAINS = ("general", "medical", "legal", "finance", "public-sector", "child-facing")
"""Deployment domains that come with the program: each has a policy of its name, and limits for graders."""

PROMOTED_STAGES = ("Staging", "Production")
"""Stages that people deploy from. `None` and `Archived` are demotion."""


class TargetKind(StrEnum):
    """What kind of name a target is."""

    ALIAS = "alias"
    STAGE = "stage"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a promotion moves: an alias or a stage of a registered model.

    Args:
        kind: Alias or stage.
        model: Name of the registered model.
        name: The alias, or the stage in MLflow's spelling (`Production`).
        workspace: MLflow workspace; evidence and policies of one never serve another.
    """

    kind: TargetKind
    model: str
    name: str
    workspace: str = "default"

    def __str__(self) -> str:
        return f"{self.model}@{self.name}" if self.kind is TargetKind.ALIAS else f"{self.model}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class ModelVersionRef:
    """One row of the registry, identified so that a recreated row with the same number is another one.

    Args:
        name: Name of the registered model.
        version: Version number.
        created_ms: Creation time of the row, milliseconds since the epoch.
        location: Where its files are (MLflow's storage location).
        source: Source as registered, e.g. `models:/m-...`.
        workspace: MLflow workspace.
    """

    name: str
    version: int
    created_ms: int
    location: str
    source: str
    workspace: str = "default"

    def __str__(self) -> str:
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who asked.

    Args:
        name: User name; `anonymous` when the server authenticates nobody.
        kind: How the name is known: `basic-auth`, `proxy`, `os-user`, `anonymous`, `worker`.
        address: Remote address of an HTTP request, else None.
        via: Through which call: `POST /api/2.0/mlflow/...`, or `in-process`.
    """

    name: str
    kind: str
    address: str | None = None
    via: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """As JSON values."""
        return {"name": self.name, "kind": self.kind, "address": self.address, "via": self.via}


@dataclass(frozen=True, kw_only=True)
class Move:
    """One target that would come to mean one model version."""

    target: Target
    version: ModelVersionRef


@dataclass(frozen=True, kw_only=True)
class PromotionRequest:
    """One registry call with every move that it would cause. A rename can move many targets at once.

    Args:
        operation: The store method, e.g. `set_registered_model_alias`.
        moves: At least one.
        actor: Who asked.
    """

    operation: str
    moves: tuple[Move, ...]
    actor: Actor

    def __post_init__(self) -> None:
        if not self.moves:
            raise ValueError(f"{self.operation}: expected at least one move, got none")
