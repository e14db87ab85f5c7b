"""The metadata of a model or dataset card: reading them, and the rules that the Hub checks before it takes a card.

Rules: https://github.com/huggingface/hub-docs, modelcard.md, datasetcard.md and docs/hub/repositories-licenses.md; tasks:
https://github.com/huggingface/huggingface.js, packages/tasks/src/pipelines.ts. A task of a data set that the Hub does not know
is a warning to it, no error (https://github.com/embeddings-benchmark/mteb/issues/2624 shows its words).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0
cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0
etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c
ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openmdw-1.1 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense
zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
grok2-community gemma unknown other
"""
_TASKS = """
biology text-classification token-classification table-question-answering question-answering zero-shot-classification
translation summarization feature-extraction text-generation text2text-generation fill-mask sentence-similarity text-to-speech
text-to-audio automatic-speech-recognition audio-to-audio audio-classification audio-text-to-text voice-activity-detection
depth-estimation image-classification object-detection image-segmentation text-to-image image-to-text image-to-image
image-to-video unconditional-image-generation video-classification reinforcement-learning robotics tabular-classification
tabular-regression tabular-to-text table-to-text multiple-choice text-ranking text-retrieval time-series-forecasting
text-to-video image-text-to-text visual-question-answering document-question-answering zero-shot-image-classification graph-ml
mask-generation zero-shot-object-detection text-to-3d image-to-3d image-feature-extraction video-text-to-text
keypoint-detection visual-document-retrieval any-to-any other
"""
_KINDS: dict[type, str] = {str: "a string", list: "an array", dict: "an object"}
_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def read_card(text: str) -> dict[str, Any]:
    """Return the metadata of a card; nothing if it has none that can be read."""
    try:
        data = _front_matter(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def validate_card(text: str, kind: str = "model") -> tuple[list[str], list[str]]:
    """Return the errors and the warnings of the metadata of the card of a model or a data set."""
    try:
        data = _front_matter(text)
    except ValueError as error:
        return [f"YAML Metadata Error: {error}"], []
    if not data:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["YAML Metadata Error: the metadata must be an object"], []
    errors = [*_license(data), *_fields(data)]
    if kind == "dataset":
        return [*errors, *_dataset_fields(data)], list(_unknown_tasks(data))
    return [*errors, *_model_index(data.get("model-index", []))], []


def _front_matter(text: str) -> Any:
    """Parse what stands between the two lines of dashes that a card begins with.

    Raises:
        ValueError: when it is no YAML.
    """
    import yaml  # comes with huggingface_hub

    block = re.match(r"\s*---[ \t]*\r?\n([\s\S]*?)\r?\n---[ \t]*(\r?\n|$)", text)
    try:
        return yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _license(data: dict[str, Any]) -> Iterator[str]:
    for name in _strings(data.get("license", [])):
        if name not in _LICENSES.split():
            yield f'"license" must be one of [{", ".join(_LICENSES.split())}]'
    if "license_name" in data and data.get("license") != "other":
        yield '"license_name" is only allowed when "license" is "other"'
    link = data.get("license_link", "LICENSE")
    if not isinstance(link, str) or not re.fullmatch(r"LICENSE(\.md)?|https?://\S+", link):
        yield '"license_link" must be "LICENSE", "LICENSE.md" or a URL'


def _fields(data: dict[str, Any]) -> Iterator[str]:
    for name in ("license_name", "library_name", "pipeline_tag", "pretty_name"):
        if not isinstance(data.get(name, ""), str):
            yield f'"{name}" must be a string'
    if data.get("pipeline_tag", "other") not in _TASKS.split():
        yield f'"pipeline_tag" must be one of [{", ".join(_TASKS.split())}]'
    for name in ("tags", "metrics", "datasets"):
        value = data.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            yield f'"{name}" must be an array of strings'
    for name in ("license", "language", "base_model"):
        if any(not isinstance(item, str) for item in _strings(data.get(name, []))):
            yield f'"{name}" must be a string or an array of strings'
    for name, known in (
        ("base_model", "a model id from https://hf.co/models"),
        ("datasets", "a dataset id from https://hf.co/datasets"),
    ):
        for value in _strings(data.get(name, [])):
            if isinstance(value, str) and not _ID.fullmatch(value):
                yield f'"{name}" with value "{value}" is not valid. Use {known}.'


def _dataset_fields(data: dict[str, Any]) -> Iterator[str]:
    for name in ("task_categories", "size_categories"):
        if any(not isinstance(item, str) for item in _strings(data.get(name, []))):
            yield f'"{name}" must be a string or an array of strings'
    configs = data.get("configs", [])
    if not isinstance(configs, list):
        yield '"configs" must be an array'
        return
    for place, config in enumerate(configs):
        yield from _missing(config, f"configs[{place}]", config_name=str)


def _unknown_tasks(data: dict[str, Any]) -> Iterator[str]:
    for task in _strings(data.get("task_categories", [])):
        if task not in _TASKS.split():
            yield f'The task_categories "{task}" is not in the official list: {", ".join(_TASKS.split())}'


def _strings(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _model_index(index: Any) -> Iterator[str]:
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for place, entry in enumerate(index):
        at = f"model-index[{place}]"
        yield from _missing(entry, at, name=str, results=list)
        for number, result in enumerate(_under(entry, "results", list)):
            here = f"{at}.results[{number}]"
            yield from _missing(result, here, task=dict, dataset=dict, metrics=list)
            yield from _missing(_under(result, "task", dict), f"{here}.task", type=str)
            yield from _missing(_under(result, "dataset", dict), f"{here}.dataset", name=str, type=str)
            for row, metric in enumerate(_under(result, "metrics", list)):
                yield from _missing(metric, f"{here}.metrics[{row}]", type=str, value=object)
            if isinstance(result, dict) and "source" in result:
                yield from _missing(result["source"], f"{here}.source", url=str)


def _under(value: Any, key: str, kind: type) -> Any:
    """Return a part of an object; where it is missing or of another kind, an empty one (that was said already)."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, kind) else kind()


def _missing(value: Any, at: str, /, **kinds: type) -> Iterator[str]:
    """Say which required fields an object lacks, or has of another kind."""
    if not isinstance(value, dict):
        yield f'"{at}" must be an object'
        return
    for name, kind in kinds.items():
        if value.get(name) is None:
            yield f'"{at}.{name}" is required'
        elif not isinstance(value[name], kind):
            yield f'"{at}.{name}" must be {_KINDS[kind]}'
