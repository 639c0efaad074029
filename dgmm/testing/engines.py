"""What every engine must do, as tests to inherit. Needs pytest.

Subclass :class:`EngineSuite`, say how an engine with so many threads or workers is made, and
pytest runs the rest::

    class TestMyEngine(EngineSuite):
        @contextmanager
        def engine(self, size):
            with MyEngine(size) as engine:
                yield engine

The tasks and blocks here are toys whose results show in their bits which values were merged with
which, so that an engine passes only if it reduces along the one tree.
"""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from dgmm.data.dataset import Block, Dataset, Rows, fingerprint_of
from dgmm.engine.base import BlockTask, Engine, Reduced
from dgmm.errors import (
    EngineError,
    InvalidDataError,
    InvalidParameterError,
    MemoryLimitError,
    SourceError,
)

__all__ = [
    "BadRowTask",
    "EngineSuite",
    "FailingTask",
    "SlicedTask",
    "ToyBlock",
    "ToyTask",
    "Trace",
    "Traces",
    "WideTask",
    "serial_oracle",
    "toy",
]

MIB = 2**20

# Rows of each block: several parts in some, one in others, a ragged end, an empty block.
SIZES = (7, 1, 4, 0, 9, 2, 12, 3, 1, 5, 8)
PART_ROWS = 3


@dataclass(frozen=True)
class ToyBlock(Block):
    """Rows that are made when they are read, from the numbers of the rows.

    Parameters
    ----------
    broken : bool
        Reading raises a SourceError.
    resident : bool
        Claim to be in memory already.
    """

    broken: bool = False
    resident: bool = False

    def read(self) -> Rows:
        if self.broken:
            raise SourceError(f"block {self.name} is broken on purpose")
        numbers = np.arange(self.first_row, self.first_row + self.n_rows, dtype=np.float64)
        return Rows(np.stack([numbers, np.sin(numbers + 1)], axis=1), self.first_row)

    @property
    def is_resident(self) -> bool:
        return self.resident


def toy(
    sizes: tuple[int, ...] = SIZES,
    *,
    part_rows: int = PART_ROWS,
    broken: int | None = None,
    resident: bool = False,
) -> Dataset:
    """A dataset of :class:`ToyBlock`, one of them broken if asked for."""
    first = np.concatenate([[0], np.cumsum(sizes)])
    dtype = np.dtype(np.float64)
    blocks = tuple(
        ToyBlock(int(first[i]), size, 2, dtype, broken=i == broken, resident=resident)
        for i, size in enumerate(sizes)
    )
    return Dataset(blocks, 2, dtype, part_rows, fingerprint_of([sizes, broken, resident]))


@dataclass
class Trace:
    """A value that remembers how it was merged.

    Attributes
    ----------
    total : float
        A sum whose bits depend on the order of its terms.
    count : int
        Number of rows.
    shape : str
        The tree: first rows of the parts, merges as parentheses.
    """

    total: float
    count: int
    shape: str

    def merge(self, other: Trace) -> Trace:
        # In place, as a value may: an engine that reuses a value it has handed out is found out.
        self.total += other.total
        self.count += other.count
        self.shape = f"({self.shape} {other.shape})"
        return self


@dataclass(frozen=True)
class ToyTask:
    """Gives a :class:`Trace` of the rows."""

    workspace_bytes: int = 1024
    result_bytes: int = 1024

    def workspace(self) -> Any:
        return np.full(16, np.nan)

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        workspace[:2] = rows.x.sum(axis=0) * 1.1
        return Trace(float(workspace[1]), rows.n_rows, str(rows.first_row))


@dataclass(frozen=True)
class FailingTask(ToyTask):
    """Raises a KeyError at one row."""

    row: int = 0

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        if rows.first_row == self.row:
            raise KeyError(f"row {self.row}")
        return super().evaluate(rows, workspace)


@dataclass(frozen=True)
class BadRowTask(ToyTask):
    """Refuses one row."""

    row: int = 0

    def evaluate(self, rows: Rows, workspace: Any) -> Trace:
        if rows.first_row <= self.row < rows.first_row + rows.n_rows:
            raise InvalidDataError(f"row {self.row} is bad")
        return super().evaluate(rows, workspace)


@dataclass(frozen=True)
class WideTask(ToyTask):
    """Gives values so wide that no two rows' fit in a piece."""

    value_bytes_per_row: int = 3 * MIB


