"""The graph of one pass on a cluster: ranges of the tree near their blocks, merged by workers."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from dgmm.data.dataset import Block
from dgmm.engine.pieces import grouped
from dgmm.engine.tree import ABOVE_BLOCKS, Node, Shape, frontier, group, merge_steps
from dgmm.engine.work import BlockWork, Selection
from dgmm.engine.worker import GivenBlock, HeldBlock, Range, merge_nodes

__all__ = [
    "ARITY",
    "TASKS_PER_WORKER",
    "PassGraph",
    "Share",
    "assign",
    "deal",
    "home_of",
    "ranges_of_worker",
    "remote_rows",
    "share_out",
    "share_pieces",
]

# Most nodes that one process merges: a merging task, and the driver at the end.
ARITY = 16

# Parameters up to this size travel within every range: as a task of their own they would cost a
# pass 10 ms, for one more step through the scheduler and a transfer between workers.
INLINE_BYTES = 2**16

# Ranges per worker, or one for each of its threads if it has more: enough to even out, few enough
# at 2 to 3 ms each. As ranges are subtrees, there may be half as many again.
TASKS_PER_WORKER = 4


@dataclass(frozen=True)
class Share:
    """A range of the tree, and the worker that is asked to reduce it.

    Attributes
    ----------
    node : Node
    range : Range
        Its blocks as the worker sees them.
    given : tuple
        Futures or Dask objects that give the rows, where the cluster holds them; else empty.
    """

    node: Node
    range: Range
    given: tuple[Any, ...]


def ranges_of_worker(n_threads: int) -> int:
    """Ranges that a worker with so many threads is to have in a pass, as long as there are some."""
    return max(TASKS_PER_WORKER, n_threads)


def share_out(
    selection: Selection, n_ranges: int, homes: Sequence[object] | None = None
) -> list[Share]:
    """Cut a selection into about so many ranges, and at most half as many again.

    Parameters
    ----------
    selection : Selection
    n_ranges : int
    homes : sequence of length n_blocks, optional
        The worker that holds each block already. A range keeps to one of them unless that would
        take too many ranges; one that spans several brings the blocks of the others to its worker.
    """
    shape = selection.shape
    # The power of two nearest to an equal share; above 4/3 of one the tasks would be too few.
    equal = max(1, shape.n_leaves / n_ranges)
    size = 1 << max(0, int(equal * 4 / 3).bit_length() - 1)
    nodes = frontier(shape, size, homes=homes)
    if len(nodes) > 3 * n_ranges // 2:
        nodes = frontier(shape, size)
    return [_share(selection, node) for node in nodes]


def home_of(share_homes: Sequence[Any], weights: Sequence[int]) -> Any:
    """Who holds most of some blocks, by their weights; None if nobody is known to hold any."""
    held: dict[Any, int] = {}
    for home, weight in zip(share_homes, weights, strict=True):
        if home is not None:
            held[home] = held.get(home, 0) + weight
    return max(sorted(held), key=lambda home: held[home], default=None)


def share_pieces(selection: Selection, task: Any) -> list[tuple[int, Share]]:
    """For each block in turn, its position and ranges of pieces that are evaluated together."""
    found = []
    for position in range(len(selection.work)):
        whole = _share(selection, Node(ABOVE_BLOCKS, 0, position))
        for item in grouped(whole.range.work[0], task):
            work = item if whole.given else _with_own_rows(item)
            found.append((position, replace(whole, range=Range((work,)))))
    return found


def _with_own_rows(item: BlockWork) -> BlockWork:
    """Work on rows in the driver's memory that takes along no others of its block."""
    start, stop = item.parts[0][0], item.parts[-1][1]
    block = item.block
    if not block.is_resident or stop - start == block.n_rows:
        return item
    rows = block.read().part(start, stop)
    cut = HeldBlock(rows.first_row, rows.n_rows, block.n_features, block.dtype, rows)
    parts = tuple((first - start, last - start) for first, last in item.parts)
    return BlockWork(item.number, cut, parts)


def _share(selection: Selection, node: Node) -> Share:
    work = selection.under(node)
    given = tuple(remote for item in work if (remote := remote_rows(item.block)) is not None)
    if len(given) < len(work):
        return Share(node, Range(work), ())
    return Share(node, Range(tuple(_without_rows(item) for item in work)), given)


def remote_rows(block: Block) -> Any:
    """What stands for a block's rows on the cluster; None if it has to be read.

    Blocks of an array that is persisted on a cluster have ``futures``; one of them is the
    ``future`` of exactly the block, or ``delayed`` makes the block from several.
    """
    if not getattr(block, "futures", ()):
        return None
    future = getattr(block, "future", None)
    return getattr(block, "delayed", None) if future is None else future


def _without_rows(item: BlockWork) -> BlockWork:
    return item._replace(block=item.block.over(_placeholder))


def _placeholder(block: Block) -> Block:
    return GivenBlock(block.first_row, block.n_rows, block.n_features, block.dtype)


def assign(
    weights: Sequence[int],
    workers: Sequence[str],
    previous: Sequence[str | None],
) -> list[str]:
    """A worker for each range: the one that had it, else the one with the least to do.

    Parameters
    ----------
    weights : sequence of int
        Leaves in each range.
    workers : sequence of str
        Addresses of the workers that are there.
    previous : sequence of str or None
        Who had each range.

    Returns
    -------
    list of str
        Neighbouring ranges go to the same worker as far as the weights allow.
    """
    load = dict.fromkeys(sorted(workers), 0)
    for weight, worker in zip(weights, previous, strict=True):
        if worker in load:
            load[worker] += weight
    addresses, fair = list(load), sum(weights) / len(load)
    found: list[str] = []
    for weight, worker in zip(weights, previous, strict=True):
        if worker in load:
            found.append(worker)
            continue
        # The first that stays within its fair share, so that neighbours stay together.
        room = (one for one in addresses if load[one] + weight / 2 <= fair)
        chosen = next(room, None) or min(addresses, key=lambda one: load[one])
        load[chosen] += weight
        found.append(chosen)
    return found


