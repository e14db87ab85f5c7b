import pytest
from torch import nn

from hf_transfer.backbones.layer_groups import LayerGroup, layer_groups


def block(width=4, layers=3):
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


class Network(nn.Module):
    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


def names(model, *heads):
    groups = layer_groups(model, heads)
    assert sorted(n for g in groups for n in g.parameters) == sorted(n for n, _ in model.named_parameters())
    return [group.name for group in groups]


def test_layer_groups__stages_beside_each_other():
    model = Network(stem=nn.Conv2d(3, 4, 1), one=block(), two=block(), head=nn.Linear(4, 2))
    assert names(model, "head") == ["stem", "one", "two", "head"]


def test_layer_groups__containers_are_opened():
    encoder = Network(layers=nn.ModuleList([block(), block(), block()]))
    model = Network(network=Network(embed=nn.Conv2d(3, 4, 1), encoder=encoder, norm=nn.LayerNorm(4)), head=nn.Linear(4, 2))
    assert names(model, "head") == ["stem", *(f"network.encoder.layers.{i}" for i in range(3)), "head"]


def test_layer_groups__small_modules_between_stages_belong_to_the_stage_before():
    model = Network(
        features=nn.Sequential(nn.Linear(4, 4), block(), nn.Linear(4, 4), block(), nn.LayerNorm(4)), head=nn.Linear(4, 2)
    )
    groups = layer_groups(model, ("head",))
    assert [group.name for group in groups] == ["stem", "features.1", "features.3", "head"]
    assert groups[1].parameters[-2:] == ("features.2.weight", "features.2.bias")
    assert groups[2].parameters[-2:] == ("features.4.weight", "features.4.bias")


def test_layer_groups__a_large_first_module_is_the_stem_where_parts_are_no_peers():
    model = Network(embeddings=block(), one=block(), two=block(), head=nn.Linear(4, 2))
    assert names(model, "head") == ["stem", "one", "two", "head"]
    assert names(Network(stages=nn.Sequential(block(), block()), head=nn.Linear(4, 2)), "head") == [
        "stages.0",
        "stages.1",
        "head",
    ]


def test_layer_groups__bare_layers_are_stages_each():
    features = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert names(Network(features=features, head=nn.Linear(4, 2)), "head") == ["features.0", "features.2", "features.4", "head"]


def test_layer_groups__head_inside_a_classifier_leaves_what_precedes_it():
    classifier = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model = Network(stem=nn.Conv2d(3, 4, 1), one=block(), two=block(), classifier=classifier)
    groups = layer_groups(model, ("classifier.2",))
    assert groups[-1] == LayerGroup("head", ("classifier.2.weight", "classifier.2.bias"))
    assert groups[-2].name == "two"
    assert groups[-2].parameters[-2:] == ("classifier.0.weight", "classifier.0.bias")


def test_layer_groups__two_heads_form_one_group():
    model = Network(stem=nn.Conv2d(3, 4, 1), one=block(), two=block(), head=nn.Linear(4, 2), head_dist=nn.Linear(4, 2))
    groups = layer_groups(model, ("head", "head_dist"))
    assert groups[-1].parameters == ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")


def test_layer_groups__bare_parameters_go_to_the_stem():
    model = Network(embed=nn.Conv2d(3, 4, 1), blocks=nn.ModuleList([block(), block()]), head=nn.Linear(4, 2))
    model.register_parameter("cls_token", nn.Parameter(nn.Linear(1, 4).weight.detach()))
    groups = layer_groups(model, ("head",))
    assert [group.name for group in groups] == ["stem", "blocks.0", "blocks.1", "head"]
    assert "cls_token" in groups[0].parameters


@pytest.mark.parametrize("depth", [1, 2])
def test_layer_groups__head_alone(depth):
    model = Network(body=block(layers=depth), head=nn.Linear(4, 2))
    assert names(model, "head")[-1] == "head"


def test_layer_groups__a_wrapped_network_of_bare_layers():
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()]
    network = nn.ModuleDict({"features": nn.Sequential(*layers), "classifier": nn.Linear(4, 2)})
    bare = [group.name for group in layer_groups(network, ["classifier"])]
    wrapped = [group.name for group in layer_groups(nn.ModuleDict({"network": network}), ["network.classifier"])]
    assert bare == ["features.0", "features.2", "features.4", "head"]
    assert wrapped == [f"network.{name}" for name in bare[:-1]] + ["head"]


def test_layer_groups__a_wrapped_network_of_two_bare_layers():
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    model = Network(network=Network(features=features, head=nn.Linear(4, 2)))
    assert names(model, "network.head") == ["network.features.0", "network.features.2", "head"]
