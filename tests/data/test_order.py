"""The order of training images: every draw in one batch, whatever the layout."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from hf_transfer.data.order import Order, batch_sizes, low_variance_counts
from hf_transfer.errors import DataError


def blocks_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def flat(batches):
    return np.concatenate(batches).tolist()


# Sizes


@pytest.mark.parametrize("count", range(1, 40))
@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_batch_sizes__every_image_counts_and_all_processes_take_equally_many_steps(count, batch_size, processes):
    if count < processes:
        with pytest.raises(DataError, match=f"one training image for each of the {processes} processes, found {count}"):
            batch_sizes(count, batch_size, processes)
        return
    sizes = batch_sizes(count, batch_size, processes)
    assert sum(sizes) == count
    assert len(sizes) % processes == 0
    assert min(sizes) >= 1
    assert max(sizes) <= batch_size + 1
    steps = np.array(sizes).reshape(-1, processes)
    assert (np.ptp(steps, axis=1) <= 1).all()
    whole = batch_size * processes
    left = count % whole
    # As many as one process has with the whole batch, but for a rest that some process would have nothing of.
    assert len(steps) == count // whole + (left >= processes)


def test_batch_sizes__what_fills_no_step_is_left_out_where_that_is_asked():
    assert batch_sizes(11, 2, 2, drop_last=True) == [2, 2, 2, 2]
    with pytest.raises(DataError, match="at least 4 training images, which fill a step; found 3"):
        batch_sizes(3, 2, 2, drop_last=True)


# Each image once


@pytest.mark.parametrize("blocks", [None, blocks_of([5, 1, 7, 7, 3, 14])], ids=["single", "blocks"])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_batches__each_image_is_in_one_batch_of_an_epoch(blocks, processes):
    order = Order(37, seed=3, blocks=blocks, buffer=8)
    for epoch in range(3):
        batches = order.batches(epoch, 4, processes)
        assert [len(batch) for batch in batches] == batch_sizes(37, 4, processes)
        assert sorted(flat(batches)) == list(range(37))


@pytest.mark.parametrize("blocks", [None, blocks_of([10] * 4)], ids=["single", "blocks"])
def test_batches__are_a_function_of_seed_and_epoch(blocks):
    orders = {
        (seed, epoch): flat(Order(40, seed, blocks=blocks, buffer=20).batches(epoch, 4)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    assert orders[1, 1] == flat(Order(40, 1, blocks=blocks, buffer=20).batches(1, 4))


def test_batches__a_step_of_several_processes_is_the_step_of_one_with_the_whole_batch():
    order = Order(50, seed=0)
    one, two = order.batches(2, 8), order.batches(2, 4, 2)
    assert [flat(two[start : start + 2]) for start in range(0, len(two), 2)] == [batch.tolist() for batch in one]


def test_batches__dropping_leaves_out_the_end_only():
    order = Order(11, seed=0)
    assert flat(order.batches(0, 4, drop_last=True)) == flat(order.batches(0, 4))[:8]


# Blocks


def reads(batches, blocks, kept):
    """Return how many blocks are read when a reader holds the `kept` blocks that it used last."""
    held, count = [], 0
    for batch in batches:
        for block in blocks[batch]:
            if block in held:
                held.remove(block)
            else:
                count += 1
            held = [*held, block][-kept:]
    return count


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batches__each_block_is_read_about_once_whoever_reads(processes, workers):
    blocks = blocks_of([32] * 120)
    order = Order(len(blocks), seed=0, blocks=blocks, buffer=512)
    batches = order.batches(0, 16, processes)
    total = 0
    for process in range(processes):
        own = batches[process::processes]
        for worker in range(workers):  # as torch deals batches to loader processes
            total += reads(own[worker::workers], blocks, order.open_blocks(workers))
    lanes = order.lanes * processes
    assert total <= 120 + lanes  # a block that is cut between two lanes is read by both


def test_batches__the_buffer_is_the_reach_of_the_mixing():
    blocks = blocks_of([10] * 200)
    spread = {}
    for buffer in (80, 800):
        order = Order(2000, seed=0, blocks=blocks, buffer=buffer)
        sequence = blocks[flat(order.batches(0, 10))]
        spread[buffer] = np.median([np.ptp(np.flatnonzero(sequence == block)) for block in range(200)])
    assert spread[80] < spread[800]
    assert np.mean([a == b for a, b in pairwise(sequence)]) < 0.2  # ten blocks are open in each lane


def test_lanes__are_fewer_where_the_buffer_holds_few_blocks():
    assert Order(1000, 0, blocks=blocks_of([10] * 100), buffer=500).lanes == 8
    assert Order(1000, 0, blocks=blocks_of([200] * 5), buffer=500).lanes == 2
    assert Order(1000, 0, blocks=blocks_of([500, 500]), buffer=10).lanes == 1
    assert Order(1000, 0).lanes == 1


# Weights


def test_batches__balanced_classes_are_drawn_equally_often_and_repeats_are_told_apart():
    classes = np.repeat([0, 1, 2], [70, 20, 10])
    order = Order(100, seed=0, classes=classes, weights=1 / np.array([70.0, 20.0, 10.0]))
    for epoch in range(5):
        drawn = np.array(flat(order.batches(epoch, 8, 2)))
        assert len(drawn) == 100 == len(set(drawn))  # a repeat has a number of its own
        found = np.bincount(classes[drawn % 100])
        assert (abs(found - 100 / 3) < 1.01).all()
        times = np.bincount(drawn % 100, minlength=100)
        assert set(times[classes == 2]) <= {3, 4}
        assert set(times[classes == 0]) <= {0, 1}
        repeats = sorted(drawn[drawn % 100 == 99] // 100)
        assert repeats == list(range(len(repeats)))


def test_low_variance_counts__have_the_expectation_of_independent_draws():
    classes, weights = np.array([0, 0, 0, 1, 1]), np.array([1.0, 4.0])
    counts = [low_variance_counts(weights, classes, torch.Generator().manual_seed(seed)) for seed in range(4000)]
    assert {int(found.sum()) for found in counts} == {5}
    np.testing.assert_allclose(np.mean(counts, axis=0), 5 * weights[classes] / weights[classes].sum(), atol=0.04)


def test_batches__weights_and_blocks_go_together():
    blocks, classes = blocks_of([8] * 10), np.arange(80) % 2
    order = Order(80, 0, classes=classes, weights=np.array([3.0, 1.0]), blocks=blocks, buffer=16)
    drawn = np.array(flat(order.batches(0, 4, 2)))
    assert len(set(drawn)) == 80
    assert np.bincount(classes[drawn % 80]).tolist() == [60, 20]
