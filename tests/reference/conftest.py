"""Folders that the reference studies' tests share: each is written once."""

import pytest
from offline import CIFAR10, CIFAR100, image_folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Where what stands for models of the Hub is written when it is first asked for."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory):
    """Five training images and two test images of each class, at CIFAR-10's size."""
    return _small(tmp_path_factory.mktemp("images") / "cifar10", CIFAR10)


@pytest.fixture(scope="session")
def cifar100(tmp_path_factory):
    """Five training images and two test images of each of a hundred classes, at CIFAR-100's size."""
    return _small(tmp_path_factory.mktemp("images") / "cifar100", CIFAR100)


def _small(root, classes):
    image_folder(root, classes, per_class=5, splits=("train",))
    return image_folder(root, classes, per_class=2, splits=("test",))