def deal(homes: Sequence[str | None], workers: Sequence[str], run: int) -> list[str]:
    """A worker for each range of a stream: its home, or the workers in turn, ``run`` ranges each.

    As the consumer takes the values in order, neighbours on one worker alone would leave the
    others idle; and as neighbours share a block, each of them on another would read it anew.
    """
    names = sorted(workers)
    return [
        home if home is not None and home in workers else names[place // run % len(names)]
        for place, home in enumerate(homes)
    ]


def load_pickled(content: bytes) -> Any:
    """What the driver sent. Distributed's own function logs what it could not load, secrets too."""
    return pickle.loads(content)  # noqa: S301 (see above)


def call_pickled(function: Any, task: bytes, *arguments: Any) -> Any:
    """``function(task, *arguments)``, with the task unpickled."""
    return function(load_pickled(task), *arguments)


@dataclass
class PassGraph:
    """Collects the tasks of a pass.

    Attributes
    ----------
    name : str
        Unique; part of every key.
    ranges : dict of str to str
        What each range is called in messages, by key.
    shares : dict of str to Share
        What each task, or the handle of its blocks, is to evaluate, by key.
    """

    name: str
    ranges: dict[str, str] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    _layers: dict[str, Any] = field(default_factory=dict)
    _needs: dict[str, list[str]] = field(default_factory=dict)

    def add_pickled(
        self, what: str, content: bytes, worker: str | None = None, *, nowhere_else: bool = False
    ) -> str:
        """A task whose output is the unpickled content. Returns its key.

        Unlike scattered data it is made again when the worker that holds it dies.
        """
        key = f"dgmm-{what}-{self.name}"
        return self._add(key, (load_pickled, content), worker, nowhere_else)

    def add_task(self, content: bytes, number: int = 0) -> Any:
        """A pickled :class:`~dgmm.engine.base.BlockTask`, as :meth:`add_range` takes it."""
        inline = len(content) <= INLINE_BYTES
        return content if inline else self.add_pickled(f"task-{number}", content)

    def add_range(
        self,
        function: Any,
        number: int,
        share: Share,
        worker: str | None,
        arguments: tuple[Any, ...],
        *,
        nowhere_else: bool = False,
    ) -> str:
        """A task ``function(*arguments, rows)`` for a range. Returns its key.

        The first argument is what :meth:`add_task` gave.
        """
        key = f"dgmm-range-{number}-{self.name}"
        # The handle of its blocks can be what a dying worker was at, too.
        for one in (key, str(getattr(arguments[1], "key", arguments[1]))):
            self.ranges[one], self.shares[one] = share.range.name, share
        needs = [one for one in arguments if isinstance(one, str)]
        rows = [self._reference(given, needs) for given in share.given]
        inline = isinstance(arguments[0], bytes)
        call = (call_pickled, function) if inline else (function,)
        return self._add(key, (*call, *arguments, rows), worker, nowhere_else, needs)

    def keys(self) -> set[str]:
        """The keys of all tasks."""
        return {str(key) for layer in self._layers.values() for key in layer}

    def add_merges(
        self, shape: Shape, nodes: Sequence[Node], keys: Sequence[str], most: int = ARITY
    ) -> tuple[list[Node], list[str]]:
        """Tasks that merge nodes until at most ``most`` are left. Returns those."""
        tops, names = list(nodes), list(keys)
        while len(tops) > most:
            groups = group(shape, tops, ARITY)
            merged = [
                names[inside.start]
                if len(inside) == 1
                else self._add_merge(
                    merge_steps(shape, tops[inside.start : inside.stop]),
                    names[inside.start : inside.stop],
                )
                for _, inside in groups
            ]
            tops, names = [top for top, _ in groups], merged
        return tops, names

    def graph(self, keys: Sequence[str]) -> HighLevelGraph:
        """What it takes to compute some of the keys."""
        wanted, todo = set(keys), list(keys)
        while todo:
            new = [name for name in self._needs.get(todo.pop(), ()) if name not in wanted]
            wanted.update(new)
            todo += new
        layers = {name: layer for name, layer in self._layers.items() if name in wanted}
        return HighLevelGraph(layers, {name: set() for name in layers})

    def _add_merge(self, steps: tuple[tuple[int, int], ...], inputs: list[str]) -> str:
        key = f"dgmm-merge-{len(self._layers)}-{self.name}"
        return self._add(key, (merge_nodes, inputs, steps), None, needs=inputs)

    def _add(
        self,
        key: str,
        task: Any,
        worker: str | None,
        nowhere_else: bool = False,
        needs: Sequence[str] = (),
    ) -> str:
        near = {"workers": [worker], "allow_other_workers": not nowhere_else} if worker else None
        self._layers[key] = MaterializedLayer({key: task}, annotations=near)
        self._needs[key] = list(needs)
        return key

    def _reference(self, given: Any, needs: list[str]) -> Any:
        """A future as it is; a Dask object by its key, with its graph in this one."""
        if not hasattr(given, "__dask_graph__"):
            return given
        layer = f"rows-{given.key}"
        self._layers[layer] = MaterializedLayer(dict(given.__dask_graph__()))
        needs.append(layer)
        return given.key
