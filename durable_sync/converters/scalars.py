"""Codecs of single values: numbers, text, times, ids, enums, literals, and `Any`.

Types are compared exactly: `True` is no int, a StrEnum member is no str, a datetime is no date,
because what comes back would be another value. An int is a float (PEP 484), and stays an int.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import NoneType
from typing import Any, TypeVar, get_args
from uuid import UUID
from zoneinfo import ZoneInfo

from durable_sync.converters.codec import (
    UNKNOWN,
    Codec,
    CodecOf,
    Misfit,
    Part,
    Parts,
    Shape,
    WrongType,
    class_of,
    each,
    note,
    refusal,
    show,
)

__all__ = ["ANY", "SCALARS", "enum_codec", "literal_codec"]

T = TypeVar("T")

_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_MICROSECOND = timedelta(microseconds=1)


def _native(cls: type, shape: Shape) -> Codec:
    """What JSON has itself."""

    def check(value: Any) -> Any:
        if type(value) is cls:
            return value
        raise WrongType(value, cls)

    return Codec(check, check, frozenset({shape}))


def _written(
    cls: type[T],
    write: Callable[[T], Any],
    read: Callable[[Any], T],
    *,
    as_: type = str,
    instances_of: type | None = None,
) -> Codec:
    """What is kept as a JSON string, or as another JSON type."""
    exact: Any = instances_of or cls

    def encode(value: Any) -> Any:
        if type(value) is exact:
            return write(value)
        raise WrongType(value, cls)

    def decode(value: Any) -> Any:
        if type(value) is as_:
            try:
                return read(value)
            except (ValueError, ArithmeticError):
                pass
        raise WrongType(value, cls)

    return Codec(encode, decode, frozenset({"string" if as_ is str else "int"}))


def _path(cls: type[PurePath]) -> Codec:
    # A Path is an instance of PosixPath or WindowsPath, whichever this machine has.
    return _written(cls, lambda path: check_text(str(path)), cls, instances_of=type(cls()))


def check_text(value: str) -> str:
    """The string, unless JSON would change it: a high and a low surrogate come back as one character."""
    if not value.isascii() and _SURROGATE_PAIR.search(value):
        raise Misfit(f"{show(value)} can't be kept: it has a surrogate pair, which is not text")
    return value


def _encode_str(value: Any) -> str:
    if type(value) is str:
        return value if value.isascii() else check_text(value)
    raise WrongType(value, str)


def _check_float(value: Any) -> int | float:
    if type(value) is float or type(value) is int:
        return value
    raise WrongType(value, float)


def _write_bytes(value: bytes | bytearray) -> str:
    return b64encode(value).decode()


def _read_bytes(text: str) -> bytes:
    return b64decode(text, validate=True)


def _write_datetime(value: datetime) -> str:
    """ISO 8601, with the key of a ZoneInfo behind it (RFC 9557): an offset alone is no time zone."""
    if value.tzinfo is not None and value.utcoffset() is None:
        raise Misfit(f"{show(value)} can't be kept: its tzinfo has no offset")
    key = value.tzinfo.key if isinstance(value.tzinfo, ZoneInfo) else None
    return value.isoformat() + (f"[{key}]" if key else "")


def _read_datetime(text: str) -> datetime:
    stamp, _, key = text.partition("[")
    if len(stamp) <= len("2000-01-01"):
        raise ValueError(text)  # a date, which fromisoformat would take for midnight
    read = datetime.fromisoformat(stamp)
    if not key:
        return read
    zone = ZoneInfo(key.removesuffix("]"))
    for fold in (0, 1):
        local = read.replace(tzinfo=zone, fold=fold)
        if local.utcoffset() == read.utcoffset():
            return local
    return read.astimezone(zone)  # the zone's rules have changed since: the instant is what counts


def _write_time(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise Misfit(f"{show(value)} can't be kept: the offset of its time zone depends on the date")
    return value.isoformat()


def _encode_any(value: Any) -> Any:
    kind = class_of(value)
    if kind is str:
        return _encode_str(value)
    if kind is int or kind is float or kind is bool or value is None:
        return value
    if kind is list:
        return each(value, _encode_any)
    if kind is not dict:
        raise Misfit(
            f"{show(value)} is a {kind.__name__}: annotate it, since without an annotation only JSON values "
            "(str, int, float, bool, None, list, dict with str keys) are kept"
        )
    out: dict[str, Any] = {}
    parts: list[Part] | None = None
    for key, item in value.items():
        try:
            out[_encode_str(key)] = _encode_any(item)
        except Misfit as misfit:
            parts = note(parts, f"[{show(key)}]", misfit)
    if parts is not None:
        raise Parts(parts)
    return out


ANY = Codec(_encode_any, lambda value: value, UNKNOWN)

SCALARS: dict[Any, Codec] = {
    None: _native(NoneType, "null"),
    NoneType: _native(NoneType, "null"),
    bool: _native(bool, "bool"),
    int: _native(int, "int"),
    float: Codec(_check_float, _check_float, frozenset({"int", "float"})),
    str: Codec(_encode_str, _native(str, "string").decode, frozenset({"string"})),
    bytes: _written(bytes, _write_bytes, _read_bytes),
    bytearray: _written(bytearray, _write_bytes, lambda text: bytearray(_read_bytes(text))),
    Decimal: _written(Decimal, str, Decimal),
    UUID: _written(UUID, str, UUID),
    datetime: _written(datetime, _write_datetime, _read_datetime),
    date: _written(date, date.isoformat, date.fromisoformat),
    time: _written(time, _write_time, time.fromisoformat),
    # Whole microseconds, because seconds as a float lose some after 270 years.
    timedelta: _written(timedelta, lambda value: value // _MICROSECOND, lambda n: timedelta(microseconds=n), as_=int),
    **{cls: _path(cls) for cls in (PurePath, PurePosixPath, PureWindowsPath, Path, type(Path()))},
}


def enum_codec(cls: type[Enum]) -> Codec:
    """By value where all values are strings or ints, as those of flags are; else by name."""
    types: set[type[Any]] = {type(member.value) for member in cls.__members__.values()}
    by_value = types <= {str, int}
    members: dict[Any, Enum] = {}
    for member in cls:
        key = member.value if by_value else member.name
        members[type(key), key] = member

    def encode(value: Any) -> Any:
        if type(value) is not cls:
            raise WrongType(value, cls)
        return value.value if by_value else value.name

    def decode(value: Any) -> Any:
        member = members.get((type(value), value)) if type(value) in (str, int) else None
        if member is not None:
            return member
        if by_value and type(value) in types:
            try:
                return cls(value)  # a combination of flags, or what the enum's own _missing_ accepts
            except (ValueError, KeyError):
                pass
        raise WrongType(value, cls)

    shapes: set[Shape] = {"int" if t is int and by_value else "string" for t in types}
    return Codec(encode, decode, frozenset(shapes))


def literal_codec(annotation: Any, codec_of: CodecOf) -> Codec:
    """One of the listed values. Those of an enum are written as the enum's codec does."""
    values = get_args(annotation)
    codecs = [codec_of(type(value)) for value in values]
    written: dict[Any, Any] = {(type(v), v): codec.encode(v) for v, codec in zip(values, codecs, strict=True)}
    read: dict[Any, Any] = {(type(text), text): value for (_, value), text in written.items()}
    if len(read) < len(written):
        return refusal(f"two values of {annotation} are written the same")

    def look_up(table: dict[Any, Any]) -> Callable[[Any], Any]:
        def convert(value: Any) -> Any:
            try:
                return table[type(value), value]
            except (KeyError, TypeError):  # TypeError: an unhashable value
                raise WrongType(value, annotation) from None

        return convert

    return Codec(look_up(written), look_up(read), frozenset[Shape]().union(*(c.shapes for c in codecs)))