@dataclass
class Traces:
    """A value for each place of a :class:`SlicedTask`, and who took part.

    Attributes
    ----------
    members : tuple of Trace
    threads : frozenset of (int, int)
        Process and thread of each evaluation. Not compared.
    """

    members: tuple[Trace, ...]
    threads: frozenset[tuple[int, int]] = field(compare=False)

    def merge(self, other: Traces) -> Traces:
        pairs = zip(self.members, other.members, strict=True)
        merged = tuple(mine.merge(theirs) for mine, theirs in pairs)
        return Traces(merged, self.threads | other.threads)


@dataclass(frozen=True)
class SlicedTask(ToyTask):
    """Gives a :class:`Trace` for each of some places, and can be cut between them."""

    places: tuple[int, ...] = (0, 1, 2, 3)

    @property
    def n_slices(self) -> int:
        return len(self.places)

    def slices(self, n: int) -> tuple[SlicedTask, ...]:
        return tuple(replace(self, places=self.places[i::n]) for i in range(n))

    def join(self, slices: Sequence[SlicedTask], values: Sequence[Traces]) -> Traces:
        found = {
            place: member
            for one, value in zip(slices, values, strict=True)
            for place, member in zip(one.places, value.members, strict=True)
        }
        threads = frozenset[tuple[int, int]]().union(*(value.threads for value in values))
        return Traces(tuple(found[place] for place in self.places), threads)

    def evaluate(self, rows: Rows, workspace: Any) -> Any:
        one = super().evaluate(rows, workspace)
        members = tuple(replace(one, total=one.total * (place + 1.1)) for place in self.places)
        return Traces(members, frozenset({(os.getpid(), threading.get_ident())}))


def serial_oracle(
    dataset: Dataset, task: BlockTask[Any], blocks: list[int] | None = None
) -> Reduced[Any]:
    """What every engine must give, by plain recursion over the two stories of the tree."""
    partitions = {}
    for number, block in enumerate(dataset.blocks):
        if block.n_rows and (blocks is None or number in blocks):
            rows, workspace = block.read(), task.workspace()
            parts = [
                task.evaluate(rows.part(part.start, part.stop), workspace)
                for part in dataset.parts
                if part.block == number
            ]
            partitions[number] = _pairwise(parts)
    return Reduced(_pairwise(copy.deepcopy(list(partitions.values()))), partitions)


def _pairwise(values: list[Any]) -> Any:
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=False)
        odd = values[-1:] if len(values) % 2 else []
        values = [left.merge(right) for left, right in pairs] + odd
    return values[0]


