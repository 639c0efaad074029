"""What every engine must do, as tests to inherit. Needs pytest.

Subclass :class:`EngineSuite`, say how an engine with so many threads or workers is made, and
pytest runs the rest::

    class TestMyEngine(EngineSuite):
        @contextmanager
        def engine(self, size):
            with MyEngine(size) as engine:
                yield engine

The tasks and blocks are toys (:mod:`dgmm.testing.toys`) whose results show in their bits which
values were merged with which, so that an engine passes only if it reduces along the one tree.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

from dgmm.data.dataset import Dataset
from dgmm.engine.base import Engine
from dgmm.errors import (
    EngineError,
    InvalidDataError,
    InvalidParameterError,
    MemoryLimitError,
    SourceError,
)
from dgmm.testing.toys import (
    MIB,
    SIZES,
    BadRowTask,
    FailingTask,
    SlicedTask,
    ToyBlock,
    ToyTask,
    Trace,
    Traces,
    WideTask,
    serial_oracle,
    toy,
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

    def test_a_hint_of_another_pass_changes_nothing(self, two: Engine) -> None:
        dataset = toy((2**19,) * 4, part_rows=2**18)
        expected = serial_oracle(dataset, ToyTask()).total
        with self.uncached(two, dataset) as session:
            for passes in (1, 2, 3):
                assert session.run(ToyTask(), again=True).total == expected
                assert session.counters.block_reads == passes * len(dataset.blocks)
            assert session.run(ToyTask(), blocks=[1], again=True).total.count == 2**19
            # Of other blocks, another task, a stream, or nothing: whatever follows.
            assert session.run(ToyTask(), again=True).total == expected
            assert session.run(WideTask()).total.count == dataset.n_rows
            session.run(ToyTask(), again=True)
            assert sum(1 for _ in session.stream(ToyTask(), consumer_bytes=0)) == 8
            session.run(ToyTask(), again=True)

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
