"""The cattrs converter that holds the codecs."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, get_origin

from attrs import frozen
from cattrs import Converter
from cattrs.dispatch import MultiStrategyDispatch, StructureHook, UnstructureHook

from durable_sync.converters.annotations import describe, is_class, is_union, unwrap
from durable_sync.converters.codec import Codec, CodecOf, foreign, refusal
from durable_sync.converters.containers import container_codec
from durable_sync.converters.records import is_record, record_codec
from durable_sync.converters.scalars import ANY, SCALARS, enum_codec, literal_codec
from durable_sync.converters.unions import union_codec

__all__ = ["StrictConverter", "build_codec", "make_converter"]


def make_converter() -> StrictConverter:
    """A new converter, for `Serializer(converter)`, to register hooks for types of one's own on.

    Register an unstructure and a structure hook for a type before the converter is first used.
    What the first returns must be a JSON value that the second reads.
    """
    return StrictConverter()


class StrictConverter(Converter):
    """Converts both ways by annotation, and refuses what would come back as something else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # cattrs finds its own lenient hooks for str, int, ... by class before it asks any factory,
        # and for every subclass: a StrEnum would be any str. So we start with none of them.
        self._unstructure_func: MultiStrategyDispatch[UnstructureHook] = _only(self._encode_hook, self)
        self._structure_func: MultiStrategyDispatch[StructureHook] = _only(self._decode_hook, self)
        self._unstruct_copy_skip = self._struct_copy_skip = 1

    def get_unstructure_hook(self, type: Any, cache_result: bool = True) -> UnstructureHook:
        """As cattrs's, also for annotations that can't be hashed."""
        if not _is_hashable(type):
            return self._encode_hook(type)
        return super().get_unstructure_hook(type, cache_result)

    def get_structure_hook(self, type: Any, cache_result: bool = True) -> StructureHook:
        """As cattrs's, also for annotations that can't be hashed."""
        if not _is_hashable(type):
            return self._decode_hook(type)
        return super().get_structure_hook(type, cache_result)

    def codec_of(self, annotation: Any) -> Codec:
        """Both hooks of an annotation, whoever registered them."""
        encode, decode = self.get_unstructure_hook(annotation), self.get_structure_hook(annotation)
        if isinstance(decode, _Decode) and decode.codec.encode == encode:
            return decode.codec
        return Codec(foreign(encode), foreign(lambda value: decode(value, annotation)))

    def _encode_hook(self, annotation: Any) -> UnstructureHook:
        decode = self.get_structure_hook(annotation)
        codec = decode.codec if isinstance(decode, _Decode) else build_codec(annotation, self.codec_of)
        return codec.encode

    def _decode_hook(self, annotation: Any) -> StructureHook:
        return _Decode(build_codec(annotation, self.codec_of))


@frozen(eq=False)
class _Decode:
    """Our structure hook; knows the codec it belongs to."""

    codec: Codec

    def __call__(self, value: Any, _: Any) -> Any:
        return self.codec.decode(value)


def _only(factory: Any, converter: Converter) -> MultiStrategyDispatch[Any]:
    dispatch: MultiStrategyDispatch[Any] = MultiStrategyDispatch(factory, converter)
    dispatch.register_func_list([(lambda _: True, factory, True)])
    return dispatch


def _is_hashable(annotation: Any) -> bool:
    try:
        hash(annotation)
    except TypeError:
        return False
    return True


def build_codec(annotation: Any, codec_of: CodecOf) -> Codec:
    """The codec of any annotation. `codec_of` gives those of the annotations inside it."""
    inner = unwrap(annotation)
    if inner is not annotation:
        return codec_of(inner)
    if annotation is Any or annotation is object:
        return ANY
    if annotation is None or (is_class(annotation) and annotation in SCALARS):
        return SCALARS[annotation]
    if is_union(annotation):
        return union_codec(annotation, codec_of)
    if get_origin(annotation) is Literal:
        return literal_codec(annotation, codec_of)
    if is_class(annotation) and issubclass(annotation, Enum):
        return enum_codec(annotation)
    if is_record(annotation):
        return record_codec(annotation, codec_of)
    if hasattr(annotation, "__value__"):
        return _alias_codec(annotation, codec_of)
    return container_codec(annotation, codec_of) or refusal(
        f"there is no way to write a {describe(annotation)} as JSON; register hooks for it on a converter"
    )


def _alias_codec(annotation: Any, codec_of: CodecOf) -> Codec:
    """`type X = ...`, looked up at use since it may contain itself."""
    return Codec(
        lambda value: codec_of(annotation.__value__).encode(value),
        lambda value: codec_of(annotation.__value__).decode(value),
    )
