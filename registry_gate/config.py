"""Settings of one installation: locations, timeouts and devices. Never thresholds: those are in policies.

Read once: command-line flags over `REGISTRY_GATE_*` variables over `registry-gate.toml`. An unknown key or variable is
an error, because a misspelt setting that is ignored is a setting that somebody believes in.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry_gate.errors import ConfigError

CONFIG_FILE = "registry-gate.toml"
ENV_PREFIX = "REGISTRY_GATE_"

PACKAGE_BATTERIES = Path(__file__).resolve().parent.parent / "evaluators" / "batteries"
"""Batteries shipped with the package. Read as data: the gate never imports `evaluators`."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GateSettings(_Section):
    """What the MLflow server needs.

    Args:
        policies: Where the policy set is: a directory, or an address that begins with `git+` or `s3://`
            (`policy/places.py`). The word was `policy_dir`, which is understood.
        policies_key: Public key that must have signed the policy set, or a directory of several; None asks for none.
            No variable sets it, because none may weaken a verdict.
        limit_s: A decision that takes longer than this many seconds is a denial that says so.
        signing_key: Private Ed25519 key in PEM, mode 0600, server side; signs allowed decisions, so that `verify` needs
            no ledger. Its public half lies beside it, with the ending `.pem`.
        trusted_proxies: Addresses or networks (`10.0.0.0/8`) of proxies whose word on who asks is taken.
        identity_header: Header in which such a proxy names the user; None takes nobody's word.
    """

    policies: Path | str = Path("policies")
    policies_key: Path | None = None
    limit_s: Annotated[float, Field(ge=0.5, le=60)] = 2.0
    signing_key: Path = Path("keys/gate.key")
    trusted_proxies: tuple[str, ...] = ()
    identity_header: str | None = None


class LedgerSettings(_Section):
    """Where the ledger is. The server uses MLflow's own database and ignores this.

    Args:
        uri: SQLAlchemy URI of MLflow's registry database.
    """

    uri: str | None = None


class MlflowSettings(_Section):
    """Where MLflow is.

    Args:
        tracking_uri: Address of the server, e.g. `http://127.0.0.1:5000`.
    """

    tracking_uri: str | None = None


class WorkerSettings(_Section):
    """What a worker needs.

    Args:
        id: Name of this worker; it resumes its own work under it after a restart.
        signing_key: Private Ed25519 key in PEM, mode 0600, worker side only.
        work_dir: Directory for answers, durable state and evidence files.
        probe_dirs: Where external probe files of batteries are looked for.
        grader_dirs: Where graders beside the shipped ones are looked for.
        threads: Threads for generation and grading.
        device: `auto`, `cpu` or `cuda`.
        timeout_s: Longest time for the answers of one form to one instrument, seconds.
        max_memory_gib: Most memory that the process which loads a candidate may use, GiB.
        lease_s: After this many seconds without a sign of life another worker may take the request over.
    """

    id: str = "worker-1"
    signing_key: Path = Path("keys/worker.key")
    work_dir: Path = Path("work")
    probe_dirs: tuple[Path, ...] = ()
    grader_dirs: tuple[Path, ...] = ()
    threads: Annotated[int, Field(ge=1, le=256)] = max(1, min(8, os.cpu_count() or 1))
    device: Literal["auto", "cpu", "cuda"] = "auto"
    timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    max_memory_gib: Annotated[float, Field(gt=0)] = 16.0
    lease_s: Annotated[float, Field(ge=5)] = 120.0


class Settings(_Section):
    """All settings.

    Args:
        gate: For the MLflow server.
        ledger: Where the ledger is.
        mlflow: Where MLflow is.
        worker: For a worker.
        source: The file that was read, or None.
    """

    gate: GateSettings = GateSettings()
    ledger: LedgerSettings = LedgerSettings()
    mlflow: MlflowSettings = MlflowSettings()
    worker: WorkerSettings = WorkerSettings()
    source: Path | None = None

    @property
    def battery_dirs(self) -> tuple[Path, ...]:
        """Shipped batteries; a policy directory may bring more in `batteries/`."""
        return (PACKAGE_BATTERIES,)

    def require_policy_directory(self) -> Path:
        """The directory of the policy set, for what writes into it.

        Raises:
            ConfigError: The set is read from an address.
        """
        if isinstance(self.gate.policies, Path):
            return self.gate.policies
        raise ConfigError(
            f"expected a directory of policies to write into, got {self.gate.policies}: name the directory that the "
            "policies are written in, and publish or commit them from there"
        )

    def require_ledger(self) -> str:
        """The ledger's URI.

        Raises:
            ConfigError: None is set.
        """
        if not self.ledger.uri:
            raise ConfigError(
                "expected the database of the registry, got none: set [ledger] uri in registry-gate.toml or "
                "REGISTRY_GATE_LEDGER_URI (the same database as after `gated:` in the server's --registry-store-uri)"
            )
        return self.ledger.uri

    def require_tracking(self) -> str:
        """The MLflow server's address.

        Raises:
            ConfigError: None is set.
        """
        if not self.mlflow.tracking_uri:
            raise ConfigError(
                "expected the address of the MLflow server, got none: set [mlflow] tracking_uri in registry-gate.toml, "
                "REGISTRY_GATE_TRACKING_URI or --tracking-uri"
            )
        return self.mlflow.tracking_uri


