"""Features are what enters the head, computed once, whatever interrupts or repeats the computation."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.data.dataset import ImageDataset
from hf_transfer.features import extraction
from hf_transfer.features.extraction import Extractor, FeatureModel, Job, compiling_pays, extract, view_ids
from hf_transfer.features.space import feature_space, weights_digest
from hf_transfer.features.store import FeatureStore

CPU = torch.device("cpu")


@pytest.fixture
def folder_for(tmp_path):
    """Open the folder of an extractor's features below a root of its own."""

    def make(extractor, name="store"):
        space = feature_space(
            extractor.backbone,
            weights=weights_digest(extractor.backbone.model, extractor.backbone.heads),
            device=CPU,
            dtype=extractor.autocast or torch.float32,
            compiled=extractor.compiled,
        )
        return FeatureStore(tmp_path / name).folder(space)

    return make


def extracted(extractor, folder, data, ids):
    with extractor.ready() as compute:
        (found,) = extract([Job(extractor, compute, folder, data, ids)])
    assert found.alone_seconds > 0
    return found.features, found.computed


def features_of(extractor, folder, table):
    return extracted(extractor, folder, ImageDataset(table, extractor.backbone.preprocessing), view_ids(table, None))


def plain_features(backbone, table):
    """The input of the classifier in a plain eager float32 forward pass, one image at a time."""
    seen = []
    handle = backbone.model.get_submodule(backbone.heads[0]).register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    backbone.model.eval()
    with torch.no_grad():
        for index in range(len(table)):
            pixels = ImageDataset(table, backbone.preprocessing)[index]["pixel_values"]
            backbone.model(pixel_values=pixels[None])
    handle.remove()
    return torch.cat(seen)


def relative(found, expected):
    return float((found.float() - expected).norm() / expected.norm())


def test_extract__features_are_those_of_a_plain_forward_pass(lite0, textile, folder_for):
    table = textile.tables["train"]
    expected = plain_features(lite0, table)
    for autocast, tolerance in ((None, 1e-5), (torch.bfloat16, 0.1)):
        extractor = Extractor(lite0, CPU, autocast, False, 0)
        found, computed = features_of(extractor, folder_for(extractor), table)
        assert computed == len(table) == len(found)
        assert found.dtype == (autocast or torch.float32)
        assert relative(found, expected) < tolerance
        cosine = torch.nn.functional.cosine_similarity(found.float(), expected)
        assert cosine.min() > 1 - tolerance / 10


def test_extract__nothing_is_computed_twice(lite0, textile, folder_for, monkeypatch):
    extractor = Extractor(lite0, CPU, None, False, 0)
    table = textile.tables["train"]
    first, _ = features_of(extractor, folder_for(extractor), table)
    monkeypatch.setattr(FeatureModel, "forward", lambda *_: pytest.fail("computed again"))
    again, computed = features_of(extractor, folder_for(extractor), table)
    few, computed_few = features_of(extractor, folder_for(extractor), table.select(np.array([5, 3, 60])))
    assert computed == computed_few == 0
    assert torch.equal(first, again)
    assert torch.equal(few, first[[5, 3, 60]])


def test_extract__bit_equal_after_an_interruption(lite0, textile, folder_for, monkeypatch):
    monkeypatch.setattr(extraction, "SHARD_ROWS", 32)
    extractor = Extractor(lite0, CPU, None, False, 0)
    table = textile.tables["train"]
    expected, _ = features_of(extractor, folder_for(extractor, "whole"), table)

    class Interrupted(ImageDataset):
        def image(self, index):
            if index == 40:
                raise KeyboardInterrupt
            return super().image(index)

    folder = folder_for(extractor)
    with pytest.raises(KeyboardInterrupt):
        extracted(extractor, folder, Interrupted(table, lite0.preprocessing), view_ids(table, None))
    assert len(folder.missing(view_ids(table, None))) == len(table) - 32  # one shard was whole
    found, computed = features_of(extractor, folder_for(extractor), table)
    assert computed == len(table) - 32
    assert torch.equal(found, expected)


def test_extract__does_not_depend_on_neighbours_in_a_batch(lite0, textile, folder_for):
    extractor = Extractor(lite0, CPU, None, False, 0)
    table = textile.tables["train"]
    together, _ = features_of(extractor, folder_for(extractor, "together"), table)
    alone, _ = features_of(extractor, folder_for(extractor, "alone"), table.select(np.array([41])))
    assert torch.equal(alone[0], together[41])


