"""What becomes of files that are no images, and of images that only look odd."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from bad_images import COLOURS, STRANGE_NAMES, bad_images, encoded, odd_images, png
from PIL import Image

from hf_transfer.data.build import build_splits
from hf_transfer.data.images import decode_rgb
from hf_transfer.data.inspection import inspect_images, plan_splits
from hf_transfer.data.integrity import fault, scan
from hf_transfer.data.sources.folders import read_class_folders
from hf_transfer.errors import DataError
from hf_transfer.recipe.schema import Data

ODD, BAD = odd_images(), bad_images()
ALL = ["train", "validation", "test"]


@pytest.fixture
def everything(grow):
    """Two classes: one of whole images, one that has all odd and all bad files besides."""
    root = grow({"good": 12, "mixed": 12})
    for name, odd in ODD.items():
        (root / "mixed" / name).write_bytes(odd.content)
    for name, bad in BAD.items():
        bad.write(root / "mixed" / name)
    return root


def in_time(function, *arguments, **options):
    """Call a function in a thread of its own, and fail where it does not come back."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function(*arguments, **options)), daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive(), "it waits for ever"
    return found[0]


def reasons(root, *, decode):
    table = read_class_folders(root).tables["train"]
    found = in_time(scan, table, decode=decode)
    assert len(found.digests) == len(table)
    return {Path(str(table.sample_ids[index])).name: reason for index, reason in found.bad.items()}


@pytest.mark.parametrize("name", ODD)
def test_decode_rgb__odd_images_are_images(name):
    odd = ODD[name]
    image = decode_rgb(odd.content)
    assert image.mode == "RGB"
    np.testing.assert_allclose(np.asarray(image).astype(int), odd.pixels.astype(int), atol=odd.tolerance)


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if isinstance(bad.content, bytes)])
def test_fault__says_why_bytes_are_no_image(name):
    bad = BAD[name]
    full, fast = (fault(bad.content, decode=decode) for decode in (True, False))
    assert full is not None and full.startswith(bad.reason)
    assert fast == (full if bad.in_header else None)


@pytest.mark.parametrize("decode", [True, False])
def test_scan__finds_the_bad_ones_and_no_others(everything, decode):
    found = reasons(everything, decode=decode)
    expected = {name for name, bad in BAD.items() if decode or bad.in_header}
    assert found.keys() == expected
    assert all(reason.startswith(BAD[name].reason) for name, reason in found.items())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_fault__the_fast_pass_finds_what_the_full_one_finds_wherever_a_file_is_cut(kind):
    whole = encoded(Image.effect_noise((40, 40), 60).convert("RGB"), kind)
    for cut in (1, 2, 3, 5, 9, 13, 17, 40, 300, len(whole) // 2, len(whole) - 30):
        cut_off = whole[:-cut]
        assert fault(cut_off, decode=False) == fault(cut_off, decode=True), cut
    assert fault(whole, decode=False) is None


@pytest.mark.parametrize("progressive", [False, True])
def test_fault__the_full_pass_finds_what_decoding_finds(progressive):
    """It makes an eighth of the size of a JPEG, which is faster, and must see the same damage."""
    rng = np.random.default_rng(0)
    whole = encoded(Image.effect_noise((96, 96), 60).convert("RGB"), "JPEG", progressive=progressive)
    for trial in range(60):
        spoilt, place = bytearray(whole), int(rng.integers(20, len(whole)))
        if trial % 3 == 0:
            del spoilt[place:]
        else:
            spoilt[place : place + 12] = bytes(12) if trial % 3 == 1 else rng.bytes(12)
        try:
            decode_rgb(bytes(spoilt))
            expected = True
        except Exception:
            expected = False
        assert (fault(bytes(spoilt), decode=True) is None) == expected, trial


def test_fault__numbers_in_text_may_be_cut_off_too():
    whole = b"P2 8 8 255\n" + b" ".join(b"%d" % value for value in range(100, 164)) + b"\n"
    assert fault(whole, decode=False) is None
    assert fault(whole[:-40], decode=False) == fault(whole[:-40], decode=True) is not None


def test_scan__more_images_than_are_read_at_a_time(grow):
    root = grow({"a": 600})
    (root / "a" / "400.png").write_bytes(b"")
    assert reasons(root, decode=False) == {"400.png": "the file is empty"}


def test_inspection__lists_the_bad_ones_and_tells_what_is_odd(everything):
    plan = plan_splits(Data(source=str(everything)))
    report = in_time(inspect_images, plan).report
    told = {Path(image["image"]).name: image["reason"] for image in report["unreadable"]}
    assert told.keys() == BAD.keys()
    assert all(reason.startswith(BAD[name].reason) for name, reason in told.items())
    for kind in ("wrong_suffix", "rotated", "several_frames", "blank"):
        expected = {name for name, odd in ODD.items() if kind in odd.told}
        assert {Path(image["image"]).name for image in report[kind]} == expected, kind


def test_build_splits__names_every_bad_image_at_once(everything):
    with pytest.raises(DataError) as caught:
        build_splits(Data(source=str(everything), test_fraction=0.2), ALL, training=True, decode=True)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"data: found {len(BAD)} unreadable images:"
    told = {Path(line.removeprefix("  - ").partition(": ")[0]).name: line.partition(": ")[2] for line in lines[1:-1]}
    assert told.keys() == BAD.keys()
    assert all(reason.startswith(BAD[name].reason) for name, reason in told.items())


def test_build_splits__skips_them_and_touches_nothing(everything):
    files = sorted(path for path in everything.rglob("*") if not path.is_symlink() and path.is_file())
    readable = [path for path in files if path.name != "closed.jpg"]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in readable]
    section = Data(source=str(everything), test_fraction=0.2, on_bad_image="skip")
    splits = build_splits(section, ALL, training=True)
    assert {Path(name).name for items in splits.skipped.values() for name, _ in items} == BAD.keys()
    left = {Path(str(name)).name for table in splits.tables.values() for name in table.sample_ids}
    assert not left & BAD.keys() and left >= ODD.keys()
    assert sum(map(len, splits.tables.values())) == 24 + len(ODD)
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in readable] == before
    assert sorted(path for path in everything.rglob("*") if not path.is_symlink() and path.is_file()) == files


