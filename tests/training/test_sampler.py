"""The order of training images is a function of the seed and the epoch."""

from types import SimpleNamespace

from hf_transfer.training.sampler import EpochSampler


class Images(SimpleNamespace):
    def __len__(self):
        return 20


def order(seed, epoch):
    return list(EpochSampler(Images(epoch=epoch), seed))


def test_epoch_sampler__every_image_once_in_an_order_of_seed_and_epoch():
    assert sorted(order(0, 0)) == list(range(20))
    assert order(0, 0) == order(0, 0) != list(range(20))
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert len(EpochSampler(Images(epoch=0), 0)) == 20
