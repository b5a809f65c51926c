"""What goes into JSON comes back equal, or is refused with its path."""

import dataclasses
import enum
import json
import math
import re
import sys
import threading
import typing
from collections import OrderedDict, abc, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import cattrs
import pytest
from attrs import define, field, frozen
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from durable_sync.errors import SerializationError
from durable_sync.serialization import Serializer, make_converter

T = TypeVar("T")
BERLIN = ZoneInfo("Europe/Berlin")
SERIALIZER = Serializer()


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Suit(enum.StrEnum):
    HEARTS = "h"
    SPADES = "s"


class OldSuit(str, enum.Enum):  # noqa: UP042 - as people write it
    HEARTS = "h"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Shape(enum.Enum):
    POINT = (0, 0)
    CIRCLE = (1, 360)


class Mixed(enum.Enum):
    TEXT = "1"
    NUMBER = 1


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class Forgiving(enum.Enum):
    KNOWN = "known"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> "Forgiving":
        return cls.UNKNOWN


UserId = NewType("UserId", str)


@frozen
class Line:
    sku: str
    price: int


@frozen
class Order:
    id: UUID
    lines: list[Line]
    note: str | None = None


@define
class Private:
    _secret: str
    counted: int = field(init=False, default=0)


@frozen
class Animal:
    name: str


@frozen
class Dog(Animal):
    age: int


@frozen
class Puppy(Dog):
    chews: bool = True


@dataclass
class Cat:
    name: str
    lives: int = 9


@dataclass(frozen=True, slots=True)
class Plain:
    at: datetime
    tags: frozenset[str] = frozenset()
    computed: int = dataclasses.field(init=False, default=7)


@dataclass(slots=True)
class SlottedPlain(Cat):
    colour: str = "black"


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class StringMovie(TypedDict):
    title: "str"
    year: "NotRequired[int]"


@frozen
class Box(Generic[T]):
    content: T


@frozen
class Pair(Box[list[T]], Generic[T]):
    other: T


@frozen
class IntBox(Box[int]):
    label: str


@frozen
class Node:
    value: int
    next: Optional["Node"] = None
    children: list["Node"] = field(factory=list)


@define
class Branch:
    value: int
    children: list["Branch | Line | str"]


Alias = TypeAliasType("Alias", str | date)