def test_listing__a_folder_called_like_an_image_is_a_bad_image(grow, tmp_path):
    root = grow({"cat": 2, "dog": 2, "x.jpg": 1})
    lines = [
        f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.rglob("*.png")) if path.parent.name != "x.jpg"
    ]
    (root / "all.csv").write_text("\n".join(["file_name,label", *lines, "x.jpg,cat"]))
    with pytest.raises(DataError, match=r"found 1 unreadable image:\n  - \S+/x\.jpg: Is a directory"):
        build_splits(Data(source=str(root / "all.csv")), ["train"], training=False)


def test_class_folders__a_folder_called_like_an_image_is_a_folder(grow):
    root = grow({"cat/x.jpg": 2, "y.png": 1})
    found = read_class_folders(root)
    assert found.class_names == ["cat", "y.png"]
    assert found.tables["train"].sample_ids.tolist() == ["cat/x.jpg/000.png", "cat/x.jpg/001.png", "y.png/002.png"]


def test_class_folders__strange_names_are_read_and_told(grow, noise):
    root = grow({"cat": 1, "dog": 1})
    for name in STRANGE_NAMES:
        noise().save(root / "cat" / name)
    splits = build_splits(Data(source=str(root)), ["train"], training=False)
    assert set(splits.tables["train"].sample_ids) == {"cat/000.png", "dog/001.png", *(f"cat/{name}" for name in STRANGE_NAMES)}
    for name in STRANGE_NAMES:
        (root / "cat" / name).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        build_splits(Data(source=str(root)), ["train"], training=False)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 + len(STRANGE_NAMES)  # a name with a line feed is in one line all the same
    assert f"  - {root}/cat/new\\x0aline.png: the file is empty" in lines
    assert f"  - {root}/cat/\N{CAT}.png: the file is empty" in lines


def test_class_folders__a_name_that_is_not_utf8(grow, noise):
    root = grow({"cat": 1, "dog": 1})
    try:
        noise().save(os.fsdecode(os.fsencode(root / "cat") + b"/caf\xe9.png"))
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    with pytest.raises(DataError) as caught:
        read_class_folders(root)
    assert str(caught.value) == f"data.source: expected file names in UTF-8; rename '{root}/cat/caf\\xe9.png'"


# Decompression bombs


def with_limit(limit, *commands):
    """Run Python in a process of its own under a limit of pixels."""
    environment = {**os.environ, "HF_TRANSFER_MAX_PIXELS": limit, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", "\n".join(commands)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)


def test_pixel_limit__is_the_users_to_set(tmp_path):
    (tmp_path / "large.png").write_bytes(encoded(Image.fromarray(COLOURS).resize((100, 100))))
    opening = ("from hf_transfer.data.images import decode_rgb", f"data = open({str(tmp_path / 'large.png')!r}, 'rb').read()")
    assert with_limit("10000", *opening, "print(decode_rgb(data).size)").stdout == "(100, 100)\n"  # and no warning
    told = ("from hf_transfer.data.integrity import fault", "print(fault(data, decode=False))")
    assert with_limit("9998", *opening, *told).stdout == (
        "Image size (10000 pixels) exceeds limit of 9998 pixels, could be decompression bomb DOS attack. If it is none: "
        "HF_TRANSFER_MAX_PIXELS sets how many pixels an image may have.\n"
    )


def test_pixel_limit__that_is_none():
    done = with_limit(
        "many", "import sys", "from hf_transfer.cli import main", "sys.exit(main(['data', 'inspect', 'package:digits']))"
    )
    assert done.returncode == 2
    assert done.stderr == "error: HF_TRANSFER_MAX_PIXELS: expected a whole number of pixels above 1, found 'many'\n"


def test_fault__a_bomb_is_never_decoded():
    """A decoded one would hold 400 MB and more."""
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "decompression bomb" in fault(BAD["bomb_real.png"].content, decode=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB, bytes on macOS


def test_fault__large_images_are_whole_ones_too():
    rows = b"\0" * (1001 * 8000)
    assert fault(png(8000, 8000, rows, depth=1, colour=0), decode=True) is None
    assert fault(png(8000, 8000, rows[:-9], depth=1, colour=0), decode=True) is not None
