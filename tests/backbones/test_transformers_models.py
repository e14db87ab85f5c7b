import json

import pytest
import torch
import transformers
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_transfer.backbones.build import build_backbone, load_as_it_is
from hf_transfer.errors import BackboneError
from hf_transfer.recipe.schema import Model

CLASSES = ["cat", "dog", "owl"]


def states_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_build_backbone__saved_directory_loads_with_transformers_alone(family, checkpoint, tmp_path, logits_of):
    backbone = build_backbone(Model(backbone=str(checkpoint)), CLASSES, 0)
    backbone.save(tmp_path)

    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(again) is type(backbone.model) is type(family.build())
    assert type(again).__module__.startswith("transformers.")
    assert states_equal(again.state_dict(), backbone.model.state_dict())
    pixels = torch.rand(2, 3, *family.size)
    assert torch.equal(logits_of(again, pixels), logits_of(backbone.model, pixels))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is type(backbone.processor)
    assert processor.to_dict() == backbone.processor.to_dict()


def test_build_backbone__labels_are_saved(family, checkpoint, tmp_path):
    build_backbone(Model(backbone=str(checkpoint)), CLASSES, 0).save(tmp_path)
    text = (tmp_path / "config.json").read_text()
    config = json.loads(text)
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "owl"}
    assert config["label2id"] == {"cat": 0, "dog": 1, "owl": 2}
    assert str(checkpoint) not in text


def test_build_backbone__backbone_weights_are_the_checkpoints(family, checkpoint):
    backbone = build_backbone(Model(backbone=str(checkpoint)), CLASSES, 0)
    source = AutoModelForImageClassification.from_pretrained(checkpoint).state_dict()
    heads = tuple(f"{head}." for head in backbone.heads)
    found = backbone.model.state_dict()
    assert found.keys() == source.keys()
    for name, tensor in found.items():
        if name.startswith(heads):
            assert len(tensor) == 3
        else:
            assert torch.equal(tensor, source[name]), name


def test_build_backbone__answers_the_five_questions(family, checkpoint):
    backbone = build_backbone(Model(backbone=str(checkpoint)), CLASSES, 0)
    assert backbone.heads == family.heads
    assert backbone.feature_width == family.feature_width
    assert tuple(group.name for group in backbone.groups) == family.groups
    assert tuple(backbone.cam_layers) == family.cam_layers
    assert backbone.preprocessing.size == family.size
    assert backbone.is_convolutional == family.is_convolutional


def test_build_backbone__groups_partition_the_parameters_in_order(family, checkpoint):
    backbone = build_backbone(Model(backbone=str(checkpoint)), CLASSES, 0)
    head = {name for name, _ in backbone.model.named_parameters() if name.startswith(tuple(f"{h}." for h in backbone.heads))}
    grouped = [name for group in backbone.groups for name in group.parameters]
    assert sorted(grouped) == sorted(name for name, _ in backbone.model.named_parameters())
    assert set(backbone.groups[-1].parameters) == head
    assert all(group.parameters for group in backbone.groups)


def test_build_backbone__cam_layers_give_maps_or_tokens(family, checkpoint):
    backbone = build_backbone(Model(backbone=str(checkpoint)), CLASSES, 0)
    shapes = {}
    for path in backbone.cam_layers:

        def note(module, inputs, output, path=path):
            while not isinstance(output, torch.Tensor):  # PvtV2: ((tokens,), height, width)
                output = output[0]
            shapes[path] = output.shape

        backbone.model.get_submodule(path).register_forward_hook(note)
    with torch.no_grad():
        backbone.model.eval()(torch.rand(2, 3, *family.size))
    assert list(shapes) == backbone.cam_layers
    dimensions = 4 if family.maps == "channels first" else 3
    assert {len(shape) for shape in shapes.values()} == {dimensions}
    first = shapes[backbone.cam_layers[0]]
    assert (first[2:].numel() if family.maps == "channels first" else first[1]) > 1


def test_build_backbone__random_weights_on_request(family, checkpoint, tmp_path):
    section = Model(backbone=str(checkpoint), pretrained=False)
    one, other, third = (build_backbone(section, CLASSES, seed) for seed in (0, 0, 1))
    assert states_equal(one.model.state_dict(), other.model.state_dict())
    assert not states_equal(one.model.state_dict(), third.model.state_dict())
    source = AutoModelForImageClassification.from_pretrained(checkpoint).state_dict()
    name = next(name for name, tensor in source.items() if tensor.ndim == 4)  # the first convolution
    assert not torch.equal(one.model.state_dict()[name], source[name])


