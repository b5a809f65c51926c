"""Reading trees: children, root and parent of an execution, and the picture of a whole tree."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from attrs import frozen
from attrs.exceptions import FrozenInstanceError
from sqlalchemy import event

from durable_sync import (
    Done,
    DurableExecutor,
    ExecutionNotFoundError,
    ExecutionStatus,
    ExecutionTree,
    LoopResult,
    ParentOutput,
    ParentResult,
    Spawn,
    TaskContext,
    TaskRegistry,
)
from tests.behaviour.conftest import NewExecutor
from tests.behaviour.looking import child_ids, wait_for
from tests.clocks import START, ManualClock
from tests.gates import Gate
from tests.paths import every_path, one_database
from tests.waiting import wait_until

SOON = 10.0
NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)
UNKNOWN = "00000000-0000-7000-8000-000000000000"


@frozen
class Title:
    text: str
    at: datetime


@contextmanager
def counted_statements(executor: DurableExecutor) -> Iterator[list[str]]:
    """The statements that the executor's own connections have sent within."""
    engine = executor._desk.storage.database.engine
    statements: list[str] = []

    def note(*given: object) -> None:
        statements.append(str(given[2]))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def shape(node: ExecutionTree) -> object:
    """Task ids only: a leaf is its name, a parent a pair of its name and what is below it."""
    return (node.task_id, [shape(child) for child in node.children]) if node.children else node.task_id


# one execution


@every_path
def test_a_tree_is_known_at_every_level(executor: DurableExecutor) -> None:
    """`root` is the topmost execution and `parent` the one above; of a root both are None."""

    @executor.task
    def leaf() -> int:
        return 1

    @executor.parent_task(finalize=lambda parent: parent.children_outputs[0])
    def nest(depth: int) -> Spawn[int]:
        return Spawn(depth, [nest.bind(depth - 1) if depth else leaf.bind()])

    handle = executor.enqueue(nest, 2)
    assert handle.result(timeout=SOON) == 1

    above = handle.get_execution()
    assert (above.root, above.parent) == (None, None)
    for _level in range(3):
        (child,) = above.children
        below = executor.get_execution(child.execution_id)
        assert (below.root, below.parent) == (handle.execution_id, above.execution_id)
        assert below.status is child.status is ExecutionStatus.COMPLETED
        above = below
    assert above.task_id == "leaf"
    assert above.children == ()


@every_path
def test_children_are_read_with_status_and_error(executor: DurableExecutor, gate: Gate) -> None:
    """`children` has task, id, status and error of each, in order, and of no other tree or generation."""

    @executor.task
    def fine(n: int) -> int:
        return n

    @executor.task
    def failing() -> None:
        raise ValueError("spoilt")

    @executor.task
    def blocked() -> None:
        gate.pass_through()

    @executor.parent_task
    def inner() -> Spawn[None]:
        return Spawn(None, [fine.bind(1), fine.bind(2)])

    @executor.parent_task(fail_fast=False, finalize=lambda _parent: None)
    def outer() -> Spawn[None]:
        return Spawn(None, [inner.bind(), failing.bind(), blocked.bind()])

    handles = [executor.enqueue(outer) for _ in range(2)]
    gate.wait_for_arrivals(2)
    for handle in handles:
        wait_until(lambda handle=handle: handle.get_execution().children[0].status is ExecutionStatus.COMPLETED)
        wait_until(lambda handle=handle: handle.get_execution().children[1].status is ExecutionStatus.FAILED)
        children = handle.get_execution().children
        assert [child.task_id for child in children] == ["inner", "failing", "blocked"]
        assert [child.status for child in children] == [
            ExecutionStatus.COMPLETED,
            ExecutionStatus.FAILED,
            ExecutionStatus.RUNNING,
        ]
        assert children[1].error == executor.get_execution(children[1].execution_id).error
        assert children[1].error.message == "spoilt"
        assert (children[0].error, children[2].error) == (None, None)
    assert not set(child_ids(handles[0])) & set(child_ids(handles[1]))


