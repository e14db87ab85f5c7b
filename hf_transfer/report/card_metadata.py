"""The metadata of a model card: what the Hub reads from the YAML above the text, and what it would refuse in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .formats import finite
from .licences import LICENCES, Licence, hub_licence
from .names import plain
from .redaction import public_text
from .saved_run import SavedRun

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

TASK = "image-classification"
TIMM, WRAPPER = "timm_wrapper", "hf_transfer"  # model types
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def card_data(run: SavedRun, name: str) -> ModelCardData:
    """Return the metadata of the card; keys that the files say nothing about are left out."""
    from huggingface_hub import ModelCardData

    kind = model_type(run)
    dataset = dataset_hub_id(run)
    tags = [TASK, "vision", "transfer-learning", "hf-transfer-learning"]
    strategy = run.section("strategy").get("name")
    if run.evaluates_only:
        tags.append("evaluation")
    elif isinstance(strategy, str):
        tags.append("full-fine-tuning" if strategy == "full" else plain(strategy).replace("_", "-"))
    if kind == TIMM:
        tags.append("timm")
    if run.multi_label:
        tags.append("multi-label")
    results = evaluation_results(run)
    licence, base_model = backbone_licence(run), base_model_id(run)
    return ModelCardData(
        license=licence.identifier if licence else None,
        license_name=licence.name if licence else None,
        license_link=licence.link if licence else None,
        library_name=None if kind is None else WRAPPER if kind == WRAPPER else "transformers",
        pipeline_tag=TASK,
        base_model=base_model,
        base_model_relation="finetune" if base_model and not run.evaluates_only else None,
        datasets=[dataset] if dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=tags,
        model_name=name if results else None,  # only the results have one
        eval_results=results or None,
    )


def evaluation_results(run: SavedRun) -> list[EvalResult]:
    """Return accuracy (or mean average precision) and macro F1 of the headline split, to the last digit, for `model-index`.

    The arguments of each say on how many images and with which seed it was measured, and its 95 % interval where it has one.
    """
    from huggingface_hub import EvalResult

    split = run.headline_split
    if split is None:
        return []
    found, dataset = run.splits[split], dataset_hub_id(run)
    data = run.section("data")
    where: dict[str, Any] = {
        "task_type": TASK,
        "task_name": "Multi-label image classification" if run.multi_label else "Image classification",
        # A data set that is not on the Hub must not be taken for one that is and has the same name.
        "dataset_type": dataset or "custom",
        "dataset_name": dataset or plain(data_name(run)),
        "dataset_split": split,
    }
    if dataset:
        revision = data.get("revision") or run.environment.get("data_revision")
        where["dataset_config"] = plain(data["config_name"]) if data.get("config_name") else None
        where["dataset_revision"] = plain(revision) if revision else None
    results = []
    # On the Hub the metric is called f1; which average is an argument of it.
    averages: list[tuple[str, str, dict[str, Any]]] = [
        (run.headline.key, run.headline.key, {}),
        ("macro_f1", "f1", {"average": "macro"}),
    ]
    for key, metric, args in averages:
        value = finite(found.get(key))
        if value is not None:
            facts = args | _measured_with(run, found, key)
            results.append(
                EvalResult(metric_type=metric, metric_name=key, metric_value=value, metric_args=facts or None, **where)
            )
    return results


def _measured_with(run: SavedRun, found: Mapping[str, Any], key: str) -> dict[str, Any]:
    bounds = found.get(f"{key}_ci95")
    known = isinstance(bounds, list) and len(bounds) == 2 and None not in map(finite, bounds)
    facts = {
        "confidence_interval_95": bounds if known else None,
        "n": finite(found.get("n")),
        "seed": None if run.evaluates_only else finite(run.recipe.get("seed")),
    }
    return {name: value for name, value in facts.items() if value is not None}


def model_type(run: SavedRun) -> str | None:
    """Return the model type of the saved model, None where the run saved none."""
    return None if run.model_config is None else str(run.model_config.get("model_type"))


def base_model_id(run: SavedRun) -> str | None:
    """Return the Hub id of the weights that training started from, or that were evaluated; None where they have none."""
    starts_random = run.section("model").get("pretrained") is False
    return None if starts_random else hub_id(run.environment.get("backbone_hub_id"))


def backbone_licence(run: SavedRun) -> Licence | None:
    """Return the licence of the backbone's weights, None where it is not known, or the weights were random."""
    if run.section("model").get("pretrained") is False:
        return None
    text, base_model = run.environment.get("backbone_license"), base_model_id(run)
    page = f"https://huggingface.co/{base_model}" if base_model else None
    return hub_licence(public_text(text) if isinstance(text, str) else None, page=page)


def hub_id(value: object) -> str | None:
    """Return a value that has the form of a Hub id, None for any other."""
    return value if isinstance(value, str) and _HUB_ID.fullmatch(value) and ".." not in value else None


def dataset_hub_id(run: SavedRun) -> str | None:
    """Return the Hub id of the run's data set, or None where the data are not known to come from the Hub.

    environment.json's `data_hub_id` decides where it is there. Without it `owner/name` and `hf://datasets/owner/name`
    count as Hub ids, unless there is such a path on this machine.
    """
    if "data_hub_id" in run.environment:
        return hub_id(run.environment["data_hub_id"])
    sources = [run.section("data").get("source"), run.environment.get("data_source")]
    ids = set()
    for source in (source for source in sources if source):
        address = re.match(r"hf://datasets/([^/@]+/[^/@]+)", str(source))
        found = hub_id(address[1] if address else source)
        if found is None or "/" not in found or (not address and Path(found).exists()):
            return None
        ids.add(found)
    return ids.pop() if len(ids) == 1 else None


