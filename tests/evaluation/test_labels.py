import unicodedata

import numpy as np
import pytest
from transformers import ResNetConfig

from hf_transfer.backbones.packaged_models import imagenet_class_names
from hf_transfer.errors import LabelError
from hf_transfer.evaluation.labels import align_labels, model_class_names, read_shipped_map, shipped_maps

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def test_align_labels__reorders_by_name():
    alignment = align_labels(["b", "c", "a"], ["a", "b", "c"], None)
    logits = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    np.testing.assert_array_equal(alignment.apply(logits), [[2.0, 3.0, 1.0]])
    assert alignment.exact
    assert alignment.unmapped == []


def test_align_labels__mismatch_shows_both():
    with pytest.raises(LabelError) as error:
        align_labels(["cat", "dog"], ["LABEL_0", "LABEL_1"], None)
    assert str(error.value) == (
        "evaluation: the classes of the data set and of the checkpoint differ.\n"
        "  data set (2): cat, dog\n"
        "  checkpoint (2): LABEL_0, LABEL_1\n"
        "They are matched by name. Rename the classes, or say with evaluation.label_map which of the checkpoint's "
        "stand for each class of the data set; maps that are shipped: cifar10_imagenet."
    )


def test_align_labels__a_subset_is_a_mismatch():
    with pytest.raises(LabelError, match="differ"):
        align_labels(["a", "b"], ["a", "b", "c"], None)


def test_align_labels__repeated_checkpoint_class_is_a_mismatch():
    with pytest.raises(LabelError, match="differ"):
        align_labels(["a", "crane"], ["a", "crane", "crane"], None)


@pytest.mark.parametrize(
    ("data", "checkpoint", "told"),
    [
        (
            ["cat", "dog", "emu"],
            ["dog", "Cat", "emu", "fox"],
            "  only in the data set: cat\n  only in the checkpoint: Cat, fox\n",
        ),
        (["cat", "dog"], ["cat", "dog", "emu"], "  only in the checkpoint: emu\n"),
        (["cat", "dog", "emu"], ["cat", "dog"], "  only in the data set: emu\n"),
        (["7", "9"], ["007", "9"], "  only in the data set: 7\n  only in the checkpoint: 007\n"),
        (["cat", "dog"], ["cat", "dog", "cat"], "  several times in the checkpoint: cat\n"),
    ],
    ids=["case", "the checkpoint knows more", "the data set knows more", "numbers", "twice"],
)
def test_align_labels__mismatch_says_which_names_only_one_side_has(data, checkpoint, told):
    with pytest.raises(LabelError) as error:
        align_labels(data, checkpoint, None)
    assert f"\n{told}They are matched by name. " in str(error.value)


def test_align_labels__accents_may_be_composed_or_not():
    composed, apart = (unicodedata.normalize(form, "caf\N{LATIN SMALL LETTER E WITH ACUTE}") for form in ("NFC", "NFD"))
    for ours, theirs in ((composed, apart), (apart, composed)):
        alignment = align_labels([ours, "tea"], ["tea", theirs], None)
        assert (alignment.exact, alignment.columns, alignment.class_names) == (True, [[1], [0]], [composed, "tea"])
        mapped = align_labels([ours, "tea"], ["x", theirs], {theirs: [ours]})
        assert (mapped.columns, mapped.unmapped) == ([[1], []], ["tea"])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, ["a", "b", "c"]),
        ({"id2label": {"2": "c", "0": "a", "1": "b"}}, ["a", "b", "c"]),
        ({"id2label": {0: 10, 1: 9}}, ["10", "9"]),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"b": 0, "a": 1}}, ["a", "b"]),
        ({"num_labels": 2}, ["LABEL_0", "LABEL_1"]),
    ],
    ids=["keys are text", "any order", "names are numbers", "label2id contradicts", "without names"],
)
def test_model_class_names__are_those_of_id2label(labels, names, tmp_path):
    ResNetConfig(**labels).save_pretrained(tmp_path)
    assert model_class_names(ResNetConfig.from_pretrained(tmp_path)) == names


