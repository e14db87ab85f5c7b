"""Backbones of the Hub and of local directories, through transformers' Auto classes (timm checkpoints included)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import BackboneError, listed
from .backbone import Backbone, Provenance
from .heads import last_linear


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
    arguments: dict[str, Any] = {"revision": provenance.revision} if provenance.hub_id else {}
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False, **arguments, **labels)
        if config.model_type == "timm_wrapper":
            from .timm_models import clean_config

            clean_config(config)
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
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
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
    if hasattr(model, "network"):  # our wrapper: the configuration says where the head is
        return (f"network.{model.config.head['path']}",)
    if hasattr(model, "timm_model"):
        from .timm_models import classifier_path

        return (f"timm_model.{classifier_path(model.timm_model)}",)
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
        return str(_model_directory(path)), Provenance(name=name, license=None)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BackboneError(f"model.backbone: expected a directory with a config.json, found no such directory: {name}")
    return name, _hub_provenance(name, revision)


def _model_directory(path: Path) -> Path:
    """Return the directory that holds the checkpoint: the one named, or `model/` inside a run directory."""
    for candidate in (path, path / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    raise BackboneError(f"model.backbone: expected a config.json in {path} (or in its model/), found none")


def _hub_provenance(name: str, revision: str | None) -> Provenance:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(name, revision=revision)
        card = info.card_data.to_dict() if info.card_data else {}
        return Provenance(name, hub_id=name, revision=info.sha, license=card.get("license"))
    except HFValidationError:
        raise BackboneError(f"model.backbone: '{name}' is neither a local directory nor a Hub id (OWNER/NAME)") from None
    except GatedRepoError:
        raise BackboneError(
            f"model.backbone: {name} is gated: accept its terms on its Hub page, then log in with 'hf auth login'"
        ) from None
    except RevisionNotFoundError:
        raise BackboneError(f"model.revision: {name} has no revision '{revision}'") from None
    except RepositoryNotFoundError:
        raise BackboneError(
            f"model.backbone: no model '{name}' was found on the Hub, and no directory of that name exists here. "
            "Check the spelling; for a private one log in with 'hf auth login'."
        ) from None
    except (OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
    try:  # no connection: the cache may have it
        cached = Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, EntryNotFoundError, OSError):
        raise BackboneError(
            f"model.backbone: {name} is not a local directory, not in the cache, and the Hub cannot be reached ({reason}). "
            f"To work offline: download it once with a connection ('hf download {name}'), or give a local directory, or use "
            "package:efficientnet_lite0, whose weights a pip package carries."
        ) from None
    return Provenance(name, hub_id=name, revision=cached.parent.name)