def data_name(run: SavedRun) -> str:
    """Return the source of the data as it may be published: its Hub id, address, or last part of its path."""
    return public_text(str(run.section("data").get("source") or run.environment.get("data_source") or "unnamed data"))


# --- what the Hub would refuse ---


def check_metadata(text: str) -> list[str]:
    """Return what the Hub would refuse in the metadata of a card, each in words; empty where nothing is wrong.

    The Hub itself says so only when it is asked (`ModelCard.validate`). This checks what is public of its rules: the
    specification (https://github.com/huggingface/hub-docs/blob/main/modelcard.md), the list of licences, and what
    `huggingface_hub` needs to read the results back.

    Args:
        text: a whole card, metadata and all.
    """
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    block = REGEX_YAML_BLOCK.search(text)
    if block is None:
        return ["expected metadata between two lines of '---' at the top, found none"]
    try:
        twice = list(_twice(yaml.compose(block[2], Loader=yaml.SafeLoader)))
        found = yaml.safe_load(block[2])
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        return [f"the metadata are not YAML: {' '.join(str(error).split())}"]
    if not isinstance(found, dict):
        return [f"expected keys and values, found {_short(found)}"]
    problems = [f"{key}: stands twice" for key in twice] + list(_not_json(found))
    try:
        _Metadata.model_validate(found)
    except ValidationError as error:
        problems += [_in_words(item) for item in error.errors(include_url=False)]
    if not problems:
        try:
            ModelCard(text)
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"huggingface_hub cannot read it: {error}")
    return problems


def _identifier(value: str) -> str:
    if value not in LICENCES:
        raise ValueError("expected an identifier of https://huggingface.co/docs/hub/repositories-licenses")
    return value


def _address(value: str) -> str:
    if value not in ("LICENSE", "LICENSE.md") and not re.match(r"https?://\S+$", value):
        raise ValueError("expected LICENSE, LICENSE.md or an address")
    return value


def _id(value: str) -> str:
    if hub_id(value) is None:
        raise ValueError("expected an id of the Hub, such as OWNER/NAME")
    return value


def _figure(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("expected a number or a text")
    return value


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


_Text = Annotated[str, Field(min_length=1)]
_Id = Annotated[str, AfterValidator(_id)]
_OneOrMore = BeforeValidator(_as_list)


class _Part(BaseModel):
    """Keys that the Hub knows nothing of are allowed. What may be absent must not be null: hence the types of defaults."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Task(_Part):
    type: _Text
    name: _Text = ""


class _Dataset(_Part):
    type: _Text
    name: _Text
    config: _Text = ""
    split: _Text = ""
    revision: _Text = ""
    args: dict[str, Any] = {}


class _Metric(_Part):
    type: _Text
    value: Annotated[Any, AfterValidator(_figure)]
    name: _Text = ""
    config: _Text = ""
    args: dict[str, Any] = {}


class _Source(_Part):
    url: _Text
    name: _Text = ""


class _Result(_Part):
    task: _Task
    dataset: _Dataset
    metrics: Annotated[list[_Metric], Field(min_length=1)]
    source: _Source = _Source(url="-")


class _Model(_Part):
    name: _Text
    results: list[_Result]


class _Metadata(_Part):
    license: Annotated[list[Annotated[str, AfterValidator(_identifier)]], _OneOrMore] = []
    license_name: _Text = ""
    license_link: Annotated[str, AfterValidator(_address)] = ""
    language: Annotated[list[_Text], _OneOrMore] = []
    library_name: _Text = ""
    pipeline_tag: _Text = ""
    tags: list[_Text] = []
    datasets: Annotated[list[_Id], _OneOrMore] = []
    metrics: list[_Text] = []
    base_model: Annotated[list[_Id], _OneOrMore] = []
    base_model_relation: _Text = ""
    model_index: Annotated[list[_Model], Field(alias="model-index", min_length=1)] = []


def _in_words(item: Any) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"]).lstrip(".")
    said = str(item["msg"]).removeprefix("Value error, ")
    return f"{path}: {said[:1].lower()}{said[1:]}" + ("" if item["type"] == "missing" else f", found {_short(item['input'])}")


def _short(value: object) -> str:
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _twice(node: Any, path: str = "") -> Iterator[str]:
    """Yield each key that stands twice in a mapping of a YAML document: the Hub's parser refuses it, Python's does not."""
    if node is None or isinstance(node.value, str):
        return
    seen: set[str] = set()
    for item in node.value:
        key, value = item if isinstance(item, tuple) else (None, item)
        where = path if key is None else f"{path}.{key.value}".lstrip(".")
        if key is not None:
            if where in seen:
                yield where
            seen.add(where)
        yield from _twice(value, where)


def _not_json(value: object, path: str = "") -> Iterator[str]:
    """Yield what YAML can hold and JSON cannot: dates that nobody meant, numbers that are not finite."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _not_json(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _not_json(item, f"{path}[{position}]")
    elif not isinstance(value, (str, int, float, type(None))) or (isinstance(value, float) and not math.isfinite(value)):
        yield f"{path}: expected what JSON can hold, found {type(value).__name__} {value}"