UUID_1 = UUID(int=1)
ROUND_TRIPS: list[tuple[Any, Any]] = [
    (None, None),
    (type(None), None),
    (str, "grün 😀 \x00 \n \ud800 end"),
    (int, 2**200),
    (int, -(2**63) - 1),
    (float, 0.1),
    (float, -0.0),
    (float, math.inf),
    (float, -math.inf),
    (float, 3),
    (float, 2**80 + 1),
    (bool, True),
    (bytes, b"\x00\xff"),
    (bytearray, bytearray(b"\x00\xff")),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("Infinity")),
    (UUID, UUID_1),
    (datetime, datetime(2020, 1, 2, 3, 4, 5, 6)),  # noqa: DTZ001 - naive ones are kept naive
    (datetime, datetime(2020, 1, 2, tzinfo=UTC)),
    (datetime, datetime(2020, 1, 2, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))),
    (datetime, datetime(2020, 7, 2, 12, tzinfo=BERLIN)),
    (date, date(2020, 1, 2)),
    (time, time(1, 2, 3, 4)),
    (time, time(1, 2, tzinfo=UTC)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (timedelta, timedelta.max),
    (timedelta, timedelta.min),
    (Path, Path("a/b")),
    (Path, Path("not-utf8-\udcff")),
    (PurePosixPath, PurePosixPath("/a")),
    (PureWindowsPath, PureWindowsPath("c:\\a")),
    (Color, Color.RED),
    (Suit, Suit.SPADES),
    (OldSuit, OldSuit.HEARTS),
    (Level, Level.HIGH),
    (Shape, Shape.CIRCLE),
    (Mixed, Mixed.TEXT),
    (Mixed, Mixed.NUMBER),
    (Mode, Mode.READ | Mode.WRITE),
    (Mode, Mode(0)),
    (Literal["a", 1, None, True], True),
    (Literal["a", 1, None, True], 1),
    (Literal["a", 1, None, True], None),
    (Literal[Color.RED, "blue"], Color.RED),
    (list[int], [1, 2]),
    (list, [1, "a", None, [2.5], {"a": []}]),
    (typing.List[UUID], [UUID_1]),  # noqa: UP006 - as people write it
    (tuple[int, str], (1, "a")),
    (tuple[UUID, ...], (UUID_1,)),
    (tuple[()], ()),
    (tuple, (1, "a")),
    (set[UUID], {UUID_1}),
    (frozenset[date], frozenset({date(2020, 1, 1)})),
    (dict[str, Decimal], {"": Decimal(1)}),
    (dict, {"a": [1]}),
    (dict[int, str], {1: "a", -(2**70): "b"}),
    (dict[UUID, int], {UUID_1: 1}),
    (dict[date, int], {date(2020, 1, 1): 1}),
    (dict[Color, int], {Color.RED: 1}),
    (dict[Level, int], {Level.LOW: 1}),
    (dict[Literal["a", "b"], int], {"a": 1}),
    (dict[float, int], {0.5: 1, 2: 2}),
    (dict[bool, int], {True: 1}),
    (dict[bool | None, int], {None: 1, False: 2}),
    (dict[int | str, int], {1: 1, "1": 2}),
    (dict[tuple[int, str], int], {(1, "a"): 1}),
    (dict[Path, int], {Path("a"): 1}),
    (dict[UserId, int], {UserId("a"): 1}),
    (abc.Sequence[int], [1]),
    (abc.Mapping[str, date], {"a": date(2020, 1, 1)}),
    (abc.Set[int], frozenset({1})),
    (typing.Mapping[str, int], {"a": 1}),
    (int | None, None),
    (Optional[UUID], UUID_1),  # noqa: UP045 - as people write it
    (Union[int, str], "1"),  # noqa: UP007 - as people write it
    (int | str, 1),
    (int | float, 1),
    (int | float, 1.0),
    (int | bool, True),
    (int | Level, Level.LOW),
    (float | Level, 1),
    (float | timedelta, timedelta(microseconds=1)),
    (str | UUID, UUID_1),
    (str | UUID, str(UUID_1)),
    (str | Suit, "h"),
    (str | Suit, Suit.HEARTS),
    (date | datetime, date(2020, 1, 1)),
    (date | datetime, datetime(2020, 1, 1, tzinfo=UTC)),
    (bytes | str | None, b"ab"),
    (list[int] | list[str], ["a"]),
    (list[int] | tuple[int, ...], (1,)),
    (dict[str, int] | list[int], {"a": 1}),
    (dict[str, Any] | Animal, {"_type": "Animal", "name": "a"}),
    (dict[str, Any] | date | datetime, {"_type": "date", "_value": "2020-01-01"}),
    (Any | datetime, datetime(2020, 1, 1, tzinfo=UTC)),
    (Any | None, [1]),
    (Line, Line("a", 1)),
    (Order, Order(UUID_1, [Line("a", 1)])),
    (Private, Private("a")),
    (Plain, Plain(datetime(2020, 1, 1, tzinfo=UTC), frozenset({"a"}))),
    (Point, Point(1)),
    (Movie, {"title": "a"}),
    (Movie, {"title": "a", "year": 1}),
    (StringMovie, {"title": "a"}),
    (Movie | Line, {"title": "a"}),
    (Animal, Dog("a", 1)),
    (Animal, Puppy("a", 1)),
    (Cat, SlottedPlain("a")),
    (Dog | Cat, Dog("a", 1)),
    (Dog | Cat, Cat("a")),
    (Dog | Cat, Puppy("a", 1)),
    (Animal | Cat | None, SlottedPlain("a", 1)),
    (Animal | int, Puppy("a", 2)),
    (Animal | Dog, Dog("a", 1)),
    (Point | Line, Point(1)),
    (Box[UUID], Box(UUID_1)),
    (Box[list[date]], Box([date(2020, 1, 1)])),
    (Box[int] | Box[UUID], Box(UUID_1)),
    (Box[int], IntBox(1, "a")),
    (Box, Box([1])),
    (Pair[date], Pair([date(2020, 1, 1)], date(2020, 1, 2))),
    (Node, Node(1, Node(2), [Node(3)])),
    (Annotated[int, "positive"], 1),
    (UserId, UserId("a")),
    (Alias, date(2020, 1, 1)),
    (dict[Alias, int], {date(2020, 1, 1): 1, "a": 2}),
    (Alias | UUID, UUID_1),
    (Any, {"a": [None, True, 1.5, "x"]}),
    (object, 1),
    (T, [1]),
]


@frozen
class Holder(Generic[T]):
    held: T


@dataclass
class DataHolder(Generic[T]):
    held: T


