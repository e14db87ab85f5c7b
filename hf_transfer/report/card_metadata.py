"""The metadata of a model card: what the Hub reads from the YAML above the text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .formats import finite
from .names import plain
from .redaction import public_text
from .saved_run import SavedRun

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

TASK = "image-classification"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def card_data(run: SavedRun, name: str) -> ModelCardData:
    """Return the metadata of the card; keys that the files say nothing about are left out."""
    from huggingface_hub import ModelCardData

    model_type = (run.model_config or {}).get("model_type")
    library = None if run.model_config is None else "hf_transfer" if model_type == "hf_transfer" else "transformers"
    license_id = run.environment.get("backbone_license")
    dataset = dataset_hub_id(run)
    tags = [TASK, "vision", "transfer-learning", "hf-transfer-learning"]
    strategy = run.section("strategy").get("name")
    if run.evaluates_only:
        tags.append("evaluation")
    elif isinstance(strategy, str):
        tags.append(plain(strategy).replace("_", "-"))
    if model_type == "timm_wrapper":
        tags.append("timm")
    results = evaluation_results(run)
    return ModelCardData(
        license=plain(license_id) if license_id else None,
        library_name=library,
        pipeline_tag=TASK,
        base_model=hub_id(run.environment.get("backbone_hub_id")),
        datasets=[dataset] if dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=tags,
        model_name=name,
        eval_results=results or None,
    )


def evaluation_results(run: SavedRun) -> list[EvalResult]:
    """Return accuracy and macro F1 of the headline split, to the last digit, as the card's `model-index` holds them."""
    from huggingface_hub import EvalResult

    split = run.headline_split
    if split is None:
        return []
    found, dataset = run.splits[split], dataset_hub_id(run)
    data = run.section("data")
    where: dict[str, Any] = {
        "task_type": TASK,
        "task_name": "Image classification",
        # A data set that is not on the Hub must not be taken for one that is and has the same name.
        "dataset_type": dataset or "custom",
        "dataset_name": dataset or plain(data_name(run)),
        "dataset_split": split,
    }
    if dataset:
        where |= {"dataset_config": data.get("config_name"), "dataset_revision": data.get("revision")}
    results = []
    # On the Hub the metric is called f1; which average is an argument of it.
    for key, metric, args in (("accuracy", "accuracy", None), ("macro_f1", "f1", {"average": "macro"})):
        value = finite(found.get(key))
        if value is not None:
            results.append(EvalResult(metric_type=metric, metric_name=key, metric_value=value, metric_args=args, **where))
    return results


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
