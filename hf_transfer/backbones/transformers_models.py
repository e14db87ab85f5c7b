"""Backbones of the Hub and of local directories, through transformers' Auto classes (timm checkpoints included)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError

from ..errors import BackboneError, listed
from ..hub_errors import HubFailure, hub_failure, reading_problem, wanted_model
from .backbone import Backbone, Provenance
from .heads import last_linear

# What transformers raises for a checkpoint that is incomplete, damaged or of another kind.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ImportError,
    TypeError,
    RuntimeError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)


def load_checkpoint(name: str, revision: str | None, *, class_names: list[str] | None, pretrained: bool = True) -> Backbone:
    """Load a checkpoint, with a new head for `class_names`, or with its own head where that is None.

    Args:
        name: a local directory or a Hub id.
        revision: branch, tag or commit of a Hub id.
        class_names: names of the classes in label order.
        pretrained: load the weights, or build the same architecture with random ones.

    Raises:
        BackboneError: when it cannot be found or is no image classifier (with what was tried and how to work offline).
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    from .wrapper import register

    register()
    location, provenance = _locate(name, revision)
    labels = {} if class_names is None else label_arguments(class_names)
    arguments: dict[str, Any] = {}
    failure = None
    if provenance.hub_id and provenance.revision:
        arguments["revision"] = provenance.revision
        failure = _fetch(name, provenance.revision, weights=pretrained)
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False, **arguments, **labels)
        if config.model_type == "timm_wrapper":
            from .timm_models import clean_config, random_like

            clean_config(config)
            if not pretrained and class_names is not None:  # transformers would initialise it in its own way
                return random_like(config, class_names, provenance)
        processor = AutoImageProcessor.from_pretrained(location, trust_remote_code=False, **arguments)
        if pretrained:
            model, info = AutoModelForImageClassification.from_pretrained(
                location,
                config=config,
                ignore_mismatched_sizes=class_names is not None,
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=None,
                **arguments,
            )
        else:
            model, info = AutoModelForImageClassification.from_config(config, trust_remote_code=False), {}
    except Exception as error:
        failure = failure or (hub_failure(error) if provenance.hub_id else None)
        if failure is not None and failure.kind != "no_file":
            raise BackboneError(reading_problem(failure, wanted_model(name, revision))) from None
        if not isinstance(error, _LOADING_ERRORS):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(f"model.backbone: {name} cannot be loaded as an image classifier: {first}") from None
    heads = _heads(model)
    if not heads:
        raise BackboneError(f"model.backbone: {name} ({type(model).__name__}) has no linear classifier that could be replaced")
    _check_loaded(name, info, heads, new_head=class_names is not None)
    return Backbone(model, processor, heads, provenance)


def label_arguments(class_names: list[str]) -> dict[str, Any]:
    """Return the configuration's label entries for these classes."""
    return {
        "num_labels": len(class_names),
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: label for label, name in enumerate(class_names)},
    }


def _heads(model: Any) -> tuple[str, ...]:
    """Return the linear layers beside the base model that give the logits (two in a distilled DeiT)."""
    if hasattr(model, "network"):  # our wrapper: the configuration says where the heads are
        from .wrapper import head_paths

        return tuple(f"network.{path}" for path in head_paths(model.config))
    if hasattr(model, "timm_model"):
        from .timm_models import classifier_paths

        return tuple(f"timm_model.{path}" for path in classifier_paths(model.timm_model))
    base = getattr(model, "base_model_prefix", "")
    found = []
    for name, child in model.named_children():
        path = None if name == base else last_linear(child, name, model.config.num_labels)
        if path is not None:
            found.append(path)
    return tuple(found)


