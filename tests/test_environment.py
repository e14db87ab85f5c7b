import re
from importlib.metadata import version

from hf_transfer.environment import git_commit, platform_facts, versions


def test_versions__are_those_installed():
    found = versions()
    assert found["torch"] == version("torch")
    assert found["hf-transfer-learning"] == version("hf-transfer-learning")


def test_git_commit__is_a_hash_or_nothing():
    commit = git_commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}\+?", commit)


def test_platform_facts__no_host_name():
    import platform

    assert platform.node() not in platform_facts()["platform"] or not platform.node()
