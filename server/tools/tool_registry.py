"""The register of tools, and what it demands of each: a title, all four hints, a described schema in and out."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata, func_metadata
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import PrivateAttr, ValidationError

from core.json_types import JsonObject
from server.answers.error_text import bad_values, explain, unknown_arguments
from server.answers.results import tool_result
from server.answers.schema import result_schema, strip_noise, untrusted_keys
from server.context import App
from server.tools.arguments import as_meant

P = ParamSpec("P")
R = TypeVar("R", bound=Mapping[str, Any])


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What a tool function gets besides its arguments."""

    app: App
    context: Context[Any, Any]

    async def progress(self, share: float, total: float, message: str) -> None:
        """Tell the client how far the call is; nothing when it did not ask."""
        await self.context.report_progress(share, total, message)


@dataclass(frozen=True, slots=True)
class Hints:
    """The four hints of the protocol, none left to a default."""

    read_only: bool
    destructive: bool
    idempotent: bool
    open_world: bool


READS = Hints(read_only=True, destructive=False, idempotent=True, open_world=False)
ADDS = Hints(read_only=False, destructive=False, idempotent=False, open_world=False)
STARTS_WORK = Hints(read_only=False, destructive=False, idempotent=False, open_world=True)
"""Adds something whose handler may call the outside world."""
RESTARTS_WORK = Hints(read_only=False, destructive=False, idempotent=True, open_world=True)
REPLACES = Hints(read_only=False, destructive=True, idempotent=True, open_world=False)
"""May overwrite what was there under the same name."""
REMOVES = Hints(read_only=False, destructive=True, idempotent=True, open_world=False)


@dataclass(frozen=True)
class ToolSpec:
    """One tool as it was declared."""

    function: Callable[..., Awaitable[Mapping[str, Any]]]
    toolset: str
    title: str
    hints: Hints
    record: type

    @property
    def name(self) -> str:
        return self.function.__name__

    @cached_property
    def description(self) -> str:
        return inspect.cleandoc(self.function.__doc__ or "")

    @cached_property
    def arguments(self) -> "Arguments":
        return Arguments.of(self.function)

    @cached_property
    def metadata(self) -> FuncMetadata:
        """What the SDK wants to know of the function."""
        return self.arguments.metadata.model_copy(update={"output_schema": result_schema(self.record)})

    def bind(self, app: App) -> "BoundTool":
        """The SDK's tool for this one, answering for `app`."""
        tool = BoundTool(
            fn=self.function,
            name=self.name,
            title=self.title,
            description=self.description,
            parameters=self.arguments.schema,
            fn_metadata=self.metadata,
            is_async=True,
            context_kwarg=None,
            annotations=ToolAnnotations(
                read_only_hint=self.hints.read_only,
                destructive_hint=self.hints.destructive,
                idempotent_hint=self.hints.idempotent,
                open_world_hint=self.hints.open_world,
            ),
        )
        tool.attach(self, app)
        return tool


@dataclass(frozen=True)
class Arguments:
    """What a function may be called with: the schema that hosts see and the check behind it."""

    metadata: FuncMetadata
    schema: JsonObject

    @classmethod
    def of(cls, function: Callable[..., object]) -> "Arguments":
        """The arguments of `function`, its first parameter (the ToolCall) left out."""
        first = next(iter(inspect.signature(function).parameters))
        metadata = func_metadata(function, skip_names=[first], structured_output=False)
        schema = strip_noise(metadata.arg_model.model_json_schema(by_alias=True))
        schema.setdefault("properties", {})
        schema["additionalProperties"] = False
        return cls(metadata, schema)

    def check(self, doing: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` as keyword arguments; BadArguments names what is unknown or breaks a rule, never its value."""
        properties = cast(dict[str, JsonObject], self.schema["properties"])
        if unknown := given.keys() - properties.keys():
            raise unknown_arguments(doing, unknown, list(properties))
        required = cast(list[str], self.schema.get("required", []))
        # Models write null for "not given": for what may be left out the two are the same.
        meant = {
            name: as_meant(value, properties[name])
            for name, value in given.items()
            if value is not None or name in required
        }
        try:
            return self.metadata.validate_arguments(meant)
        except ValidationError as error:
            raise bad_values(doing, error, properties) from None


@dataclass
class Toolset:
    """Tools that are switched on and off together."""

    name: str
    summary: str
    specs: list[ToolSpec] = field(default_factory=list)

    def tool(
        self, title: str, hints: Hints
    ) -> Callable[[Callable[Concatenate[ToolCall, P], Awaitable[R]]], Callable[Concatenate[ToolCall, P], Awaitable[R]]]:
        """Declare a tool: its docstring is the description, its return annotation (a TypedDict) the output schema."""

        def declare(
            function: Callable[Concatenate[ToolCall, P], Awaitable[R]],
        ) -> Callable[Concatenate[ToolCall, P], Awaitable[R]]:
            record = inspect.signature(function).return_annotation
            self.specs.append(ToolSpec(function, self.name, title, hints, record))
            return function

        return declare


class BoundTool(Tool):
    """A tool whose failures are worded by `server.answers.error_text` and whose record is rendered by `server.answers.results`."""

    _spec: ToolSpec = PrivateAttr()
    _app: App = PrivateAttr()
    _untrusted: frozenset[str] = PrivateAttr(default=frozenset())

    def attach(self, spec: ToolSpec, app: App) -> None:
        """Give the tool what it runs."""
        self._spec, self._app = spec, app
        self._untrusted = untrusted_keys(spec.record)

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> CallToolResult:
        """Run the tool; every failure is a ToolError that says what happened and what to do."""
        try:
            checked = self._spec.arguments.check(self.name, arguments)
            record = await self._spec.function(ToolCall(self._app, context), **checked)
            return tool_result(record, self._untrusted)
        except MCPError:
            raise
        except Exception as error:  # noqa: BLE001 - every failure is worded in one place
            raise ToolError(self._app.redact(explain(error, self.name))) from None
