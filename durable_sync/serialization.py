"""Values to JSON text and back, by annotation.

Two promises: what `loads` returns equals what `dumps` was given, and what can't keep that is
refused with its path, never changed silently. The JSON is Python's: ASCII only, without NUL and
lone surrogates (they are escaped, so every database takes it), integers of any size, and the
literals `NaN`, `Infinity` and `-Infinity`.

By itself orjson reads an integer over 64 bits as a float, can't read `NaN`, and writes it as null, so it is
not used merely because it is installed: `OrjsonSerializer` asks for it, and keeps both promises.
"""

from __future__ import annotations

import json
import re
from typing import Any

import cattrs

from durable_sync.converters import Misfit, explain, make_converter
from durable_sync.errors import ConfigurationError, SerializationError

__all__ = ["OrjsonSerializer", "Serializer", "make_converter"]


class Serializer:
    """Converts values to JSON text and back by their annotation, strictly both ways.

    `converter` is best one of `make_converter()` with hooks of your own; any other cattrs
    converter works, and is as strict as its own hooks are. To replace it whole, subclass and
    override both methods: annotations are anything that a parameter may have, and a TypedDict for
    the arguments of a function. May be called from any thread.
    """

    def __init__(self, converter: cattrs.Converter | None = None) -> None:
        self._converter = converter if converter is not None else make_converter()

    def dumps(self, value: Any, annotation: Any = Any) -> str:
        """The JSON text of `value`. Raises SerializationError naming all that does not fit."""
        try:
            return self._encode(self._converter.get_unstructure_hook(annotation)(value))
        except Exception as exception:
            raise _error(exception) from _cause(exception)

    def loads(self, text: str, annotation: Any = Any) -> Any:
        """The value that `text` was made of. Raises SerializationError naming all that does not fit."""
        try:
            value = self._decode(text)
        except (ValueError, RecursionError) as error:
            raise SerializationError(f"the stored text is not JSON that can be read: {error}") from error
        try:
            return self._converter.get_structure_hook(annotation)(value, annotation)
        except Exception as exception:
            raise _error(exception) from _cause(exception)

    def _encode(self, value: Any) -> str:
        return _encode_json(value)

    def _decode(self, text: str) -> Any:
        return _decode_json(text)


class OrjsonSerializer(Serializer):
    """A Serializer that reads and writes the same JSON faster; it needs the extra `orjson`.

    What orjson would change or refuse goes through the standard library, so both serializers read each
    other's text, and executors with either can share a database. ConfigurationError if orjson is not installed.
    """

    def __init__(self, converter: cattrs.Converter | None = None) -> None:
        super().__init__(converter)
        try:
            import orjson
        except ImportError as error:
            raise ConfigurationError("orjson is not installed: pip install 'durable-sync[orjson]'") from error
        self._orjson_dumps = orjson.dumps
        self._orjson_loads = orjson.loads

    def _encode(self, value: Any) -> str:
        try:
            written = self._orjson_dumps(value)
        except TypeError:
            return super()._encode(value)
        # A null may have been NaN, and text that isn't ASCII is promised to be escaped.
        return super()._encode(value) if b"null" in written or not written.isascii() else written.decode("ascii")

    def _decode(self, text: str) -> Any:
        if _LONG_NUMBER.search(text):
            return super()._decode(text)
        try:
            return self._orjson_loads(text)
        except ValueError:
            return super()._decode(text)


_LONG_NUMBER = re.compile(r"\d{19}", re.ASCII)
"""Perhaps an integer over 64 bits, which orjson reads as a float."""

# Cycles need no check here: a converter has walked all of it before.
_encode_json = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode
_decoder = json.JSONDecoder()


def _decode_json(text: str) -> Any:
    # `decode` looks for white space before and after, which costs more than to read a short text; we write none.
    try:
        value, end = _decoder.raw_decode(text)
    except ValueError:
        return _decoder.decode(text)
    return value if end == len(text) else _decoder.decode(text)


def _error(exception: Exception) -> SerializationError:
    return SerializationError(explain(exception))


def _cause(exception: Exception) -> Exception | None:
    """What a hook or a class of the user's raised is worth a traceback; our own message says it all."""
    return None if isinstance(exception, Misfit) else exception
