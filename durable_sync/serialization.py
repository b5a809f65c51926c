"""Values to JSON text and back, by annotation.

Two promises: what `loads` returns equals what `dumps` was given, and what can't keep that is
refused with its path, never changed silently. The JSON is Python's: ASCII only, without NUL and
lone surrogates (they are escaped, so every database takes it), integers of any size, and the
literals `NaN`, `Infinity` and `-Infinity`.

The standard library reads and writes it even where orjson is installed: orjson reads an integer
over 64 bits as a float, can't read `NaN`, and writes it as null.
"""

from __future__ import annotations

import json
from typing import Any

import cattrs

from durable_sync.converters import Misfit, explain, make_converter
from durable_sync.errors import SerializationError

__all__ = ["Serializer", "make_converter"]


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
            return _encode(self._converter.get_unstructure_hook(annotation)(value))
        except Exception as exception:
            raise _error(exception) from _cause(exception)

    def loads(self, text: str, annotation: Any = Any) -> Any:
        """The value that `text` was made of. Raises SerializationError naming all that does not fit."""
        try:
            value = _decode(text)
        except (ValueError, RecursionError) as error:
            raise SerializationError(f"the stored text is not JSON that can be read: {error}") from error
        try:
            return self._converter.get_structure_hook(annotation)(value, annotation)
        except Exception as exception:
            raise _error(exception) from _cause(exception)


# Cycles need no check here: a converter has walked all of it before.
_encode = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def _error(exception: Exception) -> SerializationError:
    return SerializationError(explain(exception))


def _cause(exception: Exception) -> Exception | None:
    """What a hook or a class of the user's raised is worth a traceback; our own message says it all."""
    return None if isinstance(exception, Misfit) else exception
