"""Every setting: an environment variable `HEABLCOIN_CLOUD_<NAME>`, described once, here."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core.errors import InvalidArgument
from server.answers.rules import Wanted, explained

PREFIX = "HEABLCOIN_CLOUD_"
TOOLSETS = ("tasks", "workers", "endpoints", "schedules", "legacy")
DEFAULT_TOOLSETS = ("tasks", "workers", "endpoints", "schedules")

_PLACEHOLDER = re.compile(r"^\$\{[^}]*\}$")


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """What a user can set. An empty value, or a placeholder a host left unfilled (`${user_config.x}`), counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True, validate_default=False, frozen=True
    )

    database: str = Field(
        default="", description="Path of the SQLite database, or `:memory:`. Default: the platform's data directory."
    )
    handlers: str = Field(
        default="", description="Python file or module with your own handlers; it defines `register(publisher)`."
    )
    toolsets: Names = Field(
        default=DEFAULT_TOOLSETS,
        description=f"Comma-separated toolsets to offer, of: {', '.join(TOOLSETS)}; `all` for every one.",
    )
    read_only: bool = Field(default=False, description="`true` offers only the tools that change nothing.")
    allow_hosts: Names = Field(
        default=(),
        description="Comma list of host, host:port or network that may be called although private, e.g. `localhost:11434`.",
    )
    keys: Literal["auto", "keyring", "file", "process"] = Field(
        default="auto",
        description="Where a given API key is kept: `keyring`, `file` (0600), `process` (nowhere), or `auto`.",
    )
    endpoints_from_env: bool = Field(
        default=False,
        description="`true` adds an endpoint for each known key in the environment (OPENAI_API_KEY, DEEPSEEK_API_KEY, ...).",
    )
    when_limited: Literal["next", "wait"] = Field(
        default="next",
        description="When a limit of the best endpoints is used up: ask the `next`, or `wait` for them; a call may say otherwise.",
    )
    max_per_minute: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Requests of the whole pool in any 60 s, over all processes that set it, each keeping to its own number; 0: no limit.",
    )
    http_max_per_minute: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="`http_request` tasks that start in any 60 s for each host, over all processes; `0`: no limit. Unset: as it was last set.",
    )
    concurrency: int = Field(default=10, ge=0, le=1000, description="Tasks run at once by this process; 0 runs none.")
    lease: float = Field(
        default=30.0, ge=2, le=3600, description="Seconds after which the tasks of a process that died are given back."
    )
    ageing: float = Field(
        default=0.0,
        ge=0,
        le=31_536_000,
        description="Seconds of waiting that count as one step of priority; 0: LOW waits for as long as there is more urgent work.",
    )
    synchronous: Literal["FULL", "NORMAL"] = Field(
        default="FULL", description="`FULL`: a published task survives a power cut; `NORMAL`: only a crash, but faster."
    )
    retention_days: float = Field(
        default=30.0,
        ge=0,
        le=36500,
        description="Finished tasks are removed after this many days; 0 keeps them for ever.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe log lines to write to stderr."
    )
    token: SecretStr = Field(
        default=SecretStr(""),
        description="Bearer token that HTTP clients must send. Default: a new one each start, printed on stderr.",
    )
    http_hosts: Names = Field(
        default=(), description="Comma list of Host headers to accept besides loopback, e.g. `queue.lan:8765`."
    )
    http_origins: Names = Field(
        default=(), description="Comma list of Origin headers to accept besides loopback, e.g. `https://app.example`."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _unset(cls, value: Any, info: Any) -> Any:
        if isinstance(value, str) and (not value.strip() or _PLACEHOLDER.match(value.strip())):
            return cls.model_fields[info.field_name].get_default()
        return value.strip() if isinstance(value, str) else value

    @field_validator("toolsets", mode="after")
    @classmethod
    def _known_toolsets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "all" in value:
            return TOOLSETS
        if unknown := [name for name in value if name not in TOOLSETS]:
            raise InvalidArgument(
                f"names a toolset that is not there: {unknown[0][:40]!r}", f"use: {', '.join(TOOLSETS)}, or all"
            )
        return value

    @field_validator("log_level", "synchronous", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database", "handlers", mode="after")
    @classmethod
    def _home(cls, value: str) -> str:
        return str(Path(value).expanduser()) if value.startswith("~") else value


def load_settings(**given: Any) -> Settings:
    """The settings of this process; `given` (from the command line) goes before the environment.

    Raises InvalidArgument that names each variable, its rule and what it should be.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems, fixes = [], []
        for detail in error.errors(include_url=False):
            name = str(detail["loc"][0]).lower()
            said, fix = explained(detail, _wanted(name))
            problems.append(f"{PREFIX}{name.upper()} {said}")
            fixes.append(fix)
        if len(fixes) > 1:
            fixes = [f"{problem.partition(' ')[0]}: {fix}" for problem, fix in zip(problems, fixes, strict=True)]
        raise InvalidArgument("; ".join(problems) + ".", "; ".join(fixes) + ".") from None


def _wanted(name: str) -> Wanted:
    """What a setting may be, from its field."""
    field = Settings.model_fields.get(name)
    if field is None:
        return Wanted()
    bounds = {type(rule).__name__.lower(): rule for rule in field.metadata}
    words = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return Wanted(
        example=field.default,
        low=getattr(bounds.get("ge"), "ge", None),
        high=getattr(bounds.get("le"), "le", None),
        words=tuple(str(word) for word in words),
    )