def same(left: Any, right: Any) -> bool:
    """Equal, and of one type all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, datetime):
        return left == right and left.tzinfo == right.tzinfo
    if attrs.has(type(left)) or dataclasses.is_dataclass(left):
        names = [f.name for f in getattr(left, "__attrs_attrs__", None) or dataclasses.fields(left)]
        return all(same(getattr(left, name), getattr(right, name)) for name in names)
    return bool(left == right)


def round_trip(value: Any, annotation: Any) -> Any:
    # A serializer of its own reads it: nothing may hang on what another process has seen before.
    return Serializer().loads(SERIALIZER.dumps(value, annotation), annotation)


def refused(function: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(SerializationError) as caught:
        function(*args)
    return caught.value.message


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS, ids=repr)
class TestRoundTrip:
    def test_alone(self, annotation: Any, value: Any) -> None:
        """A value comes back equal and of the same type."""
        assert same(round_trip(value, annotation), value)

    def test_in_an_attrs_class(self, annotation: Any, value: Any) -> None:
        """So does the field of a generic attrs class."""
        assert same(round_trip(Holder(value), Holder[annotation]), Holder(value))

    def test_in_a_dataclass(self, annotation: Any, value: Any) -> None:
        """So does the field of a generic dataclass."""
        assert same(round_trip(DataHolder(value), DataHolder[annotation]), DataHolder(value))

    def test_deep_in_containers(self, annotation: Any, value: Any) -> None:
        """So does an item of a tuple in a dict in a list."""
        nested = [{"a": (value, value)}]
        assert same(round_trip(nested, list[dict[str, tuple[annotation, ...]]]), nested)

    def test_optional(self, annotation: Any, value: Any) -> None:
        """So does what may also be None, and None itself."""
        assert same(round_trip([value, None], list[Optional[annotation]]), [value, None])  # noqa: UP045

    def test_beside_a_class(self, annotation: Any, value: Any) -> None:
        """So does a member of a union with a class, whatever the order of the union."""
        assert same(round_trip(value, Union[annotation, Exotic]), value)  # noqa: UP007
        text = SERIALIZER.dumps(value, Union[annotation, Exotic])  # noqa: UP007
        assert same(Serializer().loads(text, Union[Exotic, annotation]), value)  # noqa: UP007

    def test_text_is_plain(self, annotation: Any, value: Any) -> None:
        """The text is ASCII without control characters, so that every database takes it."""
        assert re.fullmatch(r"[ -~]*", SERIALIZER.dumps(value, annotation))


@frozen
class Exotic:
    unlikely: int


def test_nan_comes_back_as_nan() -> None:
    """Not a number stays that, and is never null."""
    assert math.isnan(round_trip(math.nan, float))
    assert math.isnan(round_trip(math.nan, Any))
    assert round_trip(Decimal("NaN"), Decimal).is_nan()


def test_int_where_a_float_is_annotated() -> None:
    """An int is a float to type checkers; it keeps its value, however large."""
    assert same(round_trip(2**60 + 1, float), 2**60 + 1)


def test_time_zones_keep_their_rules() -> None:
    """A ZoneInfo comes back as one: a day later is the same hour, across the change to summer time."""
    before = datetime(2021, 3, 27, 12, tzinfo=BERLIN)
    after = round_trip(before, datetime) + timedelta(days=1)
    assert after.utcoffset() == timedelta(hours=2)


@pytest.mark.parametrize("fold", [0, 1])
def test_ambiguous_hours_keep_their_instant(fold: int) -> None:
    """Of the two hours at the end of summer time, the one that was meant comes back."""
    meant = datetime(2021, 10, 31, 2, 30, tzinfo=BERLIN, fold=fold)
    assert round_trip(meant, datetime).utcoffset() == meant.utcoffset()


@pytest.mark.parametrize("fold", [0, 1])
def test_hours_that_a_zone_skips(fold: int) -> None:
    """A time that no clock in the zone ever showed comes back as it was."""
    skipped = datetime(2021, 3, 28, 2, 30, tzinfo=BERLIN, fold=fold)
    read = round_trip(skipped, datetime)
    assert same(read, skipped)
    assert read.fold == fold


def test_stored_offset_beats_changed_zone_rules() -> None:
    """Where the zone's rules have changed since it was written, the instant is what counts."""
    read = SERIALIZER.loads('"2021-07-01T12:00:00+07:00[Europe/Berlin]"', datetime)
    assert read == datetime(2021, 7, 1, 5, tzinfo=UTC)
    assert read.tzinfo is BERLIN


def test_annotations_that_cannot_be_hashed() -> None:
    """Metadata of Annotated may be anything."""
    annotation = Annotated[UUID, ["unhashable"]]
    assert round_trip(UUID_1, annotation) == UUID_1
    assert round_trip([Holder(UUID_1)], list[Holder[annotation]]) == [Holder(UUID_1)]
    assert round_trip({UUID_1: (UUID_1, 1)}, dict[annotation, tuple[annotation, int]]) == {UUID_1: (UUID_1, 1)}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the `type` statement came with Python 3.12")
