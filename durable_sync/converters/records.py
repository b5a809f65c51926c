"""Codecs of classes with fields: attrs classes, dataclasses, NamedTuples, TypedDicts.

A record is a JSON object by field name. Unknown fields in it are ignored, and absent ones with a
default are filled in, so that old and new code can share a database during a deploy. An instance
of a subclass carries its class's name as `_type`, and comes back as that subclass.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NotRequired, Required, cast, get_origin, get_type_hints

import attrs
from attrs import frozen

from durable_sync.converters.annotations import bindings, is_class, substitute
from durable_sync.converters.codec import (
    TAG,
    VALUE,
    Codec,
    CodecOf,
    Convert,
    Misfit,
    Part,
    Parts,
    WrongType,
    class_of,
    foreign,
    note,
    show,
)

__all__ = ["is_record", "record_codec"]

_UNSET = object()


def is_typed_dict(cls: type[Any]) -> bool:
    """Also for those of typing_extensions, which `typing.is_typeddict` does not know."""
    bases: tuple[Any, ...] = cls.__mro__
    return dict in bases and hasattr(cls, "__required_keys__")


def is_record(annotation: Any) -> bool:
    """True for a class with fields, also with type arguments."""
    cls: Any = get_origin(annotation) or annotation
    if not is_class(cls):
        return False
    bases: tuple[Any, ...] = cls.__mro__
    is_named_tuple = tuple in bases and hasattr(cls, "_fields")
    return attrs.has(cls) or dataclasses.is_dataclass(cls) or is_named_tuple or is_typed_dict(cls)


def record_codec(annotation: Any, codec_of: CodecOf) -> Codec:
    """The codec of one record class. Its fields are looked at on first use: it may contain itself."""
    record = _Record(annotation, codec_of)
    # A TypedDict may have a key of the tag's name, and a class's name does not tell Box[int] from Box[str].
    names_itself = record.names_itself if is_class(annotation) and not record.is_dict else None
    return Codec(record.encode, record.decode, frozenset({"object"}), names_itself)


@frozen
class _Field:
    name: str
    keyword: str
    """What `__init__` calls it."""
    annotation: Any
    is_required: bool
    in_init: bool = True


class _Record:
    def __init__(self, annotation: Any, codec_of: CodecOf) -> None:
        self._annotation = annotation
        self._codec_of = codec_of
        self._class: type = get_origin(annotation) or annotation
        self.is_dict = is_typed_dict(self._class)
        self._value_class = dict if self.is_dict else self._class
        self._subclasses: dict[type, Codec] = {}

    def encode(self, value: Any) -> dict[str, Any]:
        kind = class_of(value)
        if kind is self._value_class:
            return self._encode_dict(value) if self.is_dict else self._encode_fields(value)
        if self.is_dict or not isinstance(value, self._class):
            raise WrongType(value, self._annotation)
        codec = self._subclasses.get(kind) or self._subclass(kind)
        encoded = codec.encode(value)
        name = kind.__name__
        return {TAG: name, **encoded} if codec.names_itself else {TAG: name, VALUE: encoded}

    def decode(self, value: Any) -> Any:
        if class_of(value) is not dict:
            raise WrongType(value, self._annotation)
        tag: Any = value.get(TAG)
        if self.is_dict or tag is None or tag == self._class.__name__:
            return self._decode_fields(value)
        cls = self._find(tag)
        if cls is None:
            raise Misfit(f"{show(tag)} is not the name of {self._class.__name__} or one of its subclasses here")
        codec = self._codec_of(cls)
        return codec.decode(value if codec.names_itself else value.get(VALUE))

    def names_itself(self, tag: str) -> bool:
        return tag == self._class.__name__ or self._find(tag) is not None

    def _subclass(self, cls: type) -> Codec:
        self._find(cls.__name__)  # refuses a name that two subclasses share
        return self._subclasses.setdefault(cls, self._codec_of(cls))

    def _find(self, name: str) -> type | None:
        # attrs and dataclasses make a class twice for slots, with one qualified name: the last counts.
        named = (cls for cls in _subclasses(self._class) if cls.__name__ == name)
        found = {(cls.__module__, cls.__qualname__): cls for cls in named}
        if len(found) > 1:
            raise Misfit(f"{self._class.__name__} has {len(found)} subclasses named {name}")
        return next(iter(found.values()), None)

    @cached_property
    def _fields(self) -> list[_Field]:
        fields = list(_fields_of(self._annotation))
        if self.is_dict:
            return fields
        if any(field.name == TAG for field in fields):
            raise Misfit(f"{self._class.__name__} can't be kept: {TAG!r} is not free as a field's name")
        try:
            inspect.signature(self._class).bind(**{f.keyword: None for f in fields if f.in_init})
        except TypeError as error:
            raise Misfit(f"{self._class.__name__} can't be rebuilt from its fields: {error}") from None
        return fields

    @cached_property
    def _encoders(self) -> list[tuple[str, Convert]]:
        return [(f.name, self._codec_of(f.annotation).encode) for f in self._fields]

    @cached_property
    def _decoders(self) -> list[tuple[str, str, Convert, bool]]:
        return [(f.name, f.keyword, self._codec_of(f.annotation).decode, f.is_required) for f in self._fields]

    @cached_property
    def _set_after_init(self) -> list[str]:
        return [f.name for f in self._fields if not f.in_init]

    def _encode_fields(self, value: Any) -> dict[str, Any]:
        out: dict[str, Any] = {}
        parts: list[Part] | None = None
        for name, encode in self._encoders:
            try:
                field_value = getattr(value, name, _UNSET)
                if field_value is _UNSET:
                    raise Misfit("is not set")
                out[name] = encode(field_value)
            except Misfit as misfit:
                parts = note(parts, f".{name}", misfit)
        if parts is not None:
            raise Parts(parts)
        return out

    def _encode_dict(self, value: dict[Any, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        parts: list[Part] | None = None
        for field, (name, encode) in zip(self._fields, self._encoders, strict=True):
            try:
                if name in value:
                    out[name] = encode(value[name])
                elif field.is_required:
                    raise Misfit("is missing")
            except Misfit as misfit:
                parts = note(parts, f".{name}", misfit)
        for key in value.keys() - {field.name for field in self._fields}:
            parts = note(parts, f"[{show(key)}]", Misfit(f"is not a key of {self._class.__name__}"))
        if parts is not None:
            raise Parts(parts)
        return out

    def _decode_fields(self, value: dict[str, Any]) -> Any:
        arguments: dict[str, Any] = {}
        parts: list[Part] | None = None
        for name, keyword, decode, is_required in self._decoders:
            if name in value:
                try:
                    arguments[keyword] = decode(value[name])
                except Misfit as misfit:
                    parts = note(parts, f".{name}", misfit)
            elif is_required:
                parts = note(parts, f".{name}", Misfit("is missing"))
        if parts is not None:
            raise Parts(parts)
        return arguments if self.is_dict else self._make(arguments)

    @cached_property
    def _make(self) -> Convert:
        return foreign(self._build)

    def _build(self, arguments: dict[str, Any]) -> Any:
        late = {name: arguments.pop(name) for name in self._set_after_init if name in arguments}
        instance = self._class(**arguments)
        for name, value in late.items():
            object.__setattr__(instance, name, value)  # also where the class is frozen
        return instance


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    subclass: type[Any]
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _fields_of(annotation: Any) -> Iterator[_Field]:
    """The fields in order, with annotations resolved and type variables replaced."""
    cls: Any = get_origin(annotation) or annotation
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise Misfit(f"{cls.__name__} can't be kept: in its annotations, {error}") from None
    bound = bindings(annotation)
    for name, given in _arguments_of(cls, hints):
        owner = next((base for base in cls.__mro__ if name in inspect.get_annotations(base)), cls)
        hint = substitute(hints.get(name, given.annotation), bound.get(owner, {}))
        yield attrs.evolve(given, annotation=hint)


def _arguments_of(cls: Any, hints: dict[str, Any]) -> Iterator[tuple[str, _Field]]:
    if attrs.has(cls):
        for a in attrs.fields(cls):
            hint = Any if a.type is None else a.type
            is_required = a.init and a.default is attrs.NOTHING
            yield a.name, _Field(a.name, a.alias or a.name, hint, is_required, a.init)
    elif dataclasses.is_dataclass(cls):
        for f in dataclasses.fields(cls):
            is_required = f.init and f.default is f.default_factory is dataclasses.MISSING
            yield f.name, _Field(f.name, f.name, f.type, is_required, f.init)
    elif is_typed_dict(cls):
        for name, hint in hints.items():
            # __required_keys__ can't see a NotRequired inside a string annotation.
            is_required = get_origin(hint) is Required or (
                get_origin(hint) is not NotRequired and name in cls.__required_keys__
            )
            yield name, _Field(name, name, hint, is_required)
    else:
        defaults = cast(dict[str, Any], getattr(cls, "_field_defaults", {}))
        for name in cast(tuple[str, ...], cls._fields):
            yield name, _Field(name, name, Any, name not in defaults)