class EngineSuite:
    """The laws of an engine.

    Attributes
    ----------
    sizes : tuple of int
        Numbers of threads or workers that must give the same bits.
    memory_limit : int
        Bytes that leave room for a cache of all toys.
    """

    sizes: tuple[int, ...] = (1, 2, 3, 4)
    memory_limit = 512 * MIB

    def engine(self, size: int) -> AbstractContextManager[Engine]:
        """An engine with so many threads or workers."""
        raise NotImplementedError

    def shuffled(self, task: ToyTask) -> ToyTask:
        """The same task, made to complete its parts out of order if that can be arranged."""
        return task

    @pytest.fixture
    def two(self) -> Iterator[Engine]:
        with self.engine(2) as engine:
            yield engine

    def session(self, engine: Engine, dataset: Dataset) -> Any:
        return engine.session(dataset, memory_limit=self.memory_limit)

    def test_bits_do_not_depend_on_the_number_of_threads(self) -> None:
        dataset, task = toy(), ToyTask()
        expected = serial_oracle(dataset, task).total
        for size in self.sizes:
            with self.engine(size) as engine, self.session(engine, dataset) as session:
                assert session.run(task).total == expected
                assert session.run(self.shuffled(task)).total == expected

    @pytest.mark.parametrize("n_blocks", [1, 2, 3, 16, 17, 40])
    def test_bits_for_any_number_of_blocks(self, two: Engine, n_blocks: int) -> None:
        dataset = toy((4,) * n_blocks)
        with self.session(two, dataset) as session:
            assert session.run(ToyTask()).total == serial_oracle(dataset, ToyTask()).total

    def test_one_block_of_many_parts(self, two: Engine) -> None:
        dataset = toy((100,))
        with self.session(two, dataset) as session:
            assert session.run(ToyTask()).total == serial_oracle(dataset, ToyTask()).total

    def test_each_row_counts_once(self, two: Engine) -> None:
        dataset = toy()
        with self.session(two, dataset) as session:
            assert session.run(ToyTask()).total.count == dataset.n_rows

    def test_partitions_are_kept_and_do_not_change_the_total(self, two: Engine) -> None:
        dataset, task = toy(), ToyTask()
        expected = serial_oracle(dataset, task)
        with self.session(two, dataset) as session:
            found = session.run(task, keep="partition")
            assert session.run(task).partitions is None
        assert found.total == expected.total
        assert found.partitions == expected.partitions

    @pytest.mark.parametrize("blocks", [[0], [6], [8, 1, 4], list(range(11))])
    def test_some_blocks(self, two: Engine, blocks: list[int]) -> None:
        dataset, task = toy(), ToyTask()
        expected = serial_oracle(dataset, task, blocks)
        with self.session(two, dataset) as session:
            found = session.run(task, blocks=blocks, keep="partition")
        assert found.total == expected.total
        assert found.partitions == expected.partitions

    @pytest.mark.parametrize("blocks", [[11], [-1], [2, 2]])
    def test_wrong_blocks_are_refused(self, two: Engine, blocks: list[int]) -> None:
        with (
            self.session(two, toy()) as session,
            pytest.raises(InvalidParameterError, match="block"),
        ):
            session.run(ToyTask(), blocks=blocks)

    def test_unknown_keep_is_refused(self, two: Engine) -> None:
        with (
            self.session(two, toy()) as session,
            pytest.raises(InvalidParameterError, match="partition"),
        ):
            session.run(ToyTask(), keep="rows")

    def test_slices_have_the_bits_of_the_whole(self) -> None:
        task = SlicedTask()
        for size in self.sizes:
            with self.engine(size) as engine:
                for dataset in map(toy, ((3,), (2, 3), (3, 1, 2, 3), (12,))):
                    expected = serial_oracle(dataset, task)
                    with self.session(engine, dataset) as session:
                        assert session.run(task).total == expected.total
                        found = session.run(task, keep="partition")
                        assert session.counters.slices == self.expected_slices(dataset, size)
                    assert found.total == expected.total
                    assert found.partitions == expected.partitions

    def expected_slices(self, dataset: Dataset, size: int) -> int:
        """Into how many slices a task of four is cut."""
        n = len(dataset.blocks)
        if n >= size:
            return 1
        return min(range(1, 5), key=lambda slices: -(-n * slices // size) / slices)

    def test_a_task_is_not_cut_where_there_are_blocks_for_all(self, two: Engine) -> None:
        dataset = toy((2**19,) * 4, part_rows=2**18)
        with self.uncached(two, dataset) as session:
            session.run(SlicedTask())
            assert session.counters.slices == 1
            assert session.counters.block_reads == len(dataset.blocks)

    def test_one_read_of_each_block_per_pass(self, two: Engine) -> None:
        dataset = toy((2**19,) * 4, part_rows=2**18)
        with self.uncached(two, dataset) as session:
            for passes in (1, 2):
                session.run(ToyTask())
                assert session.counters.passes == passes
                assert session.counters.block_reads == passes * len(dataset.blocks)
                assert session.counters.bytes_read == passes * dataset.nbytes

    def uncached(self, engine: Engine, dataset: Dataset) -> Any:
        """A session with room for two of the dataset's equal blocks in flight, none to keep."""
        return engine.session(dataset, memory_limit=30 * MIB + 2 * dataset.blocks[0].nbytes)

    def test_cached_blocks_are_read_once(self, two: Engine) -> None:
        dataset = toy()
        with self.session(two, dataset) as session:
            first = session.run(ToyTask()).total
            assert session.run(ToyTask()).total == first
            assert session.counters.block_reads == sum(size > 0 for size in SIZES)

    def test_blocks_in_memory_are_not_counted_as_read(self, two: Engine) -> None:
        dataset = toy(resident=True)
        with self.session(two, dataset) as session:
            assert session.run(ToyTask()).total.count == dataset.n_rows
            assert session.counters.block_reads == 0

    def test_error_of_the_task_is_raised_as_it_is(self, two: Engine) -> None:
        dataset = toy()
        with self.session(two, dataset) as session:
            for _ in range(2):
                with pytest.raises(KeyError, match="row 26"):
                    session.run(FailingTask(row=26))
            expected = serial_oracle(dataset, ToyTask()).total
            assert session.run(ToyTask()).total == expected
            assert session.counters.passes == 1

    def test_error_of_a_block_is_raised_as_it_is(self, two: Engine) -> None:
        dataset = toy(broken=4)
        with self.session(two, dataset) as session:
            with pytest.raises(SourceError, match="broken on purpose"):
                session.run(ToyTask())
            assert session.run(ToyTask(), blocks=[0, 5]).total.count == 9

    def test_stream_is_in_order(self, two: Engine) -> None:
        dataset, task = toy(), ToyTask()
        with self.session(two, dataset) as session:
            found = list(session.stream(self.shuffled(task)))
        starts = [dataset.blocks[part.block].first_row + part.start for part in dataset.parts]
        assert [first_row for first_row, _ in found] == starts
        assert [value.shape for _, value in found] == [str(start) for start in starts]

    @pytest.mark.parametrize("resident", [False, True])
    def test_stream_of_wide_values_comes_row_by_row(self, two: Engine, resident: bool) -> None:
        dataset = toy((40, 1, 7), part_rows=9, resident=resident)
        with self.session(two, dataset) as session:
            found = list(session.stream(WideTask()))
            assert session.run(ToyTask()).total.count == dataset.n_rows
        assert [first_row for first_row, _ in found] == list(range(dataset.n_rows))
        rows = dataset.blocks[0].read()
        for number, value in found[:40]:
            assert value == ToyTask().evaluate(rows.part(number, number + 1), np.zeros(16))

    def test_stream_that_cannot_fit_is_refused(self, two: Engine) -> None:
        with (
            self.session(two, toy()) as session,
            pytest.raises(MemoryLimitError, match="consumer"),
        ):
            next(session.stream(WideTask(value_bytes_per_row=self.memory_limit)))
        with (
            self.session(two, toy()) as session,
            pytest.raises(MemoryLimitError, match="buffers of the consumer"),
        ):
            next(session.stream(ToyTask(), consumer_bytes=self.memory_limit))

    def test_bad_rows_are_placed_in_their_block(self, two: Engine) -> None:
        # Row 26 is in block 6, which holds rows 23 to 34.
        expected = r"^row 26 is bad, in block 6 \(rows 23 to 34\)$"
        with self.session(two, toy()) as session:
            for _ in range(2):
                with pytest.raises(InvalidDataError, match=expected):
                    session.run(BadRowTask(row=26))
            with pytest.raises(InvalidDataError, match=expected):
                list(session.stream(BadRowTask(row=26)))

    def test_stream_may_be_left_early(self, two: Engine) -> None:
        dataset = toy((4,) * 60)
        with self.session(two, dataset) as session:
            for first_row, _ in session.stream(ToyTask()):
                if first_row > 20:
                    break
            assert session.run(ToyTask()).total.count == dataset.n_rows

    def test_pass_within_a_stream(self, two: Engine) -> None:
        dataset = toy()
        with self.session(two, dataset) as session:
            stream = session.stream(ToyTask())
            next(stream)
            assert session.run(ToyTask()).total.count == dataset.n_rows
            assert len(list(stream)) == len(dataset.parts) - 1

    def test_error_within_a_stream(self, two: Engine) -> None:
        with self.session(two, toy()) as session:
            stream = session.stream(FailingTask(row=26))
            with pytest.raises(KeyError, match="row 26"):
                list(stream)
            assert session.run(ToyTask()).total.count == toy().n_rows

    def test_closed_session_is_refused(self, two: Engine) -> None:
        with self.session(two, toy()) as session:
            pass
        with pytest.raises(EngineError, match="closed"):
            session.run(ToyTask())
        with pytest.raises(EngineError, match="closed"):
            next(session.stream(ToyTask()))

    def test_driver_receives_few_nodes(self, two: Engine) -> None:
        with self.session(two, toy((4,) * 200)) as session:
            session.run(ToyTask())
            assert session.counters.nodes_received <= 16

    def test_engine_is_its_own_copy_and_can_be_pickled(self, two: Engine) -> None:
        assert copy.deepcopy(two) is two
        assert type(pickle.loads(pickle.dumps(two))) is type(two)  # noqa: S301  our own bytes
        assert type(two).__name__ in repr(two)
        assert two == two  # noqa: PLR0124  equality itself is what is tested
        assert two != object()