def test_extract__a_damaged_shard_is_computed_again(lite0, textile, folder_for, capsys):
    extractor = Extractor(lite0, CPU, None, False, 0)
    table = textile.tables["train"]
    expected, _ = features_of(extractor, folder_for(extractor), table)
    shard = next(folder_for(extractor).path.glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    found, computed = features_of(extractor, folder_for(extractor), table)
    assert "is damaged" in capsys.readouterr().err
    assert computed == len(table)
    assert torch.equal(found, expected)


def test_extract__leaves_the_model_as_it_was(lite0, textile, folder_for):
    before = copy.deepcopy(lite0.model.state_dict())
    extractor = Extractor(lite0, CPU, torch.bfloat16, False, 0)
    lite0.model.train()
    features_of(extractor, folder_for(extractor), textile.tables["validation"])
    after = lite0.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # batch-norm statistics among them
    assert not any(module._forward_pre_hooks for module in lite0.model.modules())


def test_extract__a_changed_image_weight_or_transform_is_never_found(lite0, textile, folder_for):
    extractor = Extractor(lite0, CPU, None, False, 0)
    table = textile.tables["validation"]
    folder = folder_for(extractor)
    features_of(extractor, folder, table)

    changed = table.digests.copy()
    changed[3] = b"another image...."[:16]
    assert folder.missing(view_ids(dataclasses.replace(table, digests=changed), None)).tolist() == [3]
    places = {folder.path}
    with torch.no_grad():
        next(parameter for name, parameter in lite0.model.named_parameters() if name.endswith("bn1.weight"))[0] += 1e-6
    places.add(folder_for(extractor).path)
    lite0.processor.data_config["crop_pct"] = 0.9
    places.add(folder_for(extractor).path)
    assert len(places) == 3


def test_view_ids__a_view_belongs_to_its_sample(textile):
    table = textile.tables["validation"]
    clean, first, second = (view_ids(table, view) for view in (None, 0, 1))
    assert len({*clean, *first, *second}) == 3 * len(table)
    renamed = dataclasses.replace(table, sample_ids=np.array([f"copy/{s}" for s in table.sample_ids]))
    assert (view_ids(renamed, None) == clean).all()
    assert not (view_ids(renamed, 0) == first).any()


def test_extract__views_are_those_of_live_training(lite0, textile, folder_for):
    table = textile.tables["validation"]
    extractor = Extractor(lite0, CPU, None, False, 0)
    data = ImageDataset(table, build_train_transform("basic", lite0.preprocessing), seed=7)
    data.epoch = 1
    found, _ = extracted(extractor, folder_for(extractor), data, view_ids(table, 1))
    live = ImageDataset(table, build_train_transform("basic", lite0.preprocessing), seed=7)
    live.epoch = 1
    pixels = lite0.preprocessing.normalize(torch.stack([live[index]["pixel_values"] for index in range(len(table))]))
    model = FeatureModel(lite0)
    with torch.no_grad():
        expected = model(pixels)
    model.close()
    assert relative(found, expected) < 1e-5


def test_compiling_pays__not_for_few_images(lite0, textile, monkeypatch):
    extractor = Extractor(lite0, CPU, None, False, 0)
    monkeypatch.setattr(extraction, "_seconds", lambda *_: pytest.fail("nothing needs to be timed"))
    assert compiling_pays(extractor, textile.tables["train"], 1000) is False


@pytest.mark.parametrize(("compiled", "pays"), [(2.0, True), (9.0, False)])
def test_compiling_pays__where_it_is_faster_on_many_images(lite0, textile, monkeypatch, compiled, pays):
    extractor = Extractor(lite0, CPU, None, False, 0)
    monkeypatch.setattr(extraction, "_seconds", lambda extractor, _: compiled if extractor.compiled else 8.0)
    assert compiling_pays(extractor, textile.tables["train"], 1001) is pays


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_extract__several_batches_at_a_time_give_the_same(lite0, textile, folder_for, autocast, monkeypatch):
    monkeypatch.setattr(extraction, "_CPU_BATCH", 8)
    extractor = Extractor(lite0, CPU, autocast, False, 0)
    table = textile.tables["train"]
    threads = torch.get_num_threads()
    found = {}
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert extractor.streams == count
            found[count], _ = features_of(extractor, folder_for(extractor, str(count)), table)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[3], found[1])