def test_recursive_type_statement() -> None:
    """An alias may contain itself."""
    names: dict[str, Any] = {}
    exec("type Json = str | int | list[Json] | dict[str, Json]", names)
    value = {"a": [1, "b", {"c": []}]}
    assert same(round_trip(value, names["Json"]), value)
    assert refused(SERIALIZER.dumps, {"a": [1.5]}, names["Json"]).startswith("['a']")


# What is refused


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        (int, 1.9, "1.9 is not an int"),
        (int, True, "True is not an int"),
        (int, "1", "'1' is not an int"),
        (int, None, "None is not an int"),
        (int, Level.LOW, "<Level.LOW: 1> is not an int"),
        (str, None, "None is not a str"),
        (str, 1, "1 is not a str"),
        (str, Suit.HEARTS, "<Suit.HEARTS: 'h'> is not a str"),
        (str, b"a", "b'a' is not a str"),
        (float, "1.5", "'1.5' is not a float"),
        (float, True, "True is not a float"),
        (float, Decimal(1), "Decimal('1') is not a float"),
        (bool, 1, "1 is not a bool"),
        (None, 0, "0 is not a None"),
        (bytes, "YQ==", "'YQ==' is not a bytes"),
        (datetime, "2020-01-01T00:00:00", "'2020-01-01T00:00:00' is not a datetime"),
        (date, datetime(2020, 1, 1), "datetime.datetime(2020, 1, 1, 0, 0) is not a date"),  # noqa: DTZ001
        (datetime, date(2020, 1, 1), "datetime.date(2020, 1, 1) is not a datetime"),
        (Decimal, 1.5, "1.5 is not a Decimal"),
        (timedelta, 5, "5 is not a timedelta"),
        (UUID, str(UUID_1), f"'{UUID_1}' is not a UUID"),
        (Path, "a", "'a' is not a Path"),
        (Color, "red", "'red' is not a Color"),
        (Suit, "h", "'h' is not a Suit"),
        (Level, 1, "1 is not a Level"),
        (Literal[1], True, "True is not a Literal[1]"),
        (Literal[1], [], "[] is not a Literal[1]"),
        (list[str], "ab", "'ab' is not a list[str]"),
        (list[int], (1,), "(1,) is not a list[int]"),
        (tuple[int, ...], [1], "[1] is not a tuple[int, ...]"),
        (tuple[int, int], (1,), "(1,) is not a tuple[int, int]"),
        (set[int], frozenset({1}), "frozenset({1}) is not a set[int]"),
        (dict[str, int], OrderedDict(a=1), "is not a dict[str, int]"),
        (dict[str, int], defaultdict(int), "is not a dict[str, int]"),
        (abc.Sequence[str], "ab", "'ab' is not a Sequence[str]"),
        (abc.Iterable[int], {1}, "{1} is not an Iterable[int]"),
        (Line, {"sku": "a", "price": 1}, "is not a Line"),
        (Line, None, "None is not a Line"),
        (Movie, Line("a", 1), "is not a Movie"),
        (Point, (1, 0.5), "(1, 0.5) is not a Point"),
        (Dog, Animal("a"), "Animal(name='a') is not a Dog"),
        (int | None, "1", "'1' is not an int"),
        (int | str, 1.5, "1.5 is not an int | str"),
        (Dog | Cat, {"name": "a"}, "is not a Cat | Dog"),
        (time, time(1, tzinfo=BERLIN), "depends on the date"),
        (str, "\ud83d\ude00", "surrogate pair"),
        (deque[int], deque([1]), "there is no way to write a deque[int] as JSON"),
        (threading.Thread, 1, "register hooks"),
        (Callable[[int], str], print, "can't be kept"),
        (tuple[int, *tuple[str, ...]], (1, "a"), "is not supported"),
    ],
)
class TestRefusedWhenWritten:
    def test_with_its_reason(self, annotation: Any, value: Any, reason: str) -> None:
        """A value that is not of the annotated type is refused, not coerced."""
        assert reason in refused(SERIALIZER.dumps, value, annotation)

    def test_with_its_path(self, annotation: Any, value: Any, reason: str) -> None:
        """The error names where in the value it is."""
        message = refused(SERIALIZER.dumps, [Holder({"a": value})], list[Holder[dict[str, annotation]]])
        assert message.startswith("[0].held['a']: ")
        assert reason in message


