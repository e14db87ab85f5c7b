"""Tars of samples and Parquet files of real JPEGs, and what a table of them should hold."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
from PIL import Image


def jpeg(number, side=16):
    """Return the bytes of a JPEG that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def write_tar(path, members, mode="w"):
    """Write a tar of (name, bytes, text, object or TarInfo)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
                continue
            if isinstance(content, (dict, list)):
                content = json.dumps(content)
            body = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


def samples(numbers, classes=3, side=16):
    """Return the members of samples `0007.jpg` and `0007.cls`."""
    return [
        member
        for number in numbers
        for member in ((f"{number:04}.jpg", jpeg(number, side)), (f"{number:04}.cls", str(number % classes)))
    ]


def contents(table):
    """Return the encoded bytes of a table's images by sample id."""
    return {str(sample_id): table.encoded(index) for index, sample_id in enumerate(table.sample_ids)}


def labels(found, split="train"):
    """Return the class of each image of a split by sample id."""
    table = found.tables[split]
    return {str(sample_id): found.class_names[label] for sample_id, label in zip(table.sample_ids, table.labels, strict=True)}


class Numbers:
    """Ten blocks of five rows whose images are their numbers in text; remembers what was read, and can fail."""

    def __init__(self):
        self.read_groups, self.fails = [], False

    def together(self, blocks):
        groups = []
        for block in blocks:
            if groups and groups[-1][-1] == block - 1 and len(groups[-1]) < 3:
                groups[-1].append(block)
            else:
                groups.append([block])
        return groups

    def read(self, blocks):
        self.read_groups.append(list(blocks))
        if self.fails:
            raise OSError("http://host/x.tar: the connection failed")
        return [[b"%d" % row if row != 7 else None for row in range(5 * block, 5 * block + 5)] for block in blocks]
