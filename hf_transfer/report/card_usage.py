"""What the card says of use: how the model is loaded, what it is meant for, and what it is not for."""

from __future__ import annotations

import json
import shlex

from .card_metadata import TASK, TIMM, WRAPPER, data_name, dataset_hub_id, hub_id, model_type
from .formats import count, finite
from .markdown import code, code_block, escape
from .saved_run import SavedRun

_CLASSES_NAMED = 12
_IMAGE = "image.jpg"


def usage_section(run: SavedRun, repo_id: str | None, revision: str | None) -> str:
    """Return how to load the model, from a repository of the Hub or, where none is given, from the run directory."""
    place, kind = repo_id or "model", model_type(run)
    if kind is None:
        checkpoint = hub_id(run.environment.get("backbone_hub_id"))
        if not (run.evaluates_only and checkpoint):
            return "## How to use\n\nThis run saved no model: it holds metrics and predictions only."
        place, said = checkpoint, "This is the checkpoint that was evaluated."
    elif repo_id:
        said = ""
    else:
        said = "Run this in the run directory; `model` is its folder with the weights."
    if kind == WRAPPER:
        extra = "[export]" if run.model_config and run.model_config.get("library") == "onnx" else ""
        said += (
            f" The model's class is not one of transformers' own: it needs `pip install hf-transfer-learning{extra}`, and"
            " `register()` before anything is loaded."
        )
    elif kind == TIMM:
        said += " The backbone is timm's: it needs `pip install timm`, nothing of ours."
    several = ""
    if run.multi_label:
        several = _STATED if run.model_config and "thresholds" in run.model_config else _UNSTATED
    parts = ["## How to use", said.strip(), "As a pipeline:", _pipeline(kind, place, revision, several), "Step by step:"]
    parts.append(_step_by_step(kind, place, revision, several))
    if kind == TIMM:
        parts += ["With timm alone:", _with_timm(repo_id, revision, several)]
    if kind is not None:
        parts += ["On the command line, after `pip install hf-transfer-learning`:", _commands(run, repo_id, revision)]
    return "\n\n".join(filter(None, parts))


# Where an image may show several classes: what gives, in the code of a card, the probability from which each is said.
_STATED = "model.config.thresholds"
_UNSTATED = "[0.5] * model.config.num_labels"
_SAID = [
    f'answers = classifier("{_IMAGE}", function_to_apply="sigmoid", top_k=len(thresholds))',
    'print([answer for answer in answers if answer["score"] >= thresholds[answer["label"]]])',
]


def _pipeline(kind: str | None, place: str, revision: str | None, several: str) -> str:
    lines = ["from transformers import pipeline", ""]
    if kind == WRAPPER:
        lines = ["import hf_transfer", *lines, "hf_transfer.register()"]
    lines += [f'classifier = pipeline("{TASK}", model={_at(place, revision)})']
    if several:
        lines += ["model = classifier.model", f"thresholds = dict(zip(model.config.id2label.values(), {several}))"]
    lines += _SAID if several else [f'print(classifier("{_IMAGE}"))']
    return code_block("\n".join(lines), "python")


def _step_by_step(kind: str | None, place: str, revision: str | None, several: str) -> str:
    lines = [
        "import torch",
        "from transformers import AutoImageProcessor, AutoModelForImageClassification",
        "from transformers.image_utils import load_image",
        "",
    ]
    if kind == WRAPPER:
        lines = ["import hf_transfer", *lines, "hf_transfer.register()"]
    lines += [
        f"processor = AutoImageProcessor.from_pretrained({_at(place, revision)})",
        f"model = AutoModelForImageClassification.from_pretrained({_at(place, revision)}).eval()",
        f'inputs = processor(load_image("{_IMAGE}"), return_tensors="pt")',
        "with torch.no_grad():",
        "    logits = model(**inputs).logits[0]",
    ]
    lines += (
        [
            "probabilities = logits.sigmoid().tolist()",
            f"said = zip(model.config.id2label.values(), probabilities, {several})",
            "print([(name, probability) for name, probability, threshold in said if probability >= threshold])",
        ]
        if several
        else ["print(model.config.id2label[int(logits.argmax())], float(logits.softmax(0).max()))"]
    )
    return code_block("\n".join(lines), "python")


