"""The reduction tree: one fixed shape, so that a sum has the same bits wherever it is computed.

A tree has two stories. The parts of a block are the leaves of a binary tree that belongs to the
block; the roots of those are the leaves of a binary tree over the blocks. In both, node ``j`` of
level ``l`` is the merge of nodes ``2j`` and ``2j + 1`` of the level below, and a node without a
right sibling is passed up as it is. Because a block always has a node of its own, its result can
be kept without changing the total, and a range of blocks that is aligned to a power of two is a
subtree: reduced anywhere, by anyone, it gives the bits that the whole reduction would have had
there.
"""

from __future__ import annotations

import copy
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

from dgmm.engine.base import Mergeable
from dgmm.errors import EngineError

__all__ = ["Node", "Shape", "TreeReducer", "frontier", "group", "merge_steps", "merge_values"]

M = TypeVar("M", bound=Mergeable)

ABOVE_BLOCKS = -1


class Node(NamedTuple):
    """A node of the tree.

    Attributes
    ----------
    block : int
        Position of the block whose parts the node covers; -1 for a node that covers whole blocks.
    level : int
        0 for a part (or, with ``block=-1``, for a whole block).
    place : int
        Within the level, from the left.
    """

    block: int
    level: int
    place: int


@dataclass(frozen=True)
class Shape:
    """The shape of a reduction, a function of the number of parts of each block alone.

    Parameters
    ----------
    parts : tuple of int
        Number of parts, at least 1, of every block that takes part. Blocks are called by their
        position in this tuple, whatever their number in the dataset.
    """

    parts: tuple[int, ...]

    @cached_property
    def root(self) -> Node:
        return Node(ABOVE_BLOCKS, _height(len(self.parts)), 0)

    @property
    def height(self) -> int:
        """Most merges between a leaf and the root."""
        return self.root.level + _height(max(self.parts))

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(self.parts)]

    @property
    def n_leaves(self) -> int:
        return sum(self.parts)

    def node(self, block: int, level: int, place: int) -> Node:
        """A node by its one name: the root of a block's parts is a leaf of the upper story."""
        if block != ABOVE_BLOCKS and level == _height(self.parts[block]):
            return Node(ABOVE_BLOCKS, 0, block)
        return Node(block, level, place)

    def leaf(self, block: int, part: int) -> Node:
        """The node of one part of one block."""
        return self.node(block, 0, part)

    def parent(self, node: Node) -> Node:
        return self.node(node.block, node.level + 1, node.place // 2)

    def sibling(self, node: Node) -> Node | None:
        """The other child of the parent; None if there is none."""
        other = node.place ^ 1
        return node._replace(place=other) if other < self._width(node) else None

    def children(self, node: Node) -> list[Node]:
        """The one or two children of a node above the blocks."""
        left = Node(ABOVE_BLOCKS, node.level - 1, 2 * node.place)
        right = self.sibling(left)
        return [left] if right is None else [left, right]

    def blocks(self, node: Node) -> range:
        """Positions of the blocks that a node above the blocks covers."""
        start = node.place << node.level
        return range(start, min(start + (1 << node.level), len(self.parts)))

    def leaves(self, node: Node) -> range:
        """Leaves under a node above the blocks, numbered through all blocks."""
        blocks = self.blocks(node)
        return range(self._starts[blocks.start], self._starts[blocks.stop])

    def _width(self, node: Node) -> int:
        size = len(self.parts) if node.block == ABOVE_BLOCKS else self.parts[node.block]
        return -(-size >> node.level)


def _height(size: int) -> int:
    return (size - 1).bit_length()


class TreeReducer(Generic[M]):
    """Merges nodes of a tree that arrive in any order, from any thread.

    Two siblings are merged as soon as both are there, by the thread that brought the second, so
    that only nodes whose sibling is still missing are held.

    Parameters
    ----------
    shape : Shape
        The tree.
    keep_blocks : bool, default=False
        Keep a copy of the result of every block.

    Attributes
    ----------
    kept : dict of int to M
        The results of the blocks so far, by position, if they are kept.
    """

    def __init__(self, shape: Shape, *, keep_blocks: bool = False) -> None:
        self.kept: dict[int, M] = {}
        self._shape = shape
        self._keep = keep_blocks
        self._pending: dict[Node, M] = {}
        self._root: list[M] = []
        self._lock = threading.Lock()

    @property
    def n_pending(self) -> int:
        """Nodes held, the root included."""
        return len(self._pending) + len(self._root)

    def add(self, node: Node, value: M) -> None:
        """Add the value of a node, once, and merge as far up as its siblings are there."""
        while True:
            if self._keep and node.block == ABOVE_BLOCKS and node.level == 0:
                self.kept[node.place] = copy.deepcopy(value)
            sibling = self._shape.sibling(node)
            if sibling is not None:
                found = self._meet(node, sibling, value)
                if found is None:
                    return
                # Merging stays outside the lock: it is arithmetic on arrays that may be large.
                value = value.merge(found) if node < sibling else found.merge(value)
            elif node == self._shape.root:
                self._root.append(value)
                return
            node = self._shape.parent(node)

    def result(self) -> M:
        """The value of the root.

        Raises
        ------
        EngineError
            If leaves are missing.
        """
        if len(self._root) != 1:
            raise EngineError(
                f"the reduction is incomplete: {len(self._pending)} nodes still wait for a sibling"
            )
        return self._root[0]

    def _meet(self, node: Node, sibling: Node, value: M) -> M | None:
        """The value of the sibling; None, and the value left waiting, if it is not there yet."""
        with self._lock:
            found = self._pending.pop(sibling, None)
            if found is None:
                if node in self._pending:
                    raise EngineError(f"node {tuple(node)} of the reduction came twice")
                self._pending[node] = value
            return found


def frontier(shape: Shape, max_leaves: int, *, homes: Sequence[object] | None = None) -> list[Node]:
    """Nodes that cover every block once, from left to right, each the largest that is allowed.

    Blocks are not split: whoever reduces a node reads its blocks, and each is read once.

    Parameters
    ----------
    shape : Shape
        The tree.
    max_leaves : int
        Most leaves under one node, if it covers several blocks.
    homes : sequence of length n_blocks, optional
        Where each block lives; no node covers blocks of different homes.
    """
    chosen, stack = [], [shape.root]
    while stack:
        node = stack.pop()
        small = len(shape.leaves(node)) <= max_leaves
        if node.level == 0 or (small and _one_home(shape.blocks(node), homes)):
            chosen.append(node)
        else:
            stack.extend(reversed(shape.children(node)))
    return chosen


def _one_home(blocks: range, homes: Sequence[object] | None) -> bool:
    return homes is None or all(homes[block] == homes[blocks.start] for block in blocks)


def group(shape: Shape, nodes: Sequence[Node], arity: int) -> list[tuple[Node, range]]:
    """Subtrees that hold at most ``arity`` of the nodes each, and as many as they can.

    Parameters
    ----------
    shape : Shape
        The tree.
    nodes : sequence of Node
        Nodes above the blocks that cover every block once, from left to right.
    arity : int
        Most nodes in one subtree.

    Returns
    -------
    list of (Node, range)
        The top of each subtree, and the indices of the nodes in it.
    """
    starts = [shape.leaves(node).start for node in nodes]
    found, stack = [], [shape.root]
    while stack:
        top = stack.pop()
        leaves = shape.leaves(top)
        inside = range(bisect_left(starts, leaves.start), bisect_left(starts, leaves.stop))
        if len(inside) == 1:
            found.append((nodes[inside.start], inside))
        elif len(inside) <= arity:
            found.append((top, inside))
        else:
            stack.extend(reversed(shape.children(top)))
    return found


@dataclass(frozen=True)
class _Slot:
    """Stands for the value of a node, and writes down the merges."""

    index: int
    steps: list[tuple[int, int]]

    def merge(self, other: _Slot) -> _Slot:
        self.steps.append((self.index, other.index))
        return self


def merge_steps(shape: Shape, nodes: Sequence[Node]) -> tuple[tuple[int, int], ...]:
    """The merges ``(left, right)`` that lead from the nodes of one subtree to its top.

    They are given by the indices of the nodes; the top ends in slot 0. Whoever does them
    (:func:`merge_values`) need not know the shape of the tree.
    """
    steps: list[tuple[int, int]] = []
    reducer: TreeReducer[_Slot] = TreeReducer(shape)
    for index, node in enumerate(nodes):
        reducer.add(node, _Slot(index, steps))
    if reducer.n_pending != 1:
        raise EngineError("the nodes to merge do not form one subtree")
    return tuple(steps)


def merge_values(values: Iterable[M], steps: Iterable[tuple[int, int]]) -> M:
    """Carry out :func:`merge_steps`. The first value of each merge may be reused."""
    slots: list[M | None] = list(values)
    for left, right in steps:
        first, second = slots[left], slots[right]
        assert first is not None
        assert second is not None
        slots[left], slots[right] = first.merge(second), None
    top = slots[0]
    assert top is not None
    return top
