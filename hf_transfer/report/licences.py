"""The licence of a backbone as the Hub names it: one of its identifiers, or `other` with a name."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Identifier and full name, from https://huggingface.co/docs/hub/repositories-licenses (August 2026). The Hub refuses any other.
LICENCES = {
    "apache-2.0": "Apache license 2.0",
    "mit": "MIT",
    "openrail": "OpenRAIL license family",
    "bigscience-openrail-m": "BigScience OpenRAIL-M",
    "creativeml-openrail-m": "CreativeML OpenRAIL-M",
    "bigscience-bloom-rail-1.0": "BigScience BLOOM RAIL 1.0",
    "bigcode-openrail-m": "BigCode Open RAIL-M v1",
    "afl-3.0": "Academic Free License v3.0",
    "artistic-2.0": "Artistic license 2.0",
    "bsl-1.0": "Boost Software License 1.0",
    "bsd": "BSD license family",
    "bsd-2-clause": 'BSD 2-clause "Simplified" license',
    "bsd-3-clause": 'BSD 3-clause "New" or "Revised" license',
    "bsd-3-clause-clear": "BSD 3-clause Clear license",
    "c-uda": "Computational Use of Data Agreement",
    "cc": "Creative Commons license family",
    "cc0-1.0": "Creative Commons Zero v1.0 Universal",
    "cc-by-2.0": "Creative Commons Attribution 2.0",
    "cc-by-2.5": "Creative Commons Attribution 2.5",
    "cc-by-3.0": "Creative Commons Attribution 3.0",
    "cc-by-4.0": "Creative Commons Attribution 4.0",
    "cc-by-sa-3.0": "Creative Commons Attribution Share Alike 3.0",
    "cc-by-sa-4.0": "Creative Commons Attribution Share Alike 4.0",
    "cc-by-nc-2.0": "Creative Commons Attribution Non Commercial 2.0",
    "cc-by-nc-3.0": "Creative Commons Attribution Non Commercial 3.0",
    "cc-by-nc-4.0": "Creative Commons Attribution Non Commercial 4.0",
    "cc-by-nd-4.0": "Creative Commons Attribution No Derivatives 4.0",
    "cc-by-nc-nd-3.0": "Creative Commons Attribution Non Commercial No Derivatives 3.0",
    "cc-by-nc-nd-4.0": "Creative Commons Attribution Non Commercial No Derivatives 4.0",
    "cc-by-nc-sa-2.0": "Creative Commons Attribution Non Commercial Share Alike 2.0",
    "cc-by-nc-sa-3.0": "Creative Commons Attribution Non Commercial Share Alike 3.0",
    "cc-by-nc-sa-4.0": "Creative Commons Attribution Non Commercial Share Alike 4.0",
    "cdla-sharing-1.0": "Community Data License Agreement - Sharing, Version 1.0",
    "cdla-permissive-1.0": "Community Data License Agreement - Permissive, Version 1.0",
    "cdla-permissive-2.0": "Community Data License Agreement - Permissive, Version 2.0",
    "wtfpl": "Do What The F*ck You Want To Public License",
    "ecl-2.0": "Educational Community License v2.0",
    "epl-1.0": "Eclipse Public License 1.0",
    "epl-2.0": "Eclipse Public License 2.0",
    "etalab-2.0": "Etalab Open License 2.0",
    "eupl-1.1": "European Union Public License 1.1",
    "eupl-1.2": "European Union Public License 1.2",
    "agpl-3.0": "GNU Affero General Public License v3.0",
    "gfdl": "GNU Free Documentation License family",
    "gpl": "GNU General Public License family",
    "gpl-2.0": "GNU General Public License v2.0",
    "gpl-3.0": "GNU General Public License v3.0",
    "lgpl": "GNU Lesser General Public License family",
    "lgpl-2.1": "GNU Lesser General Public License v2.1",
    "lgpl-3.0": "GNU Lesser General Public License v3.0",
    "isc": "ISC",
    "h-research": "H Research License",
    "intel-research": "Intel Research Use License Agreement",
    "lppl-1.3c": "LaTeX Project Public License v1.3c",
    "ms-pl": "Microsoft Public License",
    "apple-ascl": "Apple Sample Code license",
    "apple-amlr": "Apple Model License for Research",
    "mpl-2.0": "Mozilla Public License 2.0",
    "odc-by": "Open Data Commons License Attribution family",
    "odbl": "Open Database License family",
    "openmdw-1.0": "Open Model, Data & Weights License Agreement",
    "openmdw-1.1": "Open Model, Data & Weights License Agreement v1.1",
    "openrail++": "Open Rail++-M License",
    "osl-3.0": "Open Software License 3.0",
    "postgresql": "PostgreSQL License",
    "ofl-1.1": "SIL Open Font License 1.1",
    "ncsa": "University of Illinois/NCSA Open Source License",
    "unlicense": "The Unlicense",
    "zlib": "zLib License",
    "pddl": "Open Data Commons Public Domain Dedication and License",
    "lgpl-lr": "Lesser General Public License For Linguistic Resources",
    "deepfloyd-if-license": "DeepFloyd IF Research License Agreement",
    "fair-noncommercial-research-license": "FAIR Noncommercial Research License",
    "llama2": "Llama 2 Community License Agreement",
    "llama3": "Llama 3 Community License Agreement",
    "llama3.1": "Llama 3.1 Community License Agreement",
    "llama3.2": "Llama 3.2 Community License Agreement",
    "llama3.3": "Llama 3.3 Community License Agreement",
    "llama4": "Llama 4 Community License Agreement",
    "grok2-community": "Grok 2 Community License Agreement",
    "gemma": "Gemma Terms of Use",
    "unknown": "Unknown",
    "other": "Other",
}
OTHER = "other"
_UNNAMED = "license-of-the-backbone"
_LONGEST_NAME = 64
_ADDRESS = re.compile(r"https?://[\w./:%~+-]+", re.ASCII)  # nothing that Markdown could take for its own
_UNKNOWN = frozenset(("", "unknown", "none", "noassertion"))


@dataclass(frozen=True)
class Licence:
    """What the metadata of a card say of a licence.

    Args:
        identifier: one of `LICENCES`.
        name: a slug, where the identifier is `other`.
        link: where its text is to be read, as far as that is known.
    """

    identifier: str
    name: str | None = None
    link: str | None = None


def hub_licence(text: object, *, page: str | None = None) -> Licence | None:
    """Return a licence as the Hub names it.

    Args:
        text: as published with the weights: an identifier of the Hub or of SPDX, a full name, an address.
        page: address of the page that names it, linked for a licence that is not in the Hub's list.

    Returns:
        The licence, or None where it is not known.
    """
    if not isinstance(text, str) or text.strip().casefold() in _UNKNOWN:
        return None
    known = _SPELLINGS.get(_key(text), OTHER)
    if known != OTHER:
        return Licence(known)
    address = _ADDRESS.fullmatch(text.strip())
    name = _slug(re.sub(r"^.*/", "", text.strip().rstrip("/")) if address else text)
    named = name and name != OTHER
    return Licence(OTHER, name if named else _UNNAMED, address[0] if address else page)


def _key(text: str) -> str:
    """Return what all common spellings of a licence share: `Apache License, Version 2.0` and `apache-2.0` give `apache2`."""
    words = re.sub(r"\b(?:licen[sc]e|the|version)\b|\bv(?=\d)|(?<=[a-z])v(?=\d)", " ", text.casefold())
    words = re.sub(r"-only\b", "", words)  # SPDX; "-or-later" is another licence
    return re.sub(r"[^a-z0-9.+]", "", words).removesuffix(".0")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.casefold())[:_LONGEST_NAME].strip("-.")


_SPELLINGS = {_key(name): name for name in LICENCES} | {_key(full): name for name, full in LICENCES.items()}
_SPELLINGS |= {"cc0": "cc0-1.0", "newbsd": "bsd-3-clause", "simplifiedbsd": "bsd-2-clause", "expat": "mit"}