def test_build_backbone__missing_backbone_weights_are_refused(family, checkpoint, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(checkpoint)
    heads = tuple(f"{head}." for head in family.heads)
    lost = [name for name, _ in model.named_parameters() if not name.startswith(heads)][-2:]
    model.save_pretrained(tmp_path, state_dict={name: t for name, t in model.state_dict().items() if name not in lost})
    family.processor().save_pretrained(tmp_path)
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone=str(tmp_path)), CLASSES, 0)
    assert str(caught.value) == (
        f"model.backbone: {tmp_path} lacks the weights of 2 tensors, outside its head ({', '.join(sorted(lost))}); "
        "they would be random. Expected a checkpoint of an image classifier or of its backbone."
    )


def test_build_backbone__backbone_without_classifier_gets_a_new_head(family, checkpoint, tmp_path):
    classifier = AutoModelForImageClassification.from_pretrained(checkpoint)
    base = classifier.base_model
    assert type(base) is getattr(transformers, family.base)
    base.save_pretrained(tmp_path)
    family.processor().save_pretrained(tmp_path)

    backbone = build_backbone(Model(backbone=str(tmp_path)), CLASSES, 0)
    source = base.state_dict()
    found = backbone.model.base_model.state_dict()
    assert all(torch.equal(found[name], source[name]) for name in found)


def test_load_as_it_is__backbone_without_classifier_is_refused(family, checkpoint, tmp_path):
    base = AutoModelForImageClassification.from_pretrained(checkpoint).base_model
    base.save_pretrained(tmp_path)
    family.processor().save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="its classifier head among them"):
        load_as_it_is(Model(backbone=str(tmp_path)))


def test_load_as_it_is__keeps_the_checkpoints_head(family, checkpoint):
    backbone = load_as_it_is(Model(backbone=str(checkpoint)))
    source = AutoModelForImageClassification.from_pretrained(checkpoint)
    assert states_equal(backbone.model.state_dict(), source.state_dict())
    assert backbone.model.config.num_labels == 7


def test_load_as_it_is__new_head_is_refused(vit_checkpoint):
    section = Model(backbone=str(vit_checkpoint), head={"hidden": [{"size": 4}]})
    with pytest.raises(BackboneError) as caught:
        load_as_it_is(section)
    assert str(caught.value) == "model.head: an evaluation keeps the checkpoint's own head; leave model.head out"


def test_build_backbone__run_directory_stands_for_its_model(vit_checkpoint, tmp_path):
    build_backbone(Model(backbone=str(vit_checkpoint)), CLASSES, 0).save(tmp_path / "model")
    backbone = load_as_it_is(Model(backbone=str(tmp_path)))
    assert backbone.model.config.id2label == dict(enumerate(CLASSES))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/directory", "~/nowhere-at-all", "a/b/c"])
def test_build_backbone__no_such_directory(name):
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone=name), CLASSES, 0)
    assert str(caught.value) == (f"model.backbone: expected a directory with a config.json, found no such directory: {name}")


def test_build_backbone__directory_without_config(tmp_path):
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone=str(tmp_path)), CLASSES, 0)
    assert str(caught.value) == f"model.backbone: expected a config.json in {tmp_path} (or in its model/), found none"


def test_build_backbone__directory_without_processor(vit_checkpoint, tmp_path):
    AutoModelForImageClassification.from_pretrained(vit_checkpoint).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=f"model.backbone: {tmp_path} cannot be loaded as an image classifier: "):
        build_backbone(Model(backbone=str(tmp_path)), CLASSES, 0)


def test_build_backbone__no_image_model_is_refused(vit_checkpoint, tmp_path):
    transformers.BertConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    transformers.ViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="cannot be loaded as an image classifier"):
        build_backbone(Model(backbone=str(tmp_path)), CLASSES, 0)


@pytest.mark.parametrize("damage", ["truncated", "empty", "no weights", "not weights"])
def test_build_backbone__damaged_weights_are_refused(vit_checkpoint, tmp_path, damage):
    build_backbone(Model(backbone=str(vit_checkpoint)), CLASSES, 0).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    if damage in ("truncated", "empty"):
        weights.write_bytes(weights.read_bytes()[:1000] if damage == "truncated" else b"")
    else:
        weights.unlink()
    if damage == "not weights":
        (tmp_path / "pytorch_model.bin").write_bytes(b"a page that says: sign in")
    with pytest.raises(BackboneError, match=f"model.backbone: {tmp_path} cannot be loaded as an image classifier: "):
        build_backbone(Model(backbone=str(tmp_path)), CLASSES, 0)