@every_path
def test_a_tree_is_read_where_its_tasks_are_unknown(new_executor: NewExecutor) -> None:
    """An executor that knows none of the tasks reads input, output and children all the same, as plain JSON."""
    registry = TaskRegistry()

    @registry.task
    def title(text: str) -> Title:
        return Title(text, NOON)

    @registry.task
    def done(title_: Title) -> Done[Title]:
        return Done(title_)

    @registry.parent_task(finalize=lambda parent: {"made": len(parent.children)})
    def finalized(at: datetime) -> Spawn[Title]:
        return Spawn(Title("own", at), [title.bind("child")])

    @registry.parent_task
    def plain(given: Title) -> Spawn[Title]:
        loop = registry_loop.bind(given)
        return Spawn(given, [title.bind("child"), finalized.bind(NOON), steps.bind("step"), loop])

    steps = registry.sequential_tasks("steps", title, done)
    registry_loop = registry.looping_task("loop", done, max_iterations=1)
    worker, stranger = new_executor(tasks=registry), new_executor()
    worker.start()
    own, child, step = Title("own", NOON), Title("child", NOON), Title("step", NOON)
    handle = worker.enqueue(plain, own)
    outputs = (child, {"made": 1}, Done(step), LoopResult(True, own))
    assert handle.result(timeout=SOON) == ParentOutput(own, outputs)

    def json_of(value: Title) -> dict[str, object]:
        return {"text": value.text, "at": stored_noon}

    leaf = stranger.get_execution(child_ids(handle)[0])
    stored_noon = leaf.output["at"]
    assert isinstance(stored_noon, str)
    execution = stranger.get_execution(handle.execution_id)
    assert execution.input == {"given": json_of(own)}
    assert execution.run_output == json_of(own)
    assert [c.status for c in execution.children] == [ExecutionStatus.COMPLETED] * 4
    assert execution.output == ParentOutput(
        json_of(own), (json_of(child), {"made": 1}, {"value": json_of(step)}, LoopResult(True, json_of(own)))
    )
    second_step = stranger.get_execution(stranger.get_execution(child_ids(handle)[2]).children[1].execution_id)
    assert second_step.input == {"title_": json_of(step)}
    assert execution == stranger.get_execution(handle.execution_id)


@one_database
def test_an_output_that_no_longer_fits_is_shown_plain(new_executor: NewExecutor) -> None:
    """Where a child's task has another type by now, its output is shown as plain JSON within the parent's."""
    old, new = TaskRegistry(), TaskRegistry()

    def spawn_child(registry: TaskRegistry, child: Callable[..., object]) -> None:
        task = registry.task(id="child")(child)
        registry.parent_task(id="parent")(lambda: Spawn(1, [task.bind()]))

    def text_child() -> str:
        return "text"

    def number_child() -> int:
        return 5

    spawn_child(old, text_child)
    spawn_child(new, number_child)
    worker, later = new_executor(tasks=old), new_executor(tasks=new)
    worker.start()
    handle = worker.enqueue(old.get("parent"))
    handle.wait(timeout=SOON)

    assert later.get_execution(handle.execution_id).output == ParentOutput(1, ("text",))


# the picture


@every_path
def test_the_tree_of_a_root(executor: DurableExecutor) -> None:
    """`handle.tree()` has all that is below: children in order, then the finalize, at every depth."""

    @executor.task
    def leaf(n: int) -> int:
        return n

    steps = executor.sequential_tasks("steps", leaf, leaf)

    @executor.task
    def iteration(n: int) -> Done[int] | None:
        return Done(n)

    loop = executor.looping_task("loop", iteration, max_iterations=3)

    @executor.parent_task
    def plain(n: int) -> Spawn[int]:
        return Spawn(n, [leaf.bind(n), steps.bind(n)])

    @executor.parent_task(finalize=plain.options())
    def fed(n: int) -> Spawn[int]:
        return Spawn(n)

    @executor.parent_task(finalize=lambda _parent: 5)
    def root() -> Spawn[int]:
        return Spawn(1, [plain.bind(1), loop.bind(2), leaf.bind(3)])

    handle = executor.enqueue(root)
    handle.result(timeout=SOON)
    tree = handle.tree()

    assert shape(tree) == (
        "root",
        [("plain", ["leaf", ("steps", ["leaf", "leaf"])]), ("loop", ["iteration"]), "leaf", "root.finalize"],
    )
    assert [node.is_finalize for node in tree.children] == [False, False, False, True]
    assert not tree.is_finalize
    assert {node.status for node in tree.walk()} == {ExecutionStatus.COMPLETED}
    for node in tree.walk():
        execution = executor.get_execution(node.execution_id)
        assert (node.task_id, node.status, node.error, node.attempt, node.created_at) == (
            execution.task_id,
            execution.status,
            execution.error,
            execution.attempt,
            execution.created_at,
        )
        assert (node.started_at, node.finished_at) == (execution.started_at, execution.finished_at)
        assert node.duration == execution.finished_at - execution.started_at


