"""What a codec is, and what it raises: every part of a value that does not fit, with its path."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal, TypeAlias

from attrs import frozen
from cattrs import BaseValidationError, transform_error

from durable_sync.converters.annotations import describe

__all__ = [
    "TAG",
    "UNKNOWN",
    "VALUE",
    "Codec",
    "CodecOf",
    "Convert",
    "Misfit",
    "Part",
    "Parts",
    "Shape",
    "WrongType",
    "class_of",
    "each",
    "explain",
    "foreign",
    "note",
    "refusal",
    "show",
]

Convert: TypeAlias = Callable[[Any], Any]
Part: TypeAlias = tuple[str, "Misfit"]
Shape: TypeAlias = Literal["null", "bool", "int", "float", "string", "array", "object", "unknown"]

TAG = "_type"
"""The key of a JSON object that names what it is, where the annotation alone does not tell."""
VALUE = "_value"
"""The key beside `TAG` of what is not an object itself."""
UNKNOWN: frozenset[Shape] = frozenset({"unknown"})

class_of: Callable[[Any], type[Any]] = type
"""`type`, typed so that a comparison does not narrow Any to a list or dict of unknown items."""


@frozen(eq=False)
class Codec:
    """How the values of one annotation are written as JSON values and read back.

    Both functions raise `Misfit`, may be called from any thread, and are inverse to each other.
    """

    encode: Convert
    decode: Convert
    shapes: frozenset[Shape] = UNKNOWN
    """The JSON types that `encode` may return: what unions and keys of dicts must know."""
    names_itself: Callable[[str], bool] | None = None
    """For a record, whose JSON object has room for a `TAG`: whether it reads objects with that tag."""


CodecOf: TypeAlias = Callable[[Any], Codec]


class Misfit(Exception):
    """A value does not fit its annotation, for the reason given."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Each bad path below the value, such as `.lines[2]`, and its reason."""
        yield "", str(self.args[0])


class WrongType(Misfit):
    """A value is not of the annotated type. Formats its message late: unions raise and drop many."""

    def __init__(self, value: Any, annotation: Any) -> None:
        super().__init__(value, annotation)

    def problems(self) -> Iterator[tuple[str, str]]:
        """That it is not."""
        value, annotation = self.args
        name = describe(annotation)
        article = "an" if name[0] in "aeioAEIO" else "a"
        yield "", f"{show(value)} is not {article} {name}"


class Parts(Misfit):
    """Parts of a value do not fit: the step to each, such as `.price` or `[2]`, and why."""

    def __init__(self, parts: Iterable[Part]) -> None:
        super().__init__(tuple(parts))

    def problems(self) -> Iterator[tuple[str, str]]:
        """Those of all parts."""
        for step, misfit in self.args[0]:
            for path, reason in misfit.problems():
                yield step + path, reason


def note(parts: list[Part] | None, step: str, misfit: Misfit) -> list[Part]:
    """`parts` and one more. None stands for no parts, so that what fits costs no list."""
    parts = parts if parts is not None else []
    parts.append((step, misfit))
    return parts


def foreign(function: Convert) -> Convert:
    """A hook or a class of the user's, whose every exception is a `Misfit`."""

    def convert(value: Any) -> Any:
        try:
            return function(value)
        except (Misfit, RecursionError, MemoryError):
            raise
        except Exception as exception:
            raise Misfit(reason_of(exception)) from exception

    return convert


def reason_of(exception: Exception) -> str:
    """What an exception that is no `Misfit` says."""
    if isinstance(exception, RecursionError):
        return "is nested too deeply, or contains itself"
    if isinstance(exception, BaseValidationError):
        return ", ".join(transform_error(exception, path=""))
    return f"{type(exception).__name__}: {exception}"


def explain(exception: Exception) -> str:
    """All problems in one line, as `path: reason; path: reason`; after a hundred, how many more there are."""
    if not isinstance(exception, Misfit):
        return reason_of(exception)
    problems = exception.problems()
    named = [(path.removeprefix("."), reason) for path, reason in islice(problems, 100)]
    lines = [f"{path}: {reason}" if path else reason for path, reason in named]
    more = sum(1 for _ in problems)
    return "; ".join([*lines, f"and {more} more"] if more else lines)


def each(items: Iterable[Any], convert: Convert) -> list[Any]:
    """Every item converted. Goes on after a misfit, so that all are named."""
    out: list[Any] = []
    parts: list[Part] | None = None
    for item in items:
        try:
            out.append(convert(item))
        except Misfit as misfit:
            parts = note(parts, f"[{len(out)}]", misfit)
            out.append(None)
    if parts is not None:
        raise Parts(parts)
    return out


def refusal(reason: str) -> Codec:
    """The codec of an annotation that can't be kept. It raises at use, where the path is known."""

    def refuse(value: Any) -> Any:
        raise Misfit(f"{show(value)} can't be kept: {reason}")

    return Codec(refuse, refuse)


def show(value: Any) -> str:
    """A short repr, for messages."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2
