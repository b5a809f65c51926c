"""Codecs of unions.

A member is written as it is where the JSON type alone tells it from the others; else it carries
its name: a record as `{"_type": "Dog", ...}`, another value as `{"_type": "date", "_value": ...}`.
What is written must not depend on the order of the members: `A | B` equals `B | A`, and shares its codec.
"""

from __future__ import annotations

from types import NoneType
from typing import Any, get_args

from attrs import frozen

from durable_sync.converters.annotations import describe, is_union
from durable_sync.converters.codec import (
    TAG,
    VALUE,
    Codec,
    CodecOf,
    Convert,
    Misfit,
    Parts,
    Shape,
    WrongType,
    class_of,
    refusal,
    show,
)

__all__ = ["union_codec"]

_NULL: frozenset[Shape] = frozenset({"null"})
_NATURAL: dict[Shape, Any] = {"bool": bool, "int": int, "float": float, "string": str}
_SHAPES: dict[type, Shape] = {
    NoneType: "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "string",
    list: "array",
    dict: "object",
}


def union_codec(annotation: Any, codec_of: CodecOf) -> Codec:
    """The codec of `A | B`, `Union` or `Optional`."""
    members = list(_flatten(annotation))
    others = [member for member in members if member not in (None, NoneType)]
    codecs = [codec_of(member) for member in others]
    if len(others) == 1:
        codec = codecs[0]
    else:
        names = [describe(member) for member in others]
        if len(set(names)) < len(names):
            return refusal(f"two members of {describe(annotation)} have the same name")
        union = _Union(annotation, _members(others, names, codecs))
        codec = Codec(union.encode, union.decode, union.shapes)
    return _optional(codec) if len(others) < len(members) else codec


def _flatten(annotation: Any) -> Any:
    for member in get_args(annotation):
        value = getattr(member, "__value__", None)  # an alias made by `type X = ...`
        if value is not None and is_union(value):
            yield from _flatten(value)
        else:
            yield member


def _optional(codec: Codec) -> Codec:
    encode_value, decode_value = codec.encode, codec.decode

    def encode(value: Any) -> Any:
        return None if value is None else encode_value(value)

    def decode(value: Any) -> Any:
        return None if value is None else decode_value(value)

    return Codec(encode, decode, codec.shapes | _NULL)


@frozen(eq=False)
class _Member:
    name: str
    codec: Codec
    is_bare: bool
    """Written as it is, without its name."""

    def encode(self, value: Any) -> Any:
        encoded = self.codec.encode(value)
        if self.is_bare:
            return encoded
        if self.codec.names_itself is not None:
            return {TAG: self.name, **encoded}  # a subclass has put its own name there already
        return {TAG: self.name, VALUE: encoded}

    def decode_tagged(self, value: dict[str, Any]) -> Any:
        return self.codec.decode(value if self.codec.names_itself is not None else value.get(VALUE))


def _members(annotations: list[Any], names: list[str], codecs: list[Codec]) -> list[_Member]:
    def is_alone(index: int, shape: Shape) -> bool:
        others = codecs[:index] + codecs[index + 1 :]
        return shape != "unknown" and not any(shape in other.shapes for other in others)

    def is_told(index: int) -> bool:
        return all(
            is_alone(index, shape)
            or _NATURAL.get(shape) is annotations[index]
            # An int is a float too, and is kept as the int it is by either.
            or (shape == "int" and annotations[index] is float and int in annotations)
            for shape in codecs[index].shapes
        )

    told = [is_told(index) for index in range(len(codecs))]
    # Names live in objects. Once there are any, an object without one would be ambiguous.
    if not all(told):
        told = [is_told(index) and "object" not in codec.shapes for index, codec in enumerate(codecs)]
    return [_Member(*args) for args in zip(names, codecs, told, strict=True)]


class _Union:
    def __init__(self, annotation: Any, members: list[_Member]) -> None:
        self._annotation = annotation
        self._encoders: list[Convert] = [member.encode for member in members]
        self._encoder_of: dict[type, Convert] = {}
        self._named = {member.name: member for member in members if not member.is_bare}
        self._bare: dict[Shape, Codec] = {
            shape: member.codec for member in members if member.is_bare for shape in member.codec.shapes
        }
        objects: set[Shape] = {"object"} if self._named else set()
        self.shapes: frozenset[Shape] = frozenset(self._bare) | objects

    def encode(self, value: Any) -> Any:
        # Values of one class mostly fit one member: the one that fitted last is asked first.
        kind = class_of(value)
        likely = self._encoder_of.get(kind)
        failures: list[Misfit] = []
        for encode in self._encoders if likely is None else (likely, *self._encoders):
            if encode is likely and failures:
                continue
            try:
                encoded = encode(value)
            except Misfit as misfit:
                failures.append(misfit)
            else:
                self._encoder_of[kind] = encode
                return encoded
        raise self._meant(value, failures)

    def decode(self, value: Any) -> Any:
        shape = _SHAPES[type(value)]
        if shape == "object" and self._named:
            return self._decode_object(value)
        codec = self._bare.get(shape)
        if codec is None:
            raise WrongType(value, self._annotation)
        return codec.decode(value)

    def _decode_object(self, value: dict[str, Any]) -> Any:
        tag: Any = value.get(TAG)
        if not isinstance(tag, str):
            return self._decode_unnamed(value)
        member = self._named.get(tag) or self._member_with_subclass(tag)
        if member is None:
            raise Misfit(f"{show(tag)} is none of {describe(self._annotation)}")
        return member.decode_tagged(value)

    def _member_with_subclass(self, tag: str) -> _Member | None:
        for member in self._named.values():
            if member.codec.names_itself is not None and member.codec.names_itself(tag):
                return member
        return None

    def _decode_unnamed(self, value: dict[str, Any]) -> Any:
        """What was written when the annotation had one record only: the one member that it fits."""
        fits: list[Any] = []
        failures: list[Misfit] = []
        for member in self._named.values():
            if "object" in member.codec.shapes:
                try:
                    fits.append(member.codec.decode(value))
                except Misfit as misfit:
                    failures.append(misfit)
        if len(fits) != 1:
            raise self._meant(value, failures if not fits else [])
        return fits[0]

    def _meant(self, value: Any, failures: list[Misfit]) -> Misfit:
        # The member whose parts did not fit is the one that was meant.
        for failure in failures:
            if isinstance(failure, Parts):
                return failure
        return WrongType(value, self._annotation)