@every_path
def test_the_tree_of_a_part(executor: DurableExecutor) -> None:
    """The tree of an execution that is not the root has what is below it, and nothing else."""

    @executor.task
    def leaf(n: int) -> int:
        return n

    @executor.parent_task(finalize=lambda _parent: 5)
    def inner(n: int) -> Spawn[int]:
        return Spawn(n, [leaf.bind(n), leaf.bind(n)])

    @executor.parent_task
    def root() -> Spawn[int]:
        return Spawn(1, [inner.bind(1), inner.bind(2)])

    handle = executor.enqueue(root)
    handle.result(timeout=SOON)
    second = child_ids(handle)[1]

    part = executor.get_handle(inner, second).tree()
    assert part.execution_id == second
    assert shape(part) == ("inner", ["leaf", "leaf", "inner.finalize"])
    assert not part.is_finalize
    assert part == handle.tree().children[1]
    only = executor.get_handle(leaf, part.children[0].execution_id).tree()
    assert (only.task_id, only.children) == ("leaf", ())


@one_database
def test_the_tree_of_a_plain_task(executor: DurableExecutor) -> None:
    """An execution without children is a tree of one; what does not exist has none."""

    @executor.task
    def work() -> None: ...

    handle = executor.enqueue(work)
    handle.wait(timeout=SOON)

    tree = handle.tree()
    assert (tree.task_id, tree.execution_id, tree.children) == ("work", handle.execution_id, ())
    assert list(tree.walk()) == [tree]
    with pytest.raises(ExecutionNotFoundError, match=UNKNOWN):
        executor.get_handle(work, UNKNOWN).tree()
    with pytest.raises(FrozenInstanceError):
        tree.status = ExecutionStatus.FAILED


@every_path
def test_a_finalize_shows_in_its_turn(executor: DurableExecutor, gate: Gate) -> None:
    """A finalize is shown from its turn on, and never if it had none; waiting steps are shown."""
    finalizing = Gate()

    @executor.task
    def child(n: int) -> int:
        gate.pass_through()
        return n

    @executor.task
    def failing() -> None:
        raise ValueError("spoilt")

    def combine(_parent: ParentResult[None]) -> None:
        finalizing.pass_through()

    steps = executor.sequential_tasks("steps", child, child)

    @executor.parent_task(finalize=combine)
    def parent() -> Spawn[None]:
        return Spawn(None, [steps.bind(1)])

    @executor.parent_task(finalize=combine)
    def spoilt() -> Spawn[None]:
        return Spawn(None, [failing.bind()])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals()
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    assert shape(handle.tree()) == ("parent", [("steps", ["child", "child"])])
    waiting = handle.tree().children[0].children[1]
    assert (waiting.status, waiting.started_at, waiting.duration) == (ExecutionStatus.READY, None, None)
    gate.open()
    finalizing.wait_for_arrivals()
    wait_for(handle, ExecutionStatus.WAITING_FOR_FINALIZE)
    during = handle.tree().children[1]
    assert (during.task_id, during.is_finalize, during.status) == ("parent.finalize", True, ExecutionStatus.RUNNING)
    finalizing.open()
    handle.result(timeout=SOON)
    assert handle.tree().children[1].status is ExecutionStatus.COMPLETED

    ended = executor.enqueue(spoilt)
    ended.wait(timeout=SOON)
    assert shape(ended.tree()) == ("spoilt", ["failing"])


