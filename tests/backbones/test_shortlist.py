"""The shortlist's facts against the libraries that hold them, and the rule by which a choice is made."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
import transformers as hf
from timm.models import get_pretrained_cfg, save_for_hf

from hf_transfer.backbones.backbone import Backbone, Provenance
from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.packaged_models import PACKAGED_MODELS
from hf_transfer.backbones.shortlist import SIZES, Listed, choose, reachable, shortlist, table
from hf_transfer.backbones.timm_models import classifier_paths
from hf_transfer.errors import UserError
from hf_transfer.recipe.loading import parse_recipe
from hf_transfer.recipe.schema import Model
from hf_transfer.report.licences import LICENCES

ROOT = Path(__file__).parents[2]
ENTRIES = {entry.name: entry for entry in shortlist()}
OF_TIMM = [name for name in ENTRIES if name.startswith("timm:")]
PACKAGED = [name for name in ENTRIES if name.startswith("package:")]
OF_HUB = [name for name in ENTRIES if ":" not in name]
BUILT_BY_TIMM = [*OF_TIMM, *PACKAGED]
# Width, layers and heads of ViT-S, ViT-B and ViT-L (arXiv 2010.11929, 2012.12877).
DINOV2 = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
CLASSES = ["cat", "dog", "emu"]


def _entry(name, family="A", **changes):
    facts = {"hub_id": f"timm/{name}", "family": family, "supervision": "supervised", "pretraining": "ImageNet-1k"}
    facts |= {"image_size": 224, "parameters": 5_000_000, "gmacs": 1.0, "licence": "apache-2.0", "licence_name": None}
    facts |= {"commercial": True, "gated": False, "imagenet_top1": None}
    return Listed(name=f"timm:{name}", **(facts | changes))


def _names(entries):
    return [entry.name.removeprefix("timm:") for entry in entries]


def _timm_name(name):
    kind, _, name = name.partition(":")
    return f"tf_{name}" if kind == "package" else name


def _network(name, num_classes):
    with torch.device("meta"):
        return timm.create_model(_timm_name(name).partition(".")[0], pretrained=False, num_classes=num_classes)


def _count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_shortlist__names_stand_once_and_every_kind_is_there():
    assert len(ENTRIES) == len(shortlist())
    assert OF_TIMM and PACKAGED and OF_HUB
    assert {entry.size for entry in shortlist()} == set(SIZES)
    assert {entry.supervision for entry in shortlist()} == {"supervised", "self-supervised", "image-text"}


@pytest.mark.parametrize("name", ENTRIES)
def test_shortlist__a_recipe_takes_the_name(name):
    raw = {"output_dir": "runs/x", "data": {"source": "images"}, "model": {"backbone": name}, "strategy": "full"}
    assert parse_recipe(raw).model.backbone == name


@pytest.mark.parametrize("name", OF_TIMM)
def test_shortlist__timm_has_these_weights(name):
    entry, timm_name = ENTRIES[name], _timm_name(name)
    assert timm_name in timm.list_pretrained(f"{timm_name.partition('.')[0]}.*")
    cfg = get_pretrained_cfg(timm_name)
    assert entry.hub_id == cfg.hf_hub_id
    assert (3, entry.image_size, entry.image_size) == cfg.input_size
    assert (entry.licence_name or entry.licence) == cfg.license
    assert entry.supervision == "supervised" or cfg.num_classes != 1000
    assert entry.imagenet_top1 is None or cfg.num_classes == 1000


@pytest.mark.parametrize("name", BUILT_BY_TIMM)
def test_shortlist__our_adapters_know_the_network(name):
    network = _network(name, len(CLASSES))
    backbone = Backbone(network, None, classifier_paths(network), Provenance(name))
    assert backbone.groups[0].name == "stem"
    assert backbone.groups[-1].name == "head"
    assert len(backbone.groups) >= 6  # fine enough to unfreeze step by step
    grouped = Counter(parameter for group in backbone.groups for parameter in group.parameters)
    assert grouped == Counter(parameter for parameter, _ in network.named_parameters())
    assert backbone.cam_layers
    assert ENTRIES[name].parameters == _count(_network(name, 0))
    assert backbone.parameter_count - ENTRIES[name].parameters == len(CLASSES) * (backbone.feature_width + 1)


@pytest.mark.parametrize("name", OF_HUB)
def test_shortlist__parameters_of_dinov2(name):
    width, layers, heads = DINOV2[name.rpartition("-")[2]]
    kind = "Dinov2WithRegisters" if "registers" in name else "Dinov2"
    config = getattr(hf, f"{kind}Config")(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, image_size=518, patch_size=14
    )
    with torch.device("meta"):
        assert ENTRIES[name].parameters == _count(getattr(hf, f"{kind}Model")(config))
    assert ENTRIES[name].hub_id == name


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
def test_shortlist__dinov2_without_a_classifier_gets_ours(kind, tmp_path):
    small = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    published = getattr(hf, f"{kind}Model")(getattr(hf, f"{kind}Config")(**small))
    published.save_pretrained(tmp_path)
    hf.BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    backbone = build_backbone(Model(backbone=str(tmp_path)), CLASSES, 0)
    assert [group.name.rpartition(".")[2] for group in backbone.groups] == ["stem", "0", "1", "2", "3", "head"]
    assert backbone.feature_width == 64  # class token and mean of the patches
    prefix = backbone.model.base_model_prefix
    loaded = backbone.model.state_dict()
    assert all(torch.equal(tensor, loaded[f"{prefix}.{key}"]) for key, tensor in published.state_dict().items())


@pytest.mark.parametrize("num_classes", [0, 512])  # masked image modelling; CLIP's projection
def test_shortlist__timm_weights_without_an_imagenet_classifier_get_ours(num_classes, tmp_path):
    published = timm.create_model("test_vit", pretrained=False, num_classes=num_classes)
    save_for_hf(published, tmp_path, safe_serialization=True)
    backbone = build_backbone(Model(backbone=str(tmp_path)), CLASSES, 0)
    loaded = backbone.model.timm_model.state_dict()
    assert loaded["head.weight"].shape == (len(CLASSES), backbone.feature_width)
    for key, tensor in published.state_dict().items():
        assert key.startswith("head.") or torch.equal(tensor, loaded[key])


def test_shortlist__licences_are_identifiers_of_the_hub():
    assert {entry.licence for entry in shortlist()} <= set(LICENCES)
    for entry in shortlist():
        assert (entry.licence == "other") == (entry.licence_name is not None) == (entry.commercial is None)
        assert entry.commercial is not True or "nc" not in entry.licence.split("-")


def test_shortlist__every_packaged_model_is_listed():
    assert {name.removeprefix("package:") for name in PACKAGED} == set(PACKAGED_MODELS)
    for name in PACKAGED:
        assert ENTRIES[name].hub_id is None
        assert ENTRIES[name].image_size == get_pretrained_cfg(_timm_name(name)).input_size[-1]
        assert reachable(ENTRIES[name], hub=False)


def test_shortlist__says_where_its_figures_come_from():
    content = json.loads((ROOT / "hf_transfer/backbones/shortlist.json").read_text())
    assert set(content["sources"]) == {"parameters, gmacs", "image_size, licence", "imagenet_top1", "gated"}
    assert "/results/results-imagenet.csv" in content["sources"]["imagenet_top1"]


@pytest.mark.parametrize(
    ("parameters", "size"),
    [(1, "tiny"), (8_000_000, "tiny"), (8_000_001, "small"), (30_000_000, "small"), (30_000_001, "base"), (10**8 + 1, "large")],
)
def test_size__by_parameters(parameters, size):
    assert _entry("x", parameters=parameters).size == size


def test_choose__families_take_turns():
    entries = [_entry("a1"), _entry("a2"), _entry("b1", "B"), _entry("a3"), _entry("c1", "C"), _entry("b2", "B")]
    assert _names(choose(entries)) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert _names(choose(entries, limit=4)) == ["a1", "b1", "c1", "a2"]
    assert choose(entries, limit=99) == choose(entries)
    assert choose([]) == ()


def test_choose__no_family_of_the_shortlist_comes_twice_before_all_came():
    families = {entry.family for entry in shortlist()}
    chosen = choose(shortlist(), limit=len(families))
    assert {entry.family for entry in chosen} == families
    assert set(choose(shortlist())) == set(shortlist())


def test_choose__filters():
    entries = [
        _entry("free"),
        _entry("big", parameters=90_000_000, gmacs=17.0),
        _entry("research", licence="cc-by-nc-4.0", commercial=False),
        _entry("own_terms", licence="other", licence_name="x", commercial=None),
        _entry("mit", licence="mit", gmacs=None),
    ]
    assert _names(choose(entries, commercial=True)) == ["free", "big", "mit"]
    assert _names(choose(entries, licences=["mit", "other"])) == ["own_terms", "mit"]
    assert _names(choose(entries, sizes=["base", "large"])) == ["big"]
    assert _names(choose(entries, max_parameters=5_000_000)) == ["free", "research", "own_terms", "mit"]
    assert _names(choose(entries, max_gmacs=1.0)) == ["free", "research", "own_terms"]  # what is not known may be too much
    assert choose(entries, licences=["gpl"]) == ()


def test_choose__a_filter_comes_before_the_turns():
    entries = [_entry("a1", parameters=90_000_000), _entry("b1", "B"), _entry("a2"), _entry("b2", "B")]
    assert _names(choose(entries, sizes=["tiny"])) == ["b1", "a2", "b2"]


def test_choose__refuses_what_it_does_not_know():
    with pytest.raises(UserError) as caught:
        choose([], sizes=["smal", "tiny", "huge"])
    assert str(caught.value) == (
        "sizes: expected some of tiny, small, base, large, found 'smal' (did you mean 'small'?), 'huge'"
    )
    with pytest.raises(UserError, match="limit: expected at least 1, found 0"):
        choose([], limit=0)


def test_reachable__a_package_that_is_not_installed():
    absent = dataclasses.replace(ENTRIES[PACKAGED[0]], name="package:efficientnet_lite9")
    assert not reachable(absent, hub=True)
    assert _names(choose([absent, ENTRIES[PACKAGED[0]]], offline=True)) == [PACKAGED[0]]


def test_reachable__a_folder_of_that_name_is_loaded_in_the_hubs_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = dataclasses.replace(ENTRIES[OF_HUB[0]], name="ann/vit", hub_id="ann/vit")
    assert reachable(entry, hub=True)
    assert not reachable(entry, hub=False)
    (tmp_path / "ann/vit/model").mkdir(parents=True)
    assert not reachable(entry, hub=True)  # loading it would be an error
    (tmp_path / "ann/vit/model/config.json").touch()
    assert reachable(entry, hub=False)


def test_reachable__the_hubs_cache(tmp_path):
    """In a process of its own: the client reads where its cache is when it is imported."""
    files = {
        "timm/resnet18.a1_in1k": ["config.json", "model.safetensors"],
        "timm/resnet50.a1_in1k": ["config.json"],  # the weights never came
        "facebook/dinov2-small": ["config.json", "preprocessor_config.json", "pytorch_model.bin"],
        "facebook/dinov2-base": ["config.json", "model.safetensors"],
    }
    for hub_id, names in files.items():
        folder = tmp_path / "hub" / f"models--{hub_id.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        for name in names:
            (folder / "snapshots" / ("0" * 40) / name).touch()
    code = """
import json, sys
from hf_transfer.backbones.shortlist import choose, reachable, shortlist
entries = shortlist()
light = not {"torch", "timm", "transformers", "huggingface_hub"} & set(sys.modules)
offline = [entry.name for entry in choose(entries, offline=True) if entry.hub_id]
print(json.dumps([light, offline, all(reachable(entry, hub=True) for entry in entries if entry.hub_id)]))
"""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    environment = inherited | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    light, offline, online = json.loads(done.stdout)
    assert light
    assert offline == ["facebook/dinov2-small", "timm:resnet18.a1_in1k"]
    assert online


def test_table__documentation_is_current():
    lines = (ROOT / "docs/backbones.md").read_text(encoding="utf-8").splitlines()
    shown = [line for line in lines if line.startswith("|")]
    assert "\n".join(shown[: len(shortlist()) + 2]) == table(shortlist())


def test_table__what_is_not_known_is_a_dash():
    row = table([_entry("x", licence="other", licence_name="y-license", commercial=None, gmacs=None)]).splitlines()[-1]
    assert row == ("| `timm:x` | A | tiny | 5.0 | 224 | - | ImageNet-1k (supervised) | y-license (terms of its own) | - |")