def _with_timm(repo_id: str | None, revision: str | None, several: str) -> str:
    name = f"hf-hub:{repo_id}{f'@{revision}' if revision else ''}" if repo_id else "local-dir:model"
    lines = [
        "import timm",
        "import torch",
        "from PIL import Image, ImageOps",
        "",
        f"model = timm.create_model({json.dumps(name)}, pretrained=True).eval()",
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        f'image = ImageOps.exif_transpose(Image.open("{_IMAGE}")).convert("RGB")',
        "with torch.no_grad():",
        "    logits = model(transform(image)[None])[0]",
        'print(dict(zip(model.pretrained_cfg["label_names"], logits.sigmoid().tolist())))  # thresholds: config.json'
        if several
        else 'print(model.pretrained_cfg["label_names"][int(logits.argmax())], float(logits.softmax(0).max()))',
    ]
    return code_block("\n".join(lines), "python")


def _commands(run: SavedRun, repo_id: str | None, revision: str | None) -> str:
    place = repo_id or "."
    at = f" --revision {shlex.quote(revision)}" if revision else ""
    known = repo_id is None or dataset_hub_id(run) or data_name(run).startswith("package:")
    data = (" --split validation" if run.headline_split == "validation" else "") if known else " --data IMAGES"
    lines = [] if known or not run.splits else ["# IMAGES: a folder with one folder for each class"]
    lines += [
        f"hf-transfer predict {place} {_IMAGE}{at}",
        *([f"hf-transfer evaluate {place}{at}{data}"] if run.splits else []),  # what still trains has no figures to repeat
        f"hf-transfer explain {place} {_IMAGE}{at}",
    ]
    return code_block("\n".join(lines), "bash")


def _at(place: str, revision: str | None) -> str:
    return json.dumps(place) + (f", revision={json.dumps(revision)}" if revision else "")


def intended_use_section(run: SavedRun) -> str:
    """Return what the model was made for and what it was not, as far as the run knows; empty where it saved no model."""
    names = class_names(run)
    if model_type(run) is None or not names:
        return ""
    shown = ", ".join(code(name) for name in names[:_CLASSES_NAMED])
    more = f" and {count(len(names) - _CLASSES_NAMED)} more, all of them in config.json" if len(names) > _CLASSES_NAMED else ""
    alike = (
        "- Classes that it was not trained for: of an image that shows none of its classes it may say nothing, or a wrong one."
        if run.multi_label
        else "- An image that shows none of the classes, or several of them: the model names one of its classes all the same, "
        "and its probabilities always add up to 1."
    )
    lines = [
        alike,
        "- Finding, counting or outlining things in an image: the answer is for the whole of it.",
        "- Images of other origin than the training data, before the model has been evaluated on them.",
    ]
    split = run.headline_split
    found = run.splits[split] if split is not None else {}
    share, images = finite(found.get("subset_accuracy" if run.multi_label else "accuracy")), finite(found.get("n"))
    if share is not None and images:
        wrong = round(images * (1 - share))
        few = "" if wrong else ", which does not mean that none will"
        what = "a missed or a wrong label" if run.multi_label else "a wrong class"
        got = "have such a label" if run.multi_label else "got a wrong one"
        lines.append(
            f"- Decisions in which {what} does harm, without a check of their own: {count(wrong)} of the "
            f"{count(images)} images of the {escape(split)} split {got}{few}."
        )
    return "\n\n".join(
        [
            "## Intended use",
            f"{_purpose(run)} {count(len(names))}: {shown}{more}.",
            "Not meant for:",
            "\n".join(lines),
        ]
    )


def _purpose(run: SavedRun) -> str:
    if run.multi_label:
        return f"Saying which classes an image like those of {data_link(run)} shows, each for itself, of"
    return f"Naming the class of an image like those of {data_link(run)}, one of"


def data_link(run: SavedRun) -> str:
    """Return the source of the data as Markdown: a link where it is on the Hub."""
    found = dataset_hub_id(run)
    return f"[{escape(found)}](https://huggingface.co/datasets/{found})" if found else code(data_name(run))


def class_names(run: SavedRun) -> list[str]:
    """Return the names of the classes in label order, as far as the run's files say them."""
    names = run.environment.get("class_names")
    if not isinstance(names, list):
        names = next((found["per_class"] for found in run.splits.values() if found.get("per_class")), [])
    return [str(name) for name in names]