@pytest.mark.parametrize(
    ("annotation", "text", "message"),
    [
        (int, "1.9", "1.9 is not an int"),
        (int, "1.0", "1.0 is not an int"),
        (int, "true", "True is not an int"),
        (int, '"1"', "'1' is not an int"),
        (str, "null", "None is not a str"),
        (str, "1", "1 is not a str"),
        (float, "true", "True is not a float"),
        (float, "null", "None is not a float"),
        (bytes, '"a"', "'a' is not a bytes"),
        (datetime, '"2020-01-01"', "'2020-01-01' is not a datetime"),
        (datetime, "0", "0 is not a datetime"),
        (date, '"2020-13-01"', "'2020-13-01' is not a date"),
        (Decimal, '"x"', "'x' is not a Decimal"),
        (Decimal, "1.5", "1.5 is not a Decimal"),
        (UUID, '"x"', "'x' is not a UUID"),
        (timedelta, "1.5", "1.5 is not a timedelta"),
        (timedelta, str(10**30), f"{10**30} is not a timedelta"),
        (Color, '"green"', "'green' is not a Color"),
        (Level, "1.0", "1.0 is not a Level"),
        (Level, "true", "True is not a Level"),
        (Literal["a"], '"b"', "'b' is not a Literal['a']"),
        (list[str], '"ab"', "'ab' is not a list[str]"),
        (set[int], '{"a": 1}', "{'a': 1} is not a set[int]"),
        (tuple[int, int], "[1, 2, 3]", "[1, 2, 3] is not a tuple[int, int]"),
        (dict[str, int], "[]", "[] is not a dict[str, int]"),
        (dict[int, int], '{"a": 1}', "['a'] (key): 'a' is not an int"),
        (Line, '"ab"', "'ab' is not a Line"),
        (Line, '{"price": "1"}', "sku: is missing; price: '1' is not an int"),
        (Animal, '{"_type": "Unicorn"}', "'Unicorn' is not the name of Animal"),
        (Dog | Cat, '{"_type": "Unicorn"}', "'Unicorn' is none of Cat | Dog"),
        (Dog | Cat, "[]", "[] is not a Cat | Dog"),
        (Dog | Cat, '{"_type": "Dog", "name": "a"}', "age: is missing"),
        (int | str, "1.5", "1.5 is not an int | str"),
        (Movie, "{}", "title: is missing"),
        (int, "", "not JSON"),
        (int, "{", "not JSON"),
        (Any, "[" * 100_000, "not JSON"),
    ],
)
def test_refused_when_read(annotation: Any, text: str, message: str) -> None:
    """Stored text that does not fit the annotation is refused, not coerced."""
    assert message in refused(SERIALIZER.loads, text, annotation)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2020, 1, 1, tzinfo=UTC),
        (1, 2),
        {1},
        b"a",
        Line("a", 1),
        Color.RED,
        Suit.HEARTS,
        UUID_1,
        Decimal(1),
    ],
    ids=repr,
)
def test_without_annotation_only_json(value: Any) -> None:
    """Under Any, what JSON would change or can't hold is refused, and the message says to annotate it."""
    for nested, path in ((value, ""), ([value], "[0]: "), ({"a": [value]}, "['a'][0]: ")):
        message = refused(SERIALIZER.dumps, nested)
        assert message.startswith(path)
        assert f"is a {type(value).__name__}: annotate it" in message


def test_keys_without_annotation_are_str() -> None:
    """Under Any, JSON would turn a key of another type into a string: refused."""
    assert refused(SERIALIZER.dumps, {1: "a"}) == "[1]: 1 is not a str"


def test_every_bad_path_is_named() -> None:
    """One error names all that is wrong, not only the first."""
    order = Order(id="x", lines=[Line("a", 1), Line(None, 2), Line("c", 1.9)], note=5)  # type: ignore[arg-type]
    message = refused(SERIALIZER.dumps, {"first": order}, dict[str, Order])
    assert message.split("; ") == [
        "['first'].id: 'x' is not a UUID",
        "['first'].lines[1].sku: None is not a str",
        "['first'].lines[2].price: 1.9 is not an int",
        "['first'].note: 5 is not a str",
    ]
    text = '{"id": "x", "lines": [{"sku": 1}, 5]}'
    assert refused(SERIALIZER.loads, text, Order).split("; ") == [
        "id: 'x' is not a UUID",
        "lines[0].sku: 1 is not a str",
        "lines[0].price: is missing",
        "lines[1]: 5 is not a Line",
    ]


def test_a_flood_of_bad_paths() -> None:
    """A hundred bad paths are named, the rest is counted: a message is not larger than the input."""
    message = refused(SERIALIZER.dumps, ["x"] * 1000, list[int])
    assert message.startswith("[0]: 'x' is not an int; [1]: ")
    assert message.endswith("[99]: 'x' is not an int; and 900 more")


def test_a_long_value_is_shown_short() -> None:
    """A message stays readable whatever the value."""
    assert len(refused(SERIALIZER.dumps, "x" * 10**6, int)) < 100


def test_what_contains_itself() -> None:
    """A value that contains itself is refused, not followed for ever."""
    loop: list[Any] = []
    loop.append(loop)
    assert "contains itself" in refused(SERIALIZER.dumps, loop)
    node = Node(1)
    node.children.append(node)
    assert "contains itself" in refused(SERIALIZER.dumps, node, Node)


