"""Several forward passes at a time: the same results in the same order, and threads as they were."""

import threading

import pytest
import torch

from hf_transfer.backbones.streams import in_streams, stream_count


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_in_streams__results_come_in_the_order_of_the_items(streams):
    late = threading.Event()

    def slow_first(number):
        if streams > 1 and number == 0:
            assert late.wait(10), "the second item must not wait for the first"
        if number == 1:
            late.set()
        return number * number

    assert list(in_streams(slow_first, iter(range(9)), streams)) == [number * number for number in range(9)]


def test_in_streams__takes_items_only_as_they_are_needed():
    taken = []
    results = in_streams(lambda number: number, (taken.append(number) or number for number in range(100)), 2)
    assert next(results) == 0
    assert len(taken) <= 4
    results.close()
    assert len(taken) <= 4


def test_in_streams__a_network_says_the_same_as_alone_and_threads_are_as_before():
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(288, 5)
    network = torch.nn.Sequential(*layers)
    network.eval().requires_grad_(False)
    batches = torch.randn(12, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    alone, together = (torch.stack(list(in_streams(network, batches, streams))) for streams in (1, 3))
    torch.testing.assert_close(together, alone)
    assert torch.get_num_threads() == threads


def test_in_streams__the_first_error_ends_it_and_threads_are_as_before():
    def fail_at_three(number):
        if number == 3:
            raise ValueError("three")
        return number

    threads = torch.get_num_threads()
    found = []
    with pytest.raises(ValueError, match="three"):
        for result in in_streams(fail_at_three, range(1000), 2):
            found.append(result)
    assert found == [0, 1, 2]
    assert torch.get_num_threads() == threads


def test_in_streams__an_item_that_cannot_be_made_does_not_cost_those_before():
    def items():
        yield from range(3)
        raise KeyboardInterrupt

    found = []
    with pytest.raises(KeyboardInterrupt):
        for result in in_streams(lambda number: number, items(), 2):
            found.append(result)
    assert found == [0, 1, 2]


def test_stream_count__is_one_away_from_the_cpu():
    assert stream_count(torch.device("cuda")) == 1
    assert 1 <= stream_count(torch.device("cpu")) <= 4
