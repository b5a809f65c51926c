"""Reading annotations: what is inside them, what type variables stand for, how they are called."""

from __future__ import annotations

import inspect
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

from typing_extensions import ReadOnly

__all__ = ["bindings", "describe", "is_class", "is_union", "substitute", "unwrap"]

_WRAPPERS = (Annotated, Final, Required, NotRequired, ReadOnly)


def is_class(annotation: Any) -> bool:
    """True for a class, False for `list[int]` and all else."""
    return isinstance(annotation, type) and get_origin(annotation) is None


def is_union(annotation: Any) -> bool:
    """True for `Union[...]`, `Optional[...]` and `A | B`."""
    return get_origin(annotation) in (Union, UnionType)


def unwrap(annotation: Any) -> Any:
    """What is kept as itself by another name: Annotated, NewType, Final, a type variable. Else unchanged."""
    if get_origin(annotation) in _WRAPPERS:
        return get_args(annotation)[0]
    if isinstance(annotation, TypeVar):
        if annotation.__constraints__:
            return Union[annotation.__constraints__]  # noqa: UP007 - made at run time
        return Any if annotation.__bound__ is None else annotation.__bound__
    return getattr(annotation, "__supertype__", annotation)


def bindings(annotation: Any) -> dict[Any, dict[Any, Any]]:
    """What each generic class among the bases of `annotation` has its type variables bound to."""
    origin = get_origin(annotation) or annotation
    parameters = cast(tuple[Any, ...], getattr(origin, "__parameters__", ()))
    arguments: dict[Any, Any] = dict(zip(parameters, get_args(annotation), strict=False))
    found = {origin: arguments}
    for base in cast(tuple[Any, ...], origin.__dict__.get("__orig_bases__", origin.__bases__)):
        if is_class(get_origin(base) or base) and (get_origin(base) or base) not in (object, Generic):
            found.update(bindings(substitute(base, arguments)))
    return found


def substitute(annotation: Any, arguments: dict[Any, Any]) -> Any:
    """`annotation` with its type variables replaced."""
    if isinstance(annotation, TypeVar):
        return arguments.get(annotation, annotation)
    parameters = cast(tuple[Any, ...], getattr(annotation, "__parameters__", ()))
    if not arguments or not parameters or is_class(annotation):
        return annotation
    return annotation[tuple(arguments.get(parameter, parameter) for parameter in parameters)]


def describe(annotation: Any) -> str:
    """A short name, the same for equal annotations: it is written into unions' JSON, and in messages."""
    if annotation is None or annotation is NoneType:
        return "None"
    if is_union(annotation):
        members = sorted({describe(member) for member in get_args(annotation)})
        return " | ".join(sorted(members, key=lambda name: name == "None"))
    if get_origin(annotation) is Annotated:
        return describe(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return f"Literal[{', '.join(map(repr, get_args(annotation)))}]"
    origin = get_origin(annotation) or annotation
    name = getattr(origin, "__name__", None) or inspect.formatannotation(origin)
    arguments = ", ".join("..." if a is ... else describe(a) for a in get_args(annotation))
    return f"{name}[{arguments}]" if arguments else str(name)
