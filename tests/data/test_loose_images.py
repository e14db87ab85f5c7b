import http.server
import os
import socket
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hf_transfer.data.images import decode_rgb
from hf_transfer.data.loose_images import LooseImage, find_images, read_batches, search
from hf_transfer.data.transforms import Preprocessing
from hf_transfer.errors import DataError


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(ViTImageProcessor(size={"height": 32, "width": 32}))


@pytest.fixture
def folder(tmp_path, noise):
    """A folder with images, a hidden file, a hidden folder and files that are no images."""
    root = tmp_path / "photos"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".cache").mkdir()
    for name in ("10.png", "9.PNG", "deep/er/1.webp", "deep/2.tiff", ".hidden.png", ".cache/3.png"):
        noise().save(root / name)
    (root / "notes.txt").write_text("no image")
    (root / "features.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    return root


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers with what `pages` says: (status, headers, body)."""

    pages: ClassVar[dict] = {}

    def do_GET(self):
        status, headers, body = self.pages.get(self.path, (404, {}, b"nothing here"))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a server on this machine, and the dictionary of its pages."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_Server, "pages", {})
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", _Server.pages
    httpd.shutdown()
    httpd.server_close()


def names(images, root):
    return [Path(image.name).relative_to(root).as_posix() for image in images]


def test_search__folder_in_natural_order_without_hidden_and_other_files(folder):
    found = search([str(folder)])
    assert names(found.images, folder) == ["9.PNG", "10.png", "deep/2.tiff", "deep/er/1.webp"]
    assert found.passed_over == 3


def test_search__every_file_once_and_places_in_their_order(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = search(["deep", "./10.png", str(folder / "10.png"), "*.png", str(folder)])
    assert [image.name for image in found.images] == ["deep/2.tiff", "deep/er/1.webp", "10.png", str(folder / "9.PNG")]


def test_search__pattern_takes_files_and_folders_it_matches(folder):
    assert names(find_images([str(folder / "**" / "*.webp")]), folder) == ["deep/er/1.webp"]
    found = search([str(folder / "*")])
    assert names(found.images, folder) == ["9.PNG", "10.png", "deep/2.tiff", "deep/er/1.webp"]
    assert found.passed_over == 2


def test_search__named_file_is_taken_whatever_it_is_called(folder, noise):
    odd = folder / "[1] scan"
    noise().save(odd, format="png")
    images = find_images([str(odd), str(folder / ".hidden.png"), str(folder / "notes.txt")])
    assert names(images, folder) == ["[1] scan", ".hidden.png", "notes.txt"]


def test_search__all_places_without_an_image_are_told_at_once(folder, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    with pytest.raises(DataError) as error:
        find_images(["nowhere.jpg", str(folder), str(tmp_path / "texts"), "nothing*.png", "ftp://host/a.png", "http:///a.png"])
    assert str(error.value) == (
        "expected images (a file, folder, pattern or http(s) address) at:"
        "\n  - nowhere.jpg: there is no such file or folder"
        f"\n  - {tmp_path / 'texts'}: no image in this folder (1 other files)"
        "\n  - nothing*.png: no image matches this pattern"
        "\n  - ftp://host/a.png: only http:// and https:// addresses are fetched"
        "\n  - http:///a.png: only http:// and https:// addresses are fetched"
    )


def test_search__linked_folders_are_entered_and_every_folder_once(folder, tmp_path, noise, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    noise().save(tmp_path / "elsewhere" / "5.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "linked_again").symlink_to(tmp_path / "elsewhere")
    (folder / "deep" / "circle").symlink_to(folder)
    (folder / "broken").symlink_to(tmp_path / "nothing")
    expected = ["9.PNG", "10.png", "deep/2.tiff", "deep/er/1.webp", "linked/5.png"]
    found = search([str(folder)])
    assert names(found.images, folder) == expected
    assert (found.passed_over, found.closed) == (4, [])
    assert names(search([str(folder), str(folder / "linked_again"), str(folder / "*")]).images, folder) == expected


@pytest.fixture
def ordinary_user(folder, monkeypatch):
    """Be nobody while the test runs, where it is run by root: to root no folder is closed."""
    search([str(folder)])  # loads what nobody may not read
    monkeypatch.chdir(folder)
    folder.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)
    for closed in ("deep", "deep/er"):
        (folder / closed).chmod(0o755)


def close(path, mode):
    """Change the mode of root's folder, as root where the test is run by root."""
    before = os.geteuid()
    if before != os.getuid():
        os.seteuid(os.getuid())
    path.chmod(mode)
    os.seteuid(before)


def test_search__folders_that_are_closed_are_told(folder, ordinary_user):
    close(folder / "deep" / "er", 0)
    found = search(["."])
    assert [image.name for image in found.images] == ["9.PNG", "10.png", "deep/2.tiff"]
    assert found.closed == [("deep/er", "Permission denied")]
    close(folder / "deep", 0)
    with pytest.raises(DataError) as error:
        search(["deep", "deep/2.tiff", "deep/*"])
    assert str(error.value) == (
        "expected images (a file, folder, pattern or http(s) address) at:"
        "\n  - deep: no image in this folder (deep cannot be searched: Permission denied)"
        "\n  - deep/2.tiff: Permission denied"
        "\n  - deep/*: Permission denied"
    )


def test_search__files_whose_folder_lists_them_only(folder, ordinary_user, preprocessing):
    close(folder / "deep", 0o744)
    found = search(["deep"])
    assert [image.name for image in found.images] == ["deep/2.tiff"]
    (batch,) = read_batches(found.images, preprocessing, 1, workers=0)
    assert batch.unreadable == [("deep/2.tiff", "Permission denied")]


def test_search__home_of_a_user_who_does_not_exist():
    with pytest.raises(DataError, match=r"- ~nosuch/x\.jpg: there is no such file or folder$"):
        search(["~nosuch/x.jpg"])


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_read_batches__inputs_are_those_of_the_preprocessing(preprocessing, grow, batch_size, workers):
    images = find_images([str(grow({"a": 7}))])
    batches = list(read_batches(images, preprocessing, batch_size, workers=workers))
    assert [len(batch.names) for batch in batches] == [min(batch_size, 7 - start) for start in range(0, 7, batch_size)]
    assert [name for batch in batches for name in batch.names] == [image.name for image in images]
    decoded = [decode_rgb(image.encoded()) for image in images]
    assert torch.equal(torch.cat([batch.pixels for batch in batches]), torch.stack([preprocessing(d) for d in decoded]))
    kept = [image for batch in batches for image in batch.images]
    assert all(np.array_equal(image, expected) for image, expected in zip(kept, decoded, strict=True))


def test_read_batches__images_are_upright_rgb_and_left_out_on_request(preprocessing, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.new("L", (20, 10), 7).save(tmp_path / "turned.jpg", exif=exif)
    images = find_images([str(tmp_path)])
    (batch,) = read_batches(images, preprocessing, 4, workers=0)
    assert (batch.images[0].mode, batch.images[0].size) == ("RGB", (10, 20))
    (bare,) = read_batches(images, preprocessing, 4, workers=0, keep_images=False)
    assert bare.images == []
    assert torch.equal(bare.pixels, batch.pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_read_batches__unreadable_files_are_told_and_do_not_stop(preprocessing, tmp_path, noise, workers):
    for number in (1, 2, 3, 9):
        noise().save(tmp_path / f"{number}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "4.png").write_bytes(b"")
    (tmp_path / "5.png").write_bytes(b"no image at all")
    (tmp_path / "6.png").write_bytes(whole[: len(whole) // 2])
    gone = LooseImage(str(tmp_path / "7.png"))
    images = find_images([str(tmp_path)])
    batches = list(read_batches([*images[:6], gone, *images[6:]], preprocessing, 3, workers=workers))
    assert [[Path(name).name for name in batch.names] for batch in batches] == [["1.png", "2.png", "3.png"], [], ["9.png"]]
    assert [tuple(batch.pixels.shape) for batch in batches] == [(3, 3, 32, 32), (0, 3, 32, 32), (1, 3, 32, 32)]
    told = {Path(name).name: reason for batch in batches for name, reason in batch.unreadable}
    assert list(told) == ["4.png", "5.png", "6.png", "7.png"]
    assert told["4.png"] == "the file is empty"
    assert told["5.png"] == "not an image in a known format"
    assert "truncated" in told["6.png"] or "Truncated" in told["6.png"]
    assert told["7.png"] == "No such file or directory"


def test_read_batches__name_that_is_not_utf8_can_be_written(preprocessing, tmp_path, noise):
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    try:
        noise().save(strange)
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    (batch,) = read_batches(find_images([str(tmp_path)]), preprocessing, 1, workers=0)
    assert batch.names == [f"{tmp_path}/caf\\xe9.png"]


def test_read_batches__holds_two_batches_at_most(preprocessing, grow):
    opened = []

    class Watched(LooseImage):
        def encoded(self):
            opened.append(self.name)
            return super().encoded()

    images = [Watched(image.name) for image in find_images([str(grow({"a": 12}))])]
    for number, _ in enumerate(read_batches(images, preprocessing, 2, workers=2), start=1):
        assert len(opened) <= 2 * (number + 1)
    assert len(opened) == 12


def test_read_batches__batch_size_of_nothing(preprocessing):
    with pytest.raises(ValueError, match="expected a batch size of 1 or more, found 0"):
        next(read_batches([], preprocessing, 0))


def test_encoded__address_after_a_redirect(server, noise, tmp_path):
    address, pages = server
    noise().save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    pages["/moved"] = (302, {"Location": "/ein%20bild.png"}, b"")
    pages["/ein%20bild.png"] = (200, {}, whole)
    assert LooseImage(f"{address}/moved").encoded() == whole
    assert LooseImage(f"{address}/ein bild.png").encoded() == whole


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ((404, {}, b""), "the server answered 404 Not Found"),
        ((302, {"Location": "ftp://127.0.0.1/a.png"}, b""), "it cannot be fetched: unknown url type: ftp"),
        ((302, {"Location": "file:///etc/hostname"}, b""), "the server answered 302 Found - Redirection to url 'file:///"),
        ((200, {"Content-Length": "900"}, b"x" * 500), "the connection ended 400 bytes too early"),
    ],
)
def test_read_batches__address_that_gives_no_image(server, preprocessing, page, reason):
    address, pages = server
    pages["/a.png"] = page
    (batch,) = read_batches(find_images([f"{address}/a.png"]), preprocessing, 1)
    ((name, told),) = batch.unreadable
    assert name == f"{address}/a.png"
    assert told.startswith(reason)


def test_encoded__address_that_sends_too_much(server):
    address, pages = server
    pages["/a.png"] = (200, {}, b"x" * 2000)
    assert len(LooseImage(f"{address}/a.png").encoded(limit=2000)) == 2000
    with pytest.raises(OSError, match="it has more than 1,999 bytes"):
        LooseImage(f"{address}/a.png").encoded(limit=1999)


def test_encoded__server_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="timed out"):
        LooseImage(f"http://127.0.0.1:{silent.getsockname()[1]}/a.png").encoded(seconds=0.2)