@every_path
def test_durations_are_told_by_the_clock(new_executor: NewExecutor, clock: ManualClock, gate: Gate) -> None:
    """A duration counts from the last start to the end, or until now; what never started has none."""
    executor = new_executor(clock=clock)
    executor.start()
    approval = executor.sleeping_task("approval")

    @executor.task
    def child() -> None:
        gate.pass_through()

    @executor.parent_task
    def parent() -> Spawn[None]:
        return Spawn(None, [child.bind(), child.options(delay=10**6).bind(), approval.options(key="k").bind()])

    handle = executor.enqueue(parent)
    gate.wait_for_arrivals()
    wait_for(handle, ExecutionStatus.WAITING_FOR_CHILDREN)
    clock.advance(90)
    now = handle.tree()
    assert (now.started_at, now.finished_at, now.duration) == (START, None, timedelta(seconds=90))
    assert [node.duration for node in now.children] == [timedelta(seconds=90), None, None]
    gate.open()
    wait_until(lambda: handle.get_execution().children[0].status is ExecutionStatus.COMPLETED)
    clock.advance(30)
    assert handle.cancel()
    clock.advance(1000)

    ended = handle.tree()
    assert ended.duration == timedelta(seconds=120)
    assert [node.duration for node in ended.children] == [timedelta(seconds=90), None, None]


@one_database
def test_what_a_tree_prints(new_executor: NewExecutor, clock: ManualClock) -> None:
    """A line an execution: indented by depth, with status and duration; an error is a line below its own."""
    executor = new_executor(clock=clock)
    executor.start()

    @executor.task
    def fine() -> int:
        clock.advance(1.5)
        return 1

    @executor.task
    def failing(ctx: TaskContext) -> None:
        clock.advance(12.34)
        raise ValueError("line one\n  line two " + "x" * 300)

    @executor.parent_task
    def inner() -> Spawn[None]:
        return Spawn(None, [failing.options(retry=0).bind()])

    @executor.parent_task(fail_fast=False, finalize=lambda _parent: None)
    def outer() -> Spawn[None]:
        return Spawn(None, [inner.bind()])

    @executor.parent_task
    def root() -> Spawn[None]:
        return Spawn(None, [outer.bind()])

    handle = executor.enqueue(root)
    handle.result(timeout=SOON)
    tree = handle.tree()
    ids = [node.execution_id for node in tree.walk()]
    (outer_node,) = tree.children
    inner_node, finalize_node = outer_node.children
    (failing_node,) = inner_node.children

    first = "! ValueError: line one line two "
    told = f"! ChildrenFailedError: task 'failing' execution {failing_node.execution_id}: failed: ValueError: line one"
    lines = str(tree).splitlines()
    assert lines == [
        f"root  completed  12.3 s  {ids[0]}",
        f"  outer  completed  12.3 s  {ids[1]}",
        f"    inner  children_failed  12.3 s  {ids[2]}",
        lines[3],
        f"      failing  failed  12.3 s  {ids[3]}",
        lines[5],
        f"    outer.finalize (finalize)  completed  0.000 s  {finalize_node.execution_id}",
    ]
    assert lines[3].startswith(f"      {told}")
    assert lines[5].startswith(f"        {first}xxx")
    assert all(len(line) < 250 and (line.endswith("...") or "!" not in line) for line in lines)

    quick = executor.enqueue(fine)
    quick.result(timeout=SOON)
    assert str(quick.tree()) == f"fine  completed  1.500 s  {quick.execution_id}"


@one_database
def test_what_a_retried_one_prints(executor: DurableExecutor) -> None:
    """The number of the attempt is shown from the second on; what never started has no duration."""

    @executor.task
    def flaky(ctx: TaskContext) -> None:
        if ctx.attempt < 2:
            raise OSError("away")

    retried = executor.enqueue(flaky.options(retry=5))
    waiting = executor.enqueue(flaky.options(delay=3600))
    retried.result(timeout=SOON)

    assert re.fullmatch(rf"flaky  completed  \d\.\d{{3}} s  attempt 2  {retried.execution_id}", str(retried.tree()))
    assert str(waiting.tree()) == f"flaky  ready  {waiting.execution_id}"


# at a cost