def _check_loaded(name: str, info: dict[str, Any], heads: tuple[str, ...], *, new_head: bool) -> None:
    """Refuse a checkpoint that leaves anything but a new head without its weights."""
    unset = {str(key) for key in info.get("missing_keys", ())}
    unset |= {str(key[0] if isinstance(key, tuple) else key) for key in info.get("mismatched_keys", ())}
    if new_head:
        unset = {key for key in unset if not any(key.startswith(f"{head}.") for head in heads)}
    if unset:
        what = "its classifier head among them" if any(k.startswith(h) for k in unset for h in heads) else "outside its head"
        raise BackboneError(
            f"model.backbone: {name} lacks the weights of {len(unset)} tensors, {what} ({listed(sorted(unset), 3)}); "
            "they would be random. Expected a checkpoint of an image classifier or of its backbone."
        )


def _locate(name: str, revision: str | None) -> tuple[str, Provenance]:
    """Return what `from_pretrained` should load, and where it comes from."""
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise BackboneError(f"model.revision: {name} is a directory here, which has no revisions; leave it out")
        return str(_model_directory(path)), Provenance(name=name, license=None)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BackboneError(f"model.backbone: expected a directory with a config.json, found no such directory: {name}")
    return name, _hub_provenance(name, revision)


def checkpoint_digest(name: str) -> str | None:
    """Return a hex digest of the files of a local checkpoint (not of its folders), None for what is no local directory."""
    path = Path(name).expanduser()
    if not path.is_dir():
        return None
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(item for item in _model_directory(path).iterdir() if item.is_file()):
        digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while block := content.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _model_directory(path: Path) -> Path:
    """Return the directory that holds the checkpoint: the one named, or `model/` inside a run directory."""
    for candidate in (path, path / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    raise BackboneError(f"model.backbone: expected a config.json in {path} (or in its model/), found none")


def _hub_provenance(name: str, revision: str | None) -> Provenance:
    """Resolve a Hub id to a commit, from the Hub or, without a connection, from the cache; the licence is the card's."""
    from huggingface_hub import hf_hub_download, metadata_load

    try:  # by its revision: the cache then knows which commit that is, and offline it is found there
        config = Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as error:
        failure = hub_failure(error)
        if failure is None:
            raise
        if failure.kind == "no_file":
            raise BackboneError(f"model.backbone: expected a config.json in the Hub repository {name}, found none") from None
        raise BackboneError(reading_problem(failure, wanted_model(name, revision))) from None
    _refuse_own_code(name, config)
    commit = config.parent.name
    try:
        card = metadata_load(hf_hub_download(name, "README.md", revision=commit)) or {}
    except Exception:  # there is none, it is not in the cache, or it cannot be parsed: then the licence is not known
        card = {}
    licence = card.get("license")
    return Provenance(name, hub_id=name, revision=commit, license=licence if isinstance(licence, str) else None)


def _fetch(name: str, commit: str, *, weights: bool) -> HubFailure | None:
    """Download what a checkpoint usually consists of; return what went wrong, which transformers would tell otherwise.

    A checkpoint may lack either file, and may be complete in the cache where the Hub does not answer: nothing is raised.
    """
    from huggingface_hub import hf_hub_download

    for file in ("preprocessor_config.json", "model.safetensors") if weights else ("preprocessor_config.json",):
        try:
            hf_hub_download(name, file, revision=commit)
        except Exception as error:
            failure = hub_failure(error)
            if failure is None:
                raise
            if failure.kind != "no_file":
                return failure
    return None


def _refuse_own_code(name: str, config: Path) -> None:
    """Refuse a checkpoint that needs Python code of its own repository, which is never run."""
    from transformers import CONFIG_MAPPING

    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        code, model_type = content.get("auto_map"), content.get("model_type")
    except (ValueError, AttributeError):  # not a configuration at all: loading it tells what is wrong
        return
    if code and model_type not in CONFIG_MAPPING:
        raise BackboneError(
            f"model.backbone: {name} needs Python code of its own repository (model_type '{model_type}'), and code from the "
            "Hub is never run; expected a checkpoint of an architecture that transformers or timm brings"
        )
