"""The batches of training images are a function of the order and the epoch, as accelerate hands them out."""

from types import SimpleNamespace

import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler

from hf_transfer.data.order import Order
from hf_transfer.training.sampler import EpochBatches


def batches(count, batch_size, processes, epoch=0, **options):
    return EpochBatches(SimpleNamespace(epoch=epoch), Order(count, 0), batch_size, processes, **options)


def test_epoch_batches__every_image_once_in_an_order_of_the_epoch():
    orders = [[index for batch in batches(20, 3, 1, epoch) for index in batch] for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))
    assert orders[0] != orders[1]
    assert len(batches(20, 3, 1)) == len(list(batches(20, 3, 1))) == 7


@pytest.mark.parametrize("count", [20, 21, 22, 23, 24, 25, 31])
@pytest.mark.parametrize("processes", [2, 3])
def test_epoch_batches__accelerate_gives_each_process_its_own_and_adds_nothing(count, processes):
    sampler = batches(count, 4, processes)
    shards = [BatchSamplerShard(sampler, processes, process) for process in range(processes)]
    found = [list(shard) for shard in shards]
    assert {len(own) for own in found} == {len(shard) for shard in shards} == {len(sampler) // processes}
    assert sorted(index for own in found for batch in own for index in batch) == list(range(count))


def test_epoch_batches__skipped_batches_leave_the_rest_as_it_is():
    sampler = batches(23, 4, 2)
    shard = BatchSamplerShard(sampler, 2, 1)
    assert list(SkipBatchSampler(shard, 2)) == list(shard)[2:]


def test_epoch_batches__what_fills_no_step_may_be_left_out():
    assert [len(batch) for batch in batches(23, 4, 2, drop_last=True)] == [4, 4, 4, 4]
