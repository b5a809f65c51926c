"""Codecs of lists, tuples, sets and dicts.

`list`, `tuple`, `set`, `frozenset` and `dict` take exactly their own kind. An abstract type, such as
`Sequence` or `Mapping`, promises its interface only: it takes any of its kind, and reads a list,
frozenset, set or dict.
"""

from __future__ import annotations

import json
import typing
from collections import abc
from collections.abc import Callable
from typing import Any, Unpack, get_args, get_origin

from durable_sync.converters.codec import (
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

__all__ = ["container_codec"]

_COLLECTIONS: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    abc.Sequence: list,
    abc.MutableSequence: list,
    abc.Collection: list,
    abc.Iterable: list,
    abc.Set: frozenset,
    abc.MutableSet: set,
}
_BARE_TUPLES = (tuple, typing.Tuple)  # noqa: UP006 - `tuple[()]`, which has no arguments either, is none of them
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)


def container_codec(annotation: Any, codec_of: CodecOf) -> Codec | None:
    """The codec of a container, or None for other annotations."""
    origin = get_origin(annotation) or annotation
    if origin is tuple:
        return _tuple_codec(annotation, codec_of)
    if origin in _MAPPINGS:
        return _mapping_codec(annotation, origin, codec_of)
    if origin in _COLLECTIONS:
        return _collection_codec(annotation, origin, codec_of)
    return None


def _takes(origin: Any) -> Callable[[Any], bool]:
    """Whether a value is of the kind: exactly a concrete type, or any of an abstract one."""
    if origin in (list, tuple, set, frozenset, dict):
        return lambda value: type(value) is origin
    if origin in (abc.Collection, abc.Iterable):
        # Iterable and Collection are read as a list, so a set, a dict or a generator would not come back.
        origin = abc.Sequence
    not_one = (str, bytes, bytearray, memoryview)
    return lambda value: isinstance(value, origin) and not isinstance(value, not_one)


def _collection_codec(annotation: Any, origin: Any, codec_of: CodecOf) -> Codec:
    item = codec_of(next(iter(get_args(annotation)), Any))
    takes, make, encode_item, decode_item = _takes(origin), _COLLECTIONS[origin], item.encode, item.decode

    def encode(value: Any) -> list[Any]:
        if not takes(value):
            raise WrongType(value, annotation)
        return each(value, encode_item)

    def decode(value: Any) -> Any:
        if class_of(value) is not list:
            raise WrongType(value, annotation)
        items = each(value, decode_item)
        return items if make is list else make(items)

    return Codec(encode, decode, frozenset({"array"}))


def _tuple_codec(annotation: Any, codec_of: CodecOf) -> Codec:
    arguments = get_args(annotation)
    if arguments[1:] == (...,) or annotation in _BARE_TUPLES:
        return _collection_codec(annotation, tuple, codec_of)
    if any(get_origin(a) is Unpack or getattr(a, "__unpacked__", False) for a in arguments):
        return refusal("a tuple of a part of fixed and a part of any length is not supported")
    items = [codec_of(argument) for argument in arguments]

    def convert(value: Any, expected: Any, convert_items: list[Any]) -> list[Any]:
        if type(value) is not expected or len(value) != len(items):
            raise WrongType(value, annotation)
        pairs = zip(convert_items, value, strict=True)
        return each(pairs, lambda pair: pair[0](pair[1]))

    encoders = [item.encode for item in items]
    decoders = [item.decode for item in items]
    return Codec(
        lambda value: convert(value, tuple, encoders),
        lambda value: tuple(convert(value, list, decoders)),
        frozenset({"array"}),
    )


def _mapping_codec(annotation: Any, origin: Any, codec_of: CodecOf) -> Codec:
    key_type, value_type = get_args(annotation) or (Any, Any)
    key = _key_codec(codec_of(str if key_type is Any else key_type))
    item, takes = codec_of(value_type), _takes(origin)

    def encode(value: Any) -> dict[str, Any]:
        if not takes(value):
            raise WrongType(value, annotation)
        out = _convert_items(value, key.encode, item.encode)
        if len(out) != len(value):
            raise Misfit(f"{show(value)} can't be kept: two of its keys are written the same")
        return out

    def decode(value: Any) -> dict[Any, Any]:
        if class_of(value) is not dict:
            raise WrongType(value, annotation)
        return _convert_items(value, key.decode, item.decode)

    return Codec(encode, decode, frozenset({"object"}))


def _convert_items(
    items: Any, convert_key: Callable[[Any], Any], convert_value: Callable[[Any], Any]
) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    parts: list[Part] | None = None
    for key, value in items.items():
        try:
            new_key = convert_key(key)
        except Misfit as misfit:
            parts = note(parts, f"[{show(key)}] (key)", misfit)
            new_key = None
        try:
            out[new_key] = convert_value(value)
        except Misfit as misfit:
            parts = note(parts, f"[{show(key)}]", misfit)
    if parts is not None:
        raise Parts(parts)
    return out


def _key_codec(codec: Codec) -> Codec:
    """Keys of JSON objects are strings: whatever else a key is written as, it is written as JSON in one."""
    if codec.shapes == frozenset[Shape]({"string"}):
        return codec

    def decode(text: str) -> Any:
        try:
            written = json.loads(text)
        except ValueError:
            written = text  # the codec then says what it should have been
        return codec.decode(written)

    return Codec(lambda key: json.dumps(codec.encode(key)), decode)