ENVIRONMENT: Mapping[str, tuple[str, str]] = {
    "POLICIES": ("gate", "policies"),
    "POLICY_DIR": ("gate", "policies"),
    "GATE_KEY": ("gate", "signing_key"),
    "LIMIT_S": ("gate", "limit_s"),
    "LEDGER_URI": ("ledger", "uri"),
    "TRACKING_URI": ("mlflow", "tracking_uri"),
    "WORKER_ID": ("worker", "id"),
    "SIGNING_KEY": ("worker", "signing_key"),
    "WORK_DIR": ("worker", "work_dir"),
    "THREADS": ("worker", "threads"),
    "DEVICE": ("worker", "device"),
    "TIMEOUT_S": ("worker", "timeout_s"),
    "MAX_MEMORY_GIB": ("worker", "max_memory_gib"),
    "LEASE_S": ("worker", "lease_s"),
}
"""Variables that exist, without their prefix, and the setting each one gives."""

_OTHER_VARIABLES = frozenset({"CONFIG", "BENCHMARKS"})

_PATHS = {
    ("gate", "policies"),
    ("gate", "policies_key"),
    ("gate", "signing_key"),
    ("worker", "signing_key"),
    ("worker", "work_dir"),
}
_PATH_LISTS = {("worker", "probe_dirs"), ("worker", "grader_dirs")}


def load_settings(
    file: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[tuple[str, str], Any] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        file: The configuration file; else `REGISTRY_GATE_CONFIG`, else `registry-gate.toml` in the working directory.
        environment: Variables; the process's own when None.
        overrides: Settings from the command line, `("worker", "threads")` to value; None values are left out.

    Raises:
        ConfigError: A named file that is missing, invalid TOML, an unknown key or variable, a value out of range.
    """
    variables = os.environ if environment is None else environment
    named = file or (Path(variables[ENV_PREFIX + "CONFIG"]) if variables.get(ENV_PREFIX + "CONFIG") else None)
    path = (named or Path(CONFIG_FILE)).absolute()
    values: dict[str, dict[str, Any]] = {}
    if path.is_file():
        values = _read(path)
        # Settings written before the gate had a key do not name it; the server may run in any directory.
        values.setdefault("gate", {}).setdefault("signing_key", path.parent / GateSettings().signing_key)
    elif named is not None:
        raise ConfigError(f"expected a configuration file at {path}, got none: make one with `registry-gate init`")
    if {ENV_PREFIX + "POLICIES", ENV_PREFIX + "POLICY_DIR"} <= set(variables):
        raise ConfigError(
            f"expected {ENV_PREFIX}POLICIES or its older name {ENV_PREFIX}POLICY_DIR, got both: unset one"
        )
    for name in variables:
        if name.startswith(ENV_PREFIX):
            short = name.removeprefix(ENV_PREFIX)
            if short in ENVIRONMENT:
                section, key = ENVIRONMENT[short]
                value: Any = variables[name]
                if (section, key) in _PATHS and not _is_address(section, key, value):
                    value = Path(value).absolute()
                values.setdefault(section, {})[key] = value
            elif short not in _OTHER_VARIABLES:
                known = ", ".join(sorted(ENV_PREFIX + known for known in {*ENVIRONMENT, *_OTHER_VARIABLES}))
                raise ConfigError(f"expected one of the variables {known}; got {name}: unset it or correct its name")
    for (section, key), value in (overrides or {}).items():
        if value is not None:
            values.setdefault(section, {})[key] = value
    try:
        return Settings.model_validate({**values, "source": path if path.is_file() else None})
    except ValidationError as err:
        details = "; ".join(_explain(e) for e in err.errors(include_url=False))
        raise ConfigError(f"{path}: expected settings as `registry-gate init` writes them, got: {details}") from err


def _explain(error: Any) -> str:
    """One thing that is wrong. The value is left out where it may hold a password."""
    section, *rest = (str(step) for step in error["loc"])
    place = f"[{section}] {'.'.join(rest)}".strip()
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown"
    shown = "" if "uri" in place else f", got {error.get('input')!r}"
    return f"{place}: {error['msg']}{shown}"


def _is_address(section: str, key: str, value: str) -> bool:
    """Whether a setting is the address of a policy set, which is no path."""
    return (section, key) == ("gate", "policies") and value.startswith(("git+", "s3://"))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise ConfigError(f"{path}: expected a readable TOML file, got: {err}") from err
    values: dict[str, dict[str, Any]] = {}
    for section, content in raw.items():
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: expected sections ([gate], [ledger], [mlflow], [worker]), got {section!r}")
        if section == "gate" and "policy_dir" in content:
            if "policies" in content:
                raise ConfigError(f"{path}: expected [gate] policies or its older name policy_dir, got both")
            content["policies"] = content.pop("policy_dir")
        values[section] = dict(content)
        for key, value in content.items():
            # Relative paths are relative to the file, so that the server can be started from anywhere.
            if (section, key) in _PATHS and isinstance(value, str) and not _is_address(section, key, value):
                values[section][key] = path.parent / value
            if (section, key) in _PATH_LISTS and isinstance(value, list):
                values[section][key] = tuple(path.parent / str(item) for item in value)
    return values