def test_deep_nesting() -> None:
    """A chain of two hundred objects is kept, and a value too deep for Python is refused."""
    chain = None
    for value in range(200):
        chain = Node(value, chain)
    assert round_trip(chain, Node) == chain
    for value in range(2000):
        chain = Node(value, chain)
    assert "nested too deeply" in refused(SERIALIZER.dumps, chain, Node)


def test_a_bad_leaf_of_a_deep_tree() -> None:
    """Finding it takes a time that grows with the tree, not with two to the power of its depth."""
    tree: Any = "leaf"
    for value in range(60):
        tree = Branch(value, [tree])
    assert SERIALIZER.loads(SERIALIZER.dumps(tree, Branch), Branch) == tree
    branch = tree
    while branch.children != ["leaf"]:
        branch = branch.children[0]
    branch.value = "x"
    assert refused(SERIALIZER.dumps, tree, Branch) == "children[0]." * 59 + "value: 'x' is not an int"
    branch.value, branch.children = 0, [0]
    assert refused(SERIALIZER.dumps, tree, Branch).endswith("children[0]: 0 is not a Branch | Line | str")


def test_too_many_digits() -> None:
    """An int longer than Python converts to text is a SerializationError like any other."""
    assert "digits" in refused(SERIALIZER.dumps, 10 ** (sys.get_int_max_str_digits() + 1), int)


def test_keys_written_the_same() -> None:
    """Two keys that would become one are refused: a value would be lost."""
    assert "two of its keys" in refused(SERIALIZER.dumps, {math.nan: 1, float("nan"): 2}, dict[float, int])


def test_ambiguous_literal() -> None:
    """A Literal of which two values would be written the same is refused."""
    assert "written the same" in refused(SERIALIZER.dumps, "red", Literal["red", Color.RED])


# Records


def test_unknown_fields_are_ignored() -> None:
    """Old code reads what newer code wrote."""
    assert SERIALIZER.loads('{"sku": "a", "price": 1, "new": [1]}', Line) == Line("a", 1)
    assert SERIALIZER.loads('{"title": "a", "new": 1}', Movie) == {"title": "a"}
    assert SERIALIZER.loads('{"x": 1, "z": 1}', Point) == Point(1)


def test_absent_fields_get_their_defaults() -> None:
    """New code reads what older code wrote, if the new fields have defaults."""
    assert SERIALIZER.loads('{"name": "a"}', Cat) == Cat("a")


def test_fields_that_init_does_not_take_are_kept() -> None:
    """State that was set after __init__ comes back, also in a frozen class."""
    private = Private("a")
    private.counted = 5
    assert round_trip(private, Private).counted == 5
    plain = Plain(datetime(2020, 1, 1, tzinfo=UTC))
    object.__setattr__(plain, "computed", 8)
    assert round_trip(plain, Plain).computed == 8


def test_tags() -> None:
    """A class is named where the annotation leaves it open, and only there."""
    assert json.loads(SERIALIZER.dumps(Dog("a", 1), Dog)) == {"name": "a", "age": 1}
    assert json.loads(SERIALIZER.dumps(Dog("a", 1), Dog | None)) == {"name": "a", "age": 1}
    assert json.loads(SERIALIZER.dumps(Dog("a", 1), Animal))["_type"] == "Dog"
    assert json.loads(SERIALIZER.dumps(Dog("a", 1), Dog | Cat))["_type"] == "Dog"
    assert json.loads(SERIALIZER.dumps(Puppy("a", 1), Dog | Cat))["_type"] == "Puppy"


def test_a_union_reads_what_one_class_wrote() -> None:
    """Adding a class to an annotation does not lose what is stored already."""
    assert SERIALIZER.loads(SERIALIZER.dumps(Line("a", 1), Line), Line | Cat) == Line("a", 1)
    assert SERIALIZER.loads(SERIALIZER.dumps(Dog("a", 1), Dog | Cat), Dog) == Dog("a", 1)
    assert "is not a Cat | Dog" in refused(SERIALIZER.loads, '{"name": "a", "age": 1}', Dog | Cat)
    assert "is not a Cat | Dog" in refused(SERIALIZER.loads, '{"_type": ["Dog"], "name": "a", "age": 1}', Dog | Cat)
    # A Dog has all that a Cat needs: which of the two was meant can't be told.


def test_a_union_reads_what_a_plain_annotation_wrote() -> None:
    """A member that is added to `str` or `int` does not change how stored strings and ints are read."""
    assert SERIALIZER.loads('"a"', str | UUID) == "a"
    assert SERIALIZER.loads("1", int | Level | float) == 1


