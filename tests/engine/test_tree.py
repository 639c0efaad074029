"""The laws of the reduction tree: one shape, whatever the order of arrival or the cuts."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgmm.engine.tree import Shape, TreeReducer, frontier, group, merge_steps, merge_values
from dgmm.errors import EngineError
from dgmm.testing.engines import Trace

parts = st.lists(st.integers(1, 9), min_size=1, max_size=24)


def leaf_values(shape: Shape) -> list[tuple[Any, Trace]]:
    return [
        (shape.leaf(block, part), Trace(0.1 * (block + 1) + part, 1, f"{block}.{part}"))
        for block, n_parts in enumerate(shape.parts)
        for part in range(n_parts)
    ]


def reduced(shape: Shape, order: random.Random | None = None, **options: Any) -> TreeReducer[Trace]:
    reducer: TreeReducer[Trace] = TreeReducer(shape, **options)
    leaves = leaf_values(shape)
    if order is not None:
        order.shuffle(leaves)
    for node, value in leaves:
        reducer.add(node, value)
    return reducer


def pairwise(values: list[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    half = 1 << ((len(values) - 1).bit_length() - 1)
    return pairwise(values[:half]), pairwise(values[half:])


def drawn(tree: Any) -> str:
    return tree if isinstance(tree, str) else f"({drawn(tree[0])} {drawn(tree[1])})"


@given(parts)
def test_shape_is_two_stories_of_halves(sizes: list[int]) -> None:
    blocks = [pairwise([f"{b}.{p}" for p in range(n)]) for b, n in enumerate(sizes)]
    assert reduced(Shape(tuple(sizes))).result().shape == drawn(pairwise(blocks))


@given(parts, st.randoms())
def test_bits_do_not_depend_on_the_order_of_arrival(sizes: list[int], order: Any) -> None:
    shape = Shape(tuple(sizes))
    assert reduced(shape, order).result() == reduced(shape).result()


@given(parts, st.randoms())
def test_blocks_are_kept_without_changing_the_total(sizes: list[int], order: Any) -> None:
    shape = Shape(tuple(sizes))
    kept = reduced(shape, order, keep_blocks=True)
    assert kept.result() == reduced(shape).result()
    assert sorted(kept.kept) == list(range(len(sizes)))
    assert [kept.kept[block].count for block in range(len(sizes))] == sizes


@given(parts)
def test_in_order_few_nodes_wait(sizes: list[int]) -> None:
    shape = Shape(tuple(sizes))
    reducer: TreeReducer[Trace] = TreeReducer(shape)
    for node, value in leaf_values(shape):
        reducer.add(node, value)
        assert reducer.n_pending <= shape.height + 1


@given(parts, st.integers(1, 40), st.integers(2, 16), st.data())
def test_ranges_reduced_apart_and_merged_give_the_same_bits(
    sizes: list[int], max_leaves: int, arity: int, data: Any
) -> None:
    shape = Shape(tuple(sizes))
    homes = data.draw(st.none() | st.lists(st.sampled_from("ab"), min_size=24, max_size=24))
    nodes = frontier(shape, max_leaves, homes=homes)
    covered = [block for node in nodes for block in shape.blocks(node)]
    assert covered == list(range(len(sizes)))
    values = [reduce_alone(shape, node) for node in nodes]
    while len(nodes) > arity:
        groups = group(shape, nodes, arity)
        assert all(1 <= len(inside) <= arity for _, inside in groups)
        values = [
            merge_values(
                values[inside.start : inside.stop],
                merge_steps(shape, nodes[inside.start : inside.stop]),
            )
            for _, inside in groups
        ]
        nodes = [top for top, _ in groups]
    reducer: TreeReducer[Trace] = TreeReducer(shape)
    for node, value in zip(nodes, values, strict=True):
        reducer.add(node, value)
    assert reducer.result() == reduced(shape).result()


def reduce_alone(shape: Shape, node: Any) -> Trace:
    """As a worker does it, which knows the blocks of its range and no others."""
    blocks = shape.blocks(node)
    own = Shape(shape.parts[blocks.start : blocks.stop])
    reducer: TreeReducer[Trace] = TreeReducer(own)
    leaves = shape.leaves(node)
    values = [value for _, value in leaf_values(shape)][leaves.start : leaves.stop]
    for (leaf, _), value in zip(leaf_values(own), values, strict=True):
        reducer.add(leaf, value)
    return reducer.result()


def test_many_threads() -> None:
    shape = Shape((3,) * 200)
    reducer: TreeReducer[Trace] = TreeReducer(shape)
    leaves = leaf_values(shape)

    def add(values: list[tuple[Any, Trace]]) -> None:
        for node, value in values:
            reducer.add(node, value)

    threads = [threading.Thread(target=add, args=(leaves[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert reducer.result() == reduced(shape).result()


def test_missing_and_repeated_leaves_are_errors() -> None:
    reducer: TreeReducer[Trace] = TreeReducer(Shape((2,)))
    node, value = leaf_values(Shape((2,)))[0]
    reducer.add(node, value)
    with pytest.raises(EngineError, match="incomplete"):
        reducer.result()
    with pytest.raises(EngineError, match="twice"):
        reducer.add(node, value)


def test_nodes_of_no_subtree_are_not_merged() -> None:
    shape = Shape((1,) * 8)
    with pytest.raises(EngineError, match="subtree"):
        merge_steps(shape, [shape.leaf(1, 0), shape.leaf(2, 0)])