@every_path
def test_a_tree_takes_a_bounded_number_of_queries(new_executor: NewExecutor) -> None:
    """`tree()` sends as many statements for 300 executions as for 3, and reads no payload."""
    executor = new_executor()
    executor.start()

    @executor.task
    def leaf(n: int) -> int:
        return n

    @executor.parent_task
    def branch(many: int) -> Spawn[None]:
        return Spawn(None, [leaf.bind(n) for n in range(many)])

    @executor.parent_task
    def root(branches: int, many: int) -> Spawn[None]:
        return Spawn(None, [branch.bind(many) for _ in range(branches)])

    small, large = executor.enqueue(root, 1, 1), executor.enqueue(root, 13, 22)
    for handle in (small, large):
        handle.wait(timeout=60)
    executor.shutdown()
    counts = []
    for handle, size in ((small, 3), (large, 300)):
        handle.tree()
        with counted_statements(executor) as statements:
            assert sum(1 for _ in handle.tree().walk()) == size
        counts.append(len(statements))
        assert not [s for s in statements if "run_output" in s and "durable_executions.root_id =" in s]

    assert counts[0] == counts[1] <= 6


@every_path
def test_an_execution_takes_a_bounded_number_of_queries(new_executor: NewExecutor) -> None:
    """Reading a parent with its children and their outputs costs queries by its depth, not by its children."""
    executor = new_executor()
    executor.start()

    @executor.task
    def leaf(n: int) -> int:
        return n

    @executor.parent_task(finalize=lambda parent: len(parent.children))
    def branch(many: int) -> Spawn[None]:
        return Spawn(None, [leaf.bind(n) for n in range(many)])

    @executor.parent_task
    def root(branches: int, many: int) -> Spawn[None]:
        return Spawn(None, [branch.bind(many) for _ in range(branches)])

    small, large = executor.enqueue(root, 1, 1), executor.enqueue(root, 15, 3)
    for handle in (small, large):
        handle.wait(timeout=60)
    executor.shutdown()
    counts = []
    for handle, outputs in ((small, (1,)), (large, (3,) * 15)):
        handle.get_execution()
        with counted_statements(executor) as statements:
            assert handle.get_execution().output == ParentOutput(None, outputs)
        counts.append(len(statements))

    assert counts[0] == counts[1]


@one_database
def test_a_deep_tree(executor: DurableExecutor) -> None:
    """A tree 200 levels deep runs, reads and prints, and its failure reaches the top."""

    @executor.task
    def leaf(fails: bool) -> int:
        if fails:
            raise ValueError("at the bottom")
        return 1

    @executor.parent_task
    def nest(depth: int, fails: bool) -> Spawn[int]:
        return Spawn(depth, [nest.bind(depth - 1, fails) if depth else leaf.bind(fails)])

    fine, failed = executor.enqueue(nest, 198, False), executor.enqueue(nest, 198, True)
    output = fine.result(timeout=60)
    for depth in range(198, -1, -1):
        assert output.output == depth
        (output,) = output.children_outputs
    assert output == 1
    ended = failed.wait(timeout=60)
    assert ended.status is ExecutionStatus.CHILDREN_FAILED
    assert ended.error.message.count("ValueError: at the bottom") == 1

    tree = fine.tree()
    nodes = list(tree.walk())
    assert len(nodes) == 200
    assert nodes[-1].task_id == "leaf"
    lines = str(tree).splitlines()
    assert [len(line) - len(line.lstrip()) for line in lines] == [2 * depth for depth in range(200)]
    assert sum("at the bottom" in line for line in str(failed.tree()).splitlines()) == 200


@one_database
def test_a_deep_tree_is_cancelled(executor: DurableExecutor, gate: Gate) -> None:
    """A cancel of the root reaches the last of 100 levels."""

    @executor.task
    def leaf() -> None:
        gate.pass_through()

    @executor.parent_task
    def nest(depth: int) -> Spawn[int]:
        return Spawn(depth, [nest.bind(depth - 1) if depth else leaf.bind()])

    handle = executor.enqueue(nest, 98)
    wait_until(lambda: not gate.nobody_came(), timeout=60)
    assert handle.cancel()

    assert {node.status for node in handle.tree().walk()} == {ExecutionStatus.CANCELLED}
    assert len(list(handle.tree().walk())) == 100