def test_subclasses_of_one_name() -> None:
    """Two subclasses that a tag can't tell apart are refused when written."""

    @define
    class Base:
        pass

    def make(module: str) -> Any:
        cls: Any = attrs.make_class("Twin", {"a": field(type=int)}, bases=(Base,))
        cls.__module__ = module
        return cls

    twins = [make("here"), make("there")]
    assert "2 subclasses named Twin" in refused(SERIALIZER.dumps, twins[0](1), Base)


def test_a_field_may_not_be_called_like_the_tag() -> None:
    """A field named _type would be taken for the class's name: refused."""
    cls = attrs.make_class("Bad", {"_type": field(type=str)})
    assert "_type" in refused(SERIALIZER.dumps, cls("a"), cls)


def test_a_class_that_its_fields_cannot_rebuild() -> None:
    """What could be written and never read is refused when written."""

    @dataclass
    class Odd:
        a: int
        extra: dataclasses.InitVar[int]

    assert "can't be rebuilt from its fields: missing a required argument: 'extra'" in refused(
        SERIALIZER.dumps, Odd(1, 2), Odd
    )


def test_a_validator_that_refuses() -> None:
    """What a class of the user's raises when it is read is told with its path."""

    @frozen
    class Positive:
        n: int = field(validator=attrs.validators.gt(0))

    message = refused(SERIALIZER.loads, '[{"n": 1}, {"n": -1}]', list[Positive])
    assert message.startswith("[1]: ValueError: 'n' must be > 0")


def test_a_field_that_was_never_set() -> None:
    """An instance with an unset field is refused."""
    line = Line.__new__(Line)
    assert refused(SERIALIZER.dumps, line, Line) == "sku: is not set; price: is not set"


def test_typed_dict_keys_that_are_not_annotated() -> None:
    """A key that the TypedDict does not have would be lost: refused."""
    value = {"title": "a", "rating": 5}
    assert refused(SERIALIZER.dumps, value, Movie) == "['rating']: is not a key of Movie"


def test_names_that_cannot_be_resolved() -> None:
    """A class whose annotations name what does not exist says so."""

    @frozen
    class Lost:
        a: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    assert "'Nowhere' is not defined" in refused(SERIALIZER.dumps, Lost(1), Lost)


def test_classes_without_annotations() -> None:
    """Fields without an annotation may be any JSON value."""
    Untyped = namedtuple("Untyped", ["a", "b"], defaults=[2])
    assert round_trip(Untyped([1]), Untyped) == Untyped([1])
    made = attrs.make_class("Made", ["a"])
    assert round_trip(made({"b": 1}), made) == made({"b": 1})


def test_abstract_containers() -> None:
    """Sequence and Mapping promise an interface only: they take any of their kind, and read list and dict."""
    assert round_trip((1, 2), abc.Sequence[int]) == [1, 2]
    assert round_trip(deque([1]), abc.Iterable[int]) == [1]
    assert round_trip(OrderedDict(a=1), abc.Mapping[str, int]) == {"a": 1}


def test_enums_that_map_unknown_values() -> None:
    """An enum's own _missing_ reads what a newer version wrote."""
    assert SERIALIZER.loads('"later"', Forgiving) is Forgiving.UNKNOWN


# Converters


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]


def write_money(money: Money) -> int:
    if not isinstance(money, Money):
        raise TypeError("no money")
    return money.cents


def read_money(value: Any, _: Any) -> Money:
    return Money(value)


def with_money() -> Serializer:
    converter = make_converter()
    converter.register_unstructure_hook(Money, write_money)
    converter.register_structure_hook(Money, read_money)
    return Serializer(converter)


def test_hooks_of_the_users() -> None:
    """Types of the user's own work at every depth with hooks on a converter."""
    serializer = with_money()
    for value, annotation in (
        (Money(5), Money),
        ([Holder(Money(5))], list[Holder[Money]]),
        ({"a": Money(5), "b": 5, "c": None}, dict[str, Money | int | None]),
        ({Money: 1}.keys() and {"k": Money(1)}, dict[str, Annotated[Money, "x"]]),
    ):
        assert serializer.loads(serializer.dumps(value, annotation), annotation) == value


def test_hooks_that_raise() -> None:
    """What a hook raises is told with its path, and is the error's cause if it stands alone."""
    serializer = with_money()
    assert refused(serializer.dumps, [Money(1), 2], list[Money]) == "[1]: TypeError: no money"
    with pytest.raises(SerializationError) as caught:
        serializer.dumps(2, Money)
    assert isinstance(caught.value.__cause__, TypeError)


