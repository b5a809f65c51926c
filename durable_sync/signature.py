"""The parameters of a task's function: how a call becomes stored input, and stored input a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter
from types import SimpleNamespace
from typing import Any, Protocol, TypedDict, Unpack, cast, get_args, get_origin, get_type_hints

from durable_sync.errors import InvalidInputError, SerializationError

__all__ = ["InputSchema"]

_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class _Serializer(Protocol):
    def dumps(self, value: Any, annotation: Any) -> str: ...
    def loads(self, text: str, annotation: Any) -> Any: ...


class InputSchema:
    """The parameters of a task's function, compiled once. Immutable: any thread may use it.

    Arguments are kept by parameter name, as they were passed: defaults are not filled in, so
    that a later version of the function applies its own. `*args` is kept as a list and `**kwargs` as a
    dict, under their names. `ctx`, which the executor passes, is no part of them.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name: str = getattr(function, "__qualname__", None) or repr(function)
        parameters = list(inspect.signature(function).parameters.values())
        self.takes_context: bool = bool(parameters) and (
            parameters[0].name == "ctx" and parameters[0].kind in _POSITIONAL
        )
        """Whether the first parameter is named `ctx`."""
        self._parameters = parameters[1:] if self.takes_context else parameters
        hints = _resolved(function)
        self.output_annotation: Any = hints.get("return", Any)
        """The annotation of what the function returns; Any if it has none that can be used."""
        self.unannotated: tuple[str, ...] = tuple(
            p.name for p in self._parameters if p.name not in hints and p.name != "self"
        )
        """The parameters without an annotation that can be used; their values may be of any JSON type."""
        # One TypedDict for all arguments: a serializer converts them in one go, and names all misfits.
        self.annotation: Any = cast(Any, TypedDict)(
            "Input", {p.name: _stored(p, hints.get(p.name, Any)) for p in self._parameters}, total=False
        )
        """What the arguments are together, for a serializer: a TypedDict."""
        self._positional = [p.name for p in self._parameters if p.kind in _POSITIONAL]
        self._by_name = {
            p.name for p in self._parameters if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        }
        self._required = [p.name for p in self._parameters if p.default is Parameter.empty and p.kind not in _VARIADIC]
        self._args = next((p.name for p in self._parameters if p.kind is Parameter.VAR_POSITIONAL), None)
        self._kwargs = next((p.name for p in self._parameters if p.kind is Parameter.VAR_KEYWORD), None)

    @property
    def fed(self) -> str | None:
        """The parameter that a call with one argument by position gives; None if no such call fits."""
        fits = bool(self._positional) and set(self._required) <= {self._positional[0]}
        return self._positional[0] if fits else None

    def hint(self, name: str) -> Any:
        """The annotation of what is kept under a name; Any if there is none that can be used."""
        return self.annotation.__annotations__.get(name, Any)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by parameter name, without `ctx`.

        Raises InvalidInputError naming every parameter that is missing, unexpected or given twice.
        """
        arguments: dict[str, Any] = dict(zip(self._positional, args, strict=False))
        problems: list[str] = []
        rest = args[len(self._positional) :]
        if rest and self._args is not None:
            arguments[self._args] = list(rest)
        elif rest:
            problems.append(f"takes {len(self._positional)} positional arguments, {len(args)} were given")
        others: dict[str, Any] = {}
        for name, value in kwargs.items():
            if self.takes_context and name == "ctx":
                problems.append("ctx: is passed by the executor")
            elif name in self._by_name:
                if name in arguments:
                    problems.append(f"{name}: is given twice")
                arguments[name] = value
            elif self._kwargs is not None:
                others[name] = value
            else:
                problems.append(f"{name}: {self._no_keyword(name)}")
        if others and self._kwargs is not None:
            arguments[self._kwargs] = others
        self._refuse(problems + self._missing(arguments))
        return arguments

    def dumps(self, serializer: _Serializer, arguments: Mapping[str, Any]) -> str:
        """A JSON object of the arguments. Raises InvalidInputError naming every bad path."""
        try:
            return serializer.dumps(arguments, self.annotation)
        except SerializationError as error:
            raise InvalidInputError(self._message(str(error))) from error.__cause__

    def loads(self, serializer: _Serializer, text: str) -> dict[str, Any]:
        """The arguments that `dumps` was given. Names that the function has no parameter for are left out.

        Raises SerializationError naming every bad path. Missing ones show in `call_arguments`.
        """
        return cast(dict[str, Any], serializer.loads(text, self.annotation))

    def call_arguments(self, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What to call the function with, after `ctx`. Raises InvalidInputError naming missing parameters."""
        self._refuse(self._missing(arguments))
        rest: list[Any] = arguments.get(self._args, []) if self._args is not None else []
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in self._parameters:
            name = parameter.name
            if parameter.kind is Parameter.POSITIONAL_ONLY or (rest and name in self._positional):
                # One that is absent before one that is given must be passed all the same.
                args.append(arguments.get(name, parameter.default))
            elif name in arguments and name in self._by_name:
                kwargs[name] = arguments[name]
        if self._kwargs is not None:
            kwargs.update(arguments.get(self._kwargs, {}))
        return (*args, *rest), kwargs

    def _no_keyword(self, name: str) -> str:
        return "is positional only" if name in self._positional else "is not a parameter"

    def _missing(self, arguments: Mapping[str, Any]) -> list[str]:
        return [f"{name}: is missing" for name in self._required if name not in arguments]

    def _refuse(self, problems: list[str]) -> None:
        if problems:
            raise InvalidInputError(self._message("; ".join(problems)))

    def _message(self, problems: str) -> str:
        return f"invalid input for {self.name}: {problems}"


def _stored(parameter: Parameter, hint: Any) -> Any:
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return list[hint]
    if parameter.kind is Parameter.VAR_KEYWORD:
        return get_args(hint)[0] if get_origin(hint) is Unpack else dict[str, hint]
    return hint


def _resolved(function: Callable[..., Any]) -> dict[str, Any]:
    """Every annotation that can be resolved, one by one: a bad one does not spoil the others."""
    plain = inspect.unwrap(function)
    while isinstance(plain, partial):
        plain = plain.func
    if not inspect.isroutine(plain) and not inspect.isclass(plain):
        plain = type(plain).__call__
    hints: dict[str, Any] = {}
    for name, annotation in cast(dict[str, Any], getattr(plain, "__annotations__", {})).items():
        holder = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints.update(get_type_hints(holder, getattr(plain, "__globals__", {}), include_extras=True))
            cast(Any, TypedDict)("Usable", {name: hints[name]})  # refuses what is no type
        except Exception:
            hints.pop(name, None)
    return hints
