import pytest

from hf_transfer.report.redaction import public, public_text

TOKEN = "hf_" + "Ab1" * 11


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice/my data/flowers/", "flowers"),
        ("~/flowers", "flowers"),
        ("../../alice/flowers", "flowers"),
        ("C:\\Users\\Alice\\flowers", "flowers"),
        ("\\\\server\\share\\flowers", "flowers"),
        ("file:///home/alice/flowers", "flowers"),
        ("/", "."),
        ("~", "~"),
        ("trained on /home/alice/flowers, twice", "trained on flowers, twice"),
        ("see C:\\Users\\Alice\\flowers.", "see flowers."),
        ("zip://a.zip::/home/alice/flowers.zip", "zip://a.zip::flowers.zip"),
        ("s3://key:secret@bucket/flowers?X-Signature=abc#x", "s3://bucket/flowers"),
        ("hf://datasets/me/flowers@main/a.zip", "hf://datasets/me/flowers@main/a.zip"),
        (f"token {TOKEN}.", "token (removed)."),
        ("uoft-cs/cifar10", "uoft-cs/cifar10"),
        ("package:digits", "package:digits"),
        ("runs/vit_cifar10", "runs/vit_cifar10"),
        ("either/or, 1 / 2, and </script>", "either/or, 1 / 2, and </script>"),
        ("https://huggingface.co/me/x", "https://huggingface.co/me/x"),
    ],
)
def test_public_text(text, shown):
    assert public_text(text) == shown


def test_public__values_of_secret_keys():
    found = public({"a": [{"hub_token": "x", "API_KEY": "y", "password": None}], "include_num_tokens": "all", "n": 1})
    assert found == {
        "a": [{"hub_token": "(removed)", "API_KEY": "(removed)", "password": None}],
        "include_num_tokens": "all",
        "n": 1,
    }