def test_model_class_names__that_are_not_numbered_from_0():
    with pytest.raises(LabelError) as error:
        model_class_names(ResNetConfig(id2label={1: "a", 2: "b"}))
    assert str(error.value) == (
        "model.backbone: expected names of the classes 0 to 1 in id2label of the checkpoint's config.json, found 1, 2; number "
        "them as its logits are"
    )


def test_align_labels__map_sums_probabilities():
    alignment = align_labels(["x", "y", "z"], ["a", "b", "c", "d"], {"x": ["a", "c"], "y": ["d"]})
    logits = np.log(np.array([[0.1, 0.2, 0.3, 0.4]]))
    np.testing.assert_allclose(alignment.apply(logits), [[0.4, 0.4, 0.0]], atol=1e-12)
    assert alignment.unmapped == ["z"]


def test_align_labels__map_with_mistakes_tells_all():
    with pytest.raises(LabelError) as error:
        align_labels(["cat", "dog"], ["tabby", "beagle"], {"cta": ["tabby"], "dog": ["beagel"], "cat": ["tabby"]})
    assert str(error.value) == (
        "evaluation.label_map:\n"
        "  - 'cta' is not a class of the data set (did you mean 'cat'?)\n"
        "  - 'beagel' (for 'dog') is not a class of the checkpoint (did you mean 'beagle'?)\n"
        "  - 'tabby' stands for both 'cta' and 'cat'"
    )


def test_align_labels__empty_map():
    with pytest.raises(LabelError, match="maps no class of the data set"):
        align_labels(["cat", "dog"], ["tabby"], {"cat": []})


def test_align_labels__unknown_shipped_map():
    with pytest.raises(LabelError, match=r"no map called 'cifar10_imagnet' \(did you mean 'cifar10_imagenet'\?\)"):
        align_labels(CIFAR10, ["x"], "cifar10_imagnet")


def test_shipped_map__fits_cifar10_and_imagenet():
    assert shipped_maps() == ["cifar10_imagenet"]
    names = imagenet_class_names()
    alignment = align_labels(CIFAR10, names, "cifar10_imagenet")
    assert alignment.unmapped == ["deer"]
    mapping = read_shipped_map("cifar10_imagenet")
    assert list(mapping) == CIFAR10
    used = [column for columns in alignment.columns for column in columns]
    assert len(used) == len(set(used)), "no class of ImageNet stands for two of CIFAR-10"
    assert {names[c] for c in alignment.columns[3]} == {
        "tabby, tabby cat",
        "tiger cat",
        "Persian cat",
        "Siamese cat, Siamese",
        "Egyptian cat",
    }
    assert len(alignment.columns[5]) == 118, "ImageNet's dogs are 151 to 268"
    assert "crane" not in mapping["bird"], "two classes of ImageNet have that name, one of them a machine"


def test_align_labels__a_map_of_other_classes_is_not_for_a_checkpoint_of_these():
    logits = np.array([[1.0, 2.0]], dtype=np.float32)
    alignment = align_labels(["b", "a"], ["a", "b"], {"a": ["lion"], "b": ["eagle"]})
    assert alignment.exact
    np.testing.assert_array_equal(alignment.apply(logits), [[2.0, 1.0]])
    assert not align_labels(["b", "a"], ["a", "b"], {"a": ["a"]}).exact, "a map of its classes is carried out"


def test_predict__no_class_without_probability():
    mapped = align_labels(["x", "y"], ["a", "b", "c"], {"x": ["a"]})
    logits = np.array([[0.0, 200.0, 0.0], [5.0, 0.0, 0.0]], dtype=np.float32)
    assert mapped.predict(logits).tolist() == [0, 0]
    assert align_labels(["b", "a"], ["a", "b"], None).predict(logits[:, :2]).tolist() == [0, 1]