def test_hooks_survive_a_copy_of_the_converter() -> None:
    """A copied converter is as strict, and has the same hooks."""
    converter = make_converter()
    converter.register_unstructure_hook_func(lambda t: t is Money, write_money)
    converter.register_structure_hook_func(lambda t: t is Money, read_money)
    serializer = Serializer(converter.copy())
    assert serializer.loads(serializer.dumps([Money(1)], list[Money]), list[Money]) == [Money(1)]
    assert refused(serializer.dumps, ["1"], list[int]) == "[0]: '1' is not an int"


def test_any_other_cattrs_converter() -> None:
    """A plain cattrs converter works by its own rules, and its errors are SerializationErrors with paths."""
    serializer = Serializer(cattrs.Converter())
    text = serializer.dumps([Line("a", 1)], list[Line])
    assert serializer.loads(text, list[Line]) == [Line("a", 1)]
    assert "price" in refused(serializer.loads, '[{"sku": "a", "price": "x"}]', list[Line])
    assert "JSON serializable" in refused(serializer.dumps, object())


def test_threads_share_a_serializer() -> None:
    """Threads that compile the same annotation at the same time all get it right."""
    serializer = Serializer()
    order = Order(UUID_1, [Line("a", 1)])
    start = threading.Barrier(8)
    results: list[Any] = []

    def work() -> None:
        start.wait(10)
        results.append(serializer.loads(serializer.dumps([order], list[Order]), list[Order]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [[order]] * 8


# Properties


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@frozen
class Composite:
    ids: dict[UUID, list[Decimal]]
    when: datetime | date | timedelta | None
    who: dict[int, Animal | Cat | str]
    keys: dict[tuple[int, str] | Color, bytes]
    pick: Literal["a", 1] | Level | float
    rest: Any = None
    next: "Composite | None" = None


ANIMALS = st.one_of(
    st.builds(Animal, st.text()),
    st.builds(Dog, st.text(), st.integers()),
    st.builds(Cat, st.text()),
    st.text(),
)
COMPOSITES = st.builds(
    Composite,
    ids=st.dictionaries(st.uuids(), st.lists(st.decimals(allow_nan=False), max_size=3), max_size=3),
    when=st.one_of(st.none(), st.datetimes(timezones=st.none() | st.timezones()), st.dates(), st.timedeltas()),
    who=st.dictionaries(st.integers(), ANIMALS, max_size=3),
    keys=st.dictionaries(st.tuples(st.integers(), st.text()) | st.sampled_from(Color), st.binary(), max_size=3),
    pick=st.one_of(st.sampled_from(["a", 1]), st.sampled_from(Level), st.floats(allow_nan=False)),
    rest=JSON_VALUES,
)


@given(COMPOSITES, COMPOSITES)
def test_composite_round_trip(outer: Composite, inner: Composite) -> None:
    """Whatever a value of a composite class is made of, it comes back the same."""
    value = attrs.evolve(outer, next=inner)
    assert same(round_trip(value, Composite), value)


@given(JSON_VALUES)
def test_json_round_trip(value: Any) -> None:
    """Every JSON value comes back the same without an annotation."""
    assert same(round_trip(value, Any), value)


@given(st.text(st.characters(categories=["Cs", "Lu", "Cc"])))
def test_any_string_comes_back_or_is_refused(text: str) -> None:
    """A string of whatever code points comes back equal, or is refused: never changed."""
    try:
        written = SERIALIZER.dumps(text, str)
    except SerializationError:
        return
    assert SERIALIZER.loads(written, str) == text
    assert written.isascii()


ANNOTATIONS = st.recursive(
    st.sampled_from([int, str, bool, float, None, date, datetime, UUID, Color, Level, Line, Animal, bytes]),
    lambda inner: st.one_of(
        inner.map(lambda a: list[a]),
        inner.map(lambda a: dict[str, a]),
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),
        st.tuples(inner, inner).map(lambda pair: Union[pair]),  # noqa: UP007
    ),
    max_leaves=4,
)
VALUES = st.recursive(
    st.sampled_from(
        [
            0,
            1,
            True,
            1.0,
            "1",
            "red",
            None,
            date(2020, 1, 1),
            datetime(2020, 1, 1, tzinfo=UTC),
            UUID_1,
            str(UUID_1),
            Color.RED,
            Level.LOW,
            Line("a", 1),
            Dog("a", 1),
            b"1",
            {"_type": "Line", "_value": 1},
        ]
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.just("a"), inner), st.tuples(inner, inner)),
    max_leaves=4,
)


@given(ANNOTATIONS, VALUES)
def test_any_value_under_any_annotation(annotation: Any, value: Any) -> None:
    """A value under whatever annotation comes back the same, or is refused: never changed."""
    try:
        text = SERIALIZER.dumps(value, annotation)
    except SerializationError:
        return
    assert same(Serializer().loads(text, annotation), value)
