"""The configuration of the service: a TOML file, or values from a program."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """The configuration has a mistake. The message names it."""


@dataclass(frozen=True)
class ModelConfig:
    """A model and its workers.

    `source` and `options` are those of `soragen.Model.open`. `min_workers` and `max_workers` bound how many the queue may start; each has
    `num_gpus` and `num_cpus` of its node.
    """

    source: str = "builtin"
    options: dict[str, Any] = field(default_factory=dict)
    min_workers: int = 1
    max_workers: int = 1
    num_gpus: float = 0
    num_cpus: float = 1


@dataclass(frozen=True)
class Limits:
    """What a client may ask for."""

    prompt_characters: int = 2000
    seconds: float = 60.0
    upload_bytes: int = 20_000_000
    open_jobs: int = 1000  # queued or in progress
    free_bytes: int = 50_000_000  # that the disk must have for a new job


@dataclass(frozen=True)
class Config:
    """Everything that the service can be told.

    - `folder`: where the table of jobs and the files are; they survive a restart.
    - `models`: by the name that clients use. `default`: the model for a request without a name, by default the first. `unknown`: the model
      that serves names that are not in `models`, such as `sora-2`; without it they are refused.
    - `scale`: a size that the model does not make becomes the most similar one that it makes; otherwise 400. The answer has the size that is
      made.
    - `input_reference`: `image` starts the video from the picture, `reference` shows its subject.
    - `remix_strength`: how much a remix changes the video, from 0 to 1.
    - `tokens`: bearer tokens, of which a request needs one; those in the environment variable `SORAGEN_TOKENS` are added. Without any the
      service starts only on a loopback address, or with `open`, and answers everybody who reaches it.
    - `keep_hours`: after which a finished job is removed.
    - `certificate`, `private_key`, `policy`, `audit_log`, `label`, `watermark_key`: as of `soragen render`; only the node with `folder` reads
      the keys.
    - `resource`: a custom resource of Ray that the node with `folder` has; needed on a cluster.
    - `writers`: files that are decoded and encoded at a time.
    """

    folder: Path = Path("soragen-jobs")
    models: dict[str, ModelConfig] = field(default_factory=lambda: {"soragen": ModelConfig()})
    default: str = "soragen"
    unknown: str | None = "soragen"
    scale: bool = True
    input_reference: str = "image"
    remix_strength: float = 0.95
    tokens: tuple[str, ...] = ()
    open: bool = False
    limits: Limits = Limits()
    keep_hours: float = 24.0
    certificate: str | None = None
    private_key: str | None = None
    policy: str | None = None
    audit_log: str | None = None
    label: str = "none"
    watermark_key: str | None = None
    resource: str | None = None
    writers: int = 2

    def __post_init__(self) -> None:
        for name in (self.default, *([self.unknown] if self.unknown is not None else [])):
            if name not in self.models:
                raise ConfigError(f"{name!r} is no model; the models are {', '.join(self.models)}")
        if self.input_reference not in ("image", "reference"):
            raise ConfigError(f"input_reference is {self.input_reference!r}; use image or reference")
        if not all(isinstance(token, str) and token for token in self.tokens):
            raise ConfigError("tokens must be texts that are not empty")
        if (self.certificate is None) != (self.private_key is None):
            raise ConfigError("set certificate and private_key together")

    def with_tokens(self, is_loopback: bool = False) -> Config:
        """With the tokens of the environment. Raises `ConfigError` if there are none and everybody could reach the service."""
        tokens = (*self.tokens, *os.environ.get("SORAGEN_TOKENS", "").split())
        if not tokens and not is_loopback and not self.open:
            raise ConfigError("other machines reach the service: set tokens in the configuration or in SORAGEN_TOKENS, or open = true")
        return dataclasses.replace(self, tokens=tokens)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Config:
        """Reads a TOML file. Relative paths start at its folder. Raises `ConfigError` and `OSError`."""
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
        for model in values.get("models", {}).values():
            # A folder; not `builtin` or a name of the hub.
            if isinstance(model, dict) and "source" in model and (path.parent / model["source"]).is_dir():
                model["source"] = os.fspath((path.parent / model["source"]).absolute())
        for name in ("folder", "certificate", "private_key", "policy", "audit_log", "watermark_key"):
            if name in values:
                values[name] = os.fspath((path.parent / values[name]).absolute())
        return cls.of(values)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Config:
        """Of a dictionary, as TOML has it. Raises `ConfigError`."""
        values = dict(values)
        if "models" in values:
            if not isinstance(values["models"], dict) or not values["models"]:
                raise ConfigError("models must be a table of models")
            values.setdefault("default", next(iter(values["models"])))
            values.setdefault("unknown", None)
            values["models"] = {name: _made(ModelConfig, model) for name, model in values["models"].items()}
        if "limits" in values:
            values["limits"] = _made(Limits, values["limits"])
        if "tokens" in values:
            if not isinstance(values["tokens"], (list, tuple)):
                raise ConfigError("tokens must be a list of texts")
            values["tokens"] = tuple(values["tokens"])
        if "folder" in values:
            values["folder"] = Path(values["folder"])
        return _made(cls, values)


def _made(kind: type, values: Any) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{kind.__name__} is {values!r}, not a table")
    unknown = values.keys() - {each.name for each in dataclasses.fields(kind)}
    if unknown:
        raise ConfigError(f"there is no setting {', '.join(sorted(unknown))}")
    return kind(**values)
