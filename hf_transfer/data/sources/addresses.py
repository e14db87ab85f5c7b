"""Addresses of files: which text is one, its parts, what a message shows of it, and the files that a text with braces names.

Nothing is read here.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, quote, unquote

from ...access_tokens import without_tokens
from ...errors import DataError, listed

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CREDENTIAL = re.compile(
    r"token|secret|passw|credential|signature|bearer|access[-_]?key|api[-_]?key|[-_]key$|^(sig|auth|authorization|jwt|key|pass|pwd)$",
    re.IGNORECASE,
)
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d+))?")
_MOST = 1_000_000


def is_address(text: str) -> bool:
    """Return whether a text is an address (`https://host/x.tar`, `s3://bucket/x`) and no path."""
    return _ADDRESS.match(text) is not None


def is_web(address: str) -> bool:
    """Return whether an address is one of a web server, where a question mark begins a query."""
    return address.lower().startswith(("http://", "https://"))


def shown(address: str) -> str:
    """Return an address or a path as messages, sample ids and reports may show it: without credentials, query and fragment."""
    if not is_address(address):
        return address
    scheme, _, rest = address.partition("://")
    if is_web(address):
        rest = re.split("[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    if _has_credentials(address, host):
        host = host.rpartition("@")[2]
    return without_tokens(f"{scheme}://{host}{slash}{path}")


def shown_apart(addresses: Sequence[str]) -> list[str]:
    """Return `shown` of each; those that differ in their queries only get a digest of the query, which tells nothing of it."""
    names = [shown(address) for address in addresses]
    counts = Counter(names)
    digests = (hashlib.blake2b(address.encode(), digest_size=6).hexdigest() for address in addresses)
    return [
        f"{name}?{digest}" if counts[name] > 1 and name != address else name
        for name, address, digest in zip(names, addresses, digests, strict=True)
    ]


def check_source_address(address: str) -> None:
    """Stop at an address that a recipe should not hold: one with credentials in it, or one that leads through another.

    Raises:
        DataError: naming what is wrong with it, without the credentials.
    """
    if re.search(r"::\w+://", address):
        raise DataError(f"data.source: expected an address of one file system, found one inside another: {shown(address)}")
    host = re.split("[/?#]", address.partition("://")[2], maxsplit=1)[0]
    # Of any file system: where a question mark is part of a name, hardly anything is called as a credential behind it.
    parts = re.split("[?#]", address)[1:]
    names = {name for part in parts for name, _ in parse_qsl(part, keep_blank_values=True)}
    secret = sorted(name for name in names if _CREDENTIAL.search(name))
    if _has_credentials(address, host):
        secret.insert(0, "a user before the '@'")
    if secret:
        raise DataError(
            f"data.source: expected an address without credentials, found {listed(secret)} in that of {shown(address)}: a "
            "recipe is copied beside every run and onto the Hub. Give credentials to the file system itself: ~/.netrc for "
            "http, the environment or the configuration of s3, gs and others."
        )


def _has_credentials(address: str, host: str) -> bool:
    """Return whether something before the '@' is a secret: elsewhere than on the web a bare user or container may be there."""
    user, at, _ = host.rpartition("@")
    return bool(at) and (is_web(address) or ":" in user)


def path_of(address: str) -> PurePosixPath:
    """Return the path of an address, its host or bucket first, or a local path; of web addresses without their escapes."""
    text = shown(address).partition("://")[2] if is_address(address) else address
    return PurePosixPath(unquote(text) if is_web(address) else text)


def below(folder: str, path: str) -> str:
    """Return the address of a file whose path is relative to the address of its folder.

    Raises:
        ValueError: saying what is wrong with the path.
    """
    if "\0" in path or any("\ud800" <= character <= "\udfff" for character in path):
        raise ValueError("is no valid text")
    if path.startswith("/"):
        raise ValueError("is absolute")
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and not parts:
            raise ValueError("leaves the folder")
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if not parts:
        raise ValueError("leaves the folder")
    relative = "/".join(parts)
    return f"{folder}/{quote(relative) if is_web(folder) else relative}"


def folder_of(address: str) -> str:
    """Return the address of the folder that a file is in, without a query and without a slash at its end."""
    plain = re.split("[?#]", address, maxsplit=1)[0] if is_web(address) else address
    return plain.rpartition("/")[0]


def expanded(pattern: str) -> list[str]:
    """Return the texts that one with braces stands for, as bash and `braceexpand` have them; without braces itself.

    `{000..012}` counts, with as many digits as its ends are written with; `{0..10..5}` in steps; `{a,b}` names; several
    braces give all combinations, the last one changing first; braces may stand in braces.

    Args:
        pattern: such as `shard-{000..012}.tar`.

    Raises:
        DataError: when there would be more than a million.
    """
    found = list(itertools.islice(_expanded(pattern), _MOST + 1))
    if len(found) > _MOST:
        raise DataError(f"data.source: expected braces that stand for at most {_MOST:,} files, found more in {shown(pattern)}")
    return found


def _expanded(text: str) -> Iterator[str]:
    pair = _first_braces(text)
    if pair is None:
        yield text
        return
    start, end, commas = pair
    before, after = text[:start], text[end + 1 :]
    if commas:
        edges = [start, *commas, end]
        parts: Iterator[str] = (part for one, two in itertools.pairwise(edges) for part in _expanded(text[one + 1 : two]))
    else:
        inside = text[start + 1 : end]
        parts = _counted(inside) or (f"{{{part}}}" for part in _expanded(inside))
    for part in parts:
        for rest in _expanded(after):
            yield f"{before}{part}{rest}"


def _first_braces(text: str) -> tuple[int, int, list[int]] | None:
    """Return where the first pair of braces begins and ends, and its own commas; None where there is no pair."""
    for start in (index for index, character in enumerate(text) if character == "{"):
        depth, commas = 0, []
        for index in range(start, len(text)):
            if text[index] == "," and depth == 1:
                commas.append(index)
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                return start, index, commas
    return None


def _counted(inside: str) -> Iterator[str] | None:
    """Return the numbers or letters that `1..3`, `000..012`, `0..10..5` or `a..e` stand for, None for other texts."""
    numbers, letters = _RANGE.fullmatch(inside), _LETTERS.fullmatch(inside)
    if numbers is not None:
        first, last, step = int(numbers[1]), int(numbers[2]), numbers[3]
        padded = any(re.match(r"-?0\d", numbers[end]) for end in (1, 2))
        width = max(len(numbers[1]), len(numbers[2])) if padded else 0
        return (f"{number:0{width}d}" for number in _steps(first, last, step))
    if letters is not None:
        return (chr(code) for code in _steps(ord(letters[1]), ord(letters[2]), letters[3]))
    return None


def _steps(first: int, last: int, step: str | None) -> range:
    width = abs(int(step or 1)) or 1
    return range(first, last + 1, width) if first <= last else range(first, last - 1, -width)
