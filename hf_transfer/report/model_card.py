"""README.md of a run: the model card, its metadata readable by the Hub, its figures those of metrics.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .artefacts import artefacts_section
from .card_metadata import TASK, card_data, data_name, dataset_hub_id, hub_id
from .formats import NOTHING, count, duration, finite, interval, megabytes, number
from .history import phase_spans
from .markdown import code, code_block, escape, paragraph, table
from .names import plain
from .plots import CONFUSION_MATRIX, CURVES, plotted_split
from .redaction import public, public_text
from .run_tables import data_rows, phase_rows
from .saved_run import SavedRun

MAX_CLASSES_LISTED = 50
_CLASSES_SHOWN_OF_MANY = 25

_STRATEGIES: Mapping[str, str] = {
    "full": "full fine-tuning",
    "linear_probe": "a linear probe on the frozen backbone",
    "knn": "nearest neighbours among the frozen backbone's features",
    "partial": "fine-tuning of the last layer groups",
    "two_phase": "training the head first, then the whole network",
    "gradual": "gradual unfreezing",
    "discriminative": "fine-tuning with a learning rate for each layer group",
    "lora": "low-rank adaptation (LoRA)",
    "norm_only": "training the normalisation layers and the head",
    "quantized_probe": "a linear probe on the quantized backbone",
}


def write_model_card(run_dir: Path, *, repo_id: str | None = None) -> None:
    """Write README.md, the model card, from the files of a run directory.

    Everything in it was saved by the run; what the files lack, the card leaves out. Class names and descriptions are
    shown as text, never as Markdown or HTML. Paths of the machine are cut to their last part, tokens are removed.

    Args:
        run_dir: a run directory with at least recipe.json and metrics.json. Pictures are linked if they are there
            already, so `write_plots` comes first.
        repo_id: the repository on the Hub that the card is written for; by default the recipe's `hub.repo_id`.

    Raises:
        RunDirectoryError: a file is missing or damaged.
    """
    from huggingface_hub import ModelCard

    ModelCard(model_card_text(run_dir, repo_id=repo_id)).save(Path(run_dir) / "README.md")


def refresh_model_card(run_dir: Path, before: str) -> bool:
    """Write the card anew, unless somebody has edited it; return whether it was written.

    Args:
        run_dir: a run directory.
        before: what `model_card_text` gave before the change that the card is to tell of.
    """
    card = Path(run_dir) / "README.md"
    if not card.is_file() or card.read_text(encoding="utf-8").rstrip() != before.rstrip():
        return False
    write_model_card(run_dir)
    return True


def model_card_text(run_dir: Path, *, repo_id: str | None = None) -> str:
    """Return the text of the model card; see `write_model_card`."""
    run = SavedRun.read(run_dir)
    repo_id = hub_id(repo_id) or hub_id(run.section("hub").get("repo_id"))
    name = plain((repo_id or run.path.resolve().name).rpartition("/")[2])
    sections = [
        f"# {escape(name)}",
        _summary(run),
        _usage(run, repo_id),
        _results(run),
        _data(run),
        _training(run),
        _reference(run),
        artefacts_section(run.path),
        _environment(run),
        _recipe(run),
    ]
    text = "\n\n".join(section for section in sections if section)
    # A lone surrogate, which JSON can hold, is no character that a file can.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return f"---\n{card_data(run, name).to_yaml()}\n---\n\n{text}\n"


# --- sections, in the order of the card ---


def _summary(run: SavedRun) -> str:
    backbone, data = _backbone_link(run), _data_link(run)
    n_classes = len(_class_names(run))
    classes = f"{n_classes} classes of " if n_classes else ""
    if run.evaluates_only:
        said = f"{backbone}, evaluated as it is on the {classes}{data}; nothing was trained."
    else:
        strategy = str(run.section("strategy").get("name") or "")
        how = _STRATEGIES.get(strategy) or (f"the strategy {code(strategy)}" if strategy else "training")
        start = ", from random weights" if run.section("model").get("pretrained") is False else ""
        said = f"An image classifier for the {classes}{data}: {backbone}, adapted by {how}{start}."
    split = run.headline_split
    if split is not None and finite(run.splits[split].get("accuracy")) is not None:
        said += f" {_accuracy(run.splits[split], split)}"
    parts = [said]
    if split == "validation":
        parts.append(_no_test_split(run))
    description = run.recipe.get("description")
    if description:
        parts.append(paragraph(public_text(str(description))))
    return "\n\n".join(parts)


def _accuracy(found: Mapping[str, Any], split: str) -> str:
    details = {
        "95 % interval {}": interval(found.get("accuracy_ci95")),
        "{} images": count(found.get("n")),
        "always answering the most frequent class gives {}": number(found.get("majority_baseline")),
    }
    known = "; ".join(words.format(figure) for words, figure in details.items() if figure != NOTHING)
    return f"Its accuracy on the {split} split is **{number(found['accuracy'])}**{f' ({known})' if known else ''}."


def _no_test_split(run: SavedRun) -> str:
    if run.evaluates_only:
        return "The run evaluated no test split: the figures of this card are those of the validation split."
    return (
        "The run evaluated no test split: the figures of this card are those of the validation split, "
        "which was also used for selection, so they are likely to be a little too good."
    )


def _usage(run: SavedRun, repo_id: str | None) -> str:
    place = repo_id or "model"
    if run.model_config is None:
        checkpoint = hub_id(run.environment.get("backbone_hub_id"))
        if not (run.evaluates_only and checkpoint):
            return "## How to use\n\nThis run saved no model: it holds metrics and predictions only."
        place, said = checkpoint, "The checkpoint that was evaluated:"
    elif repo_id:
        said = ""
    else:
        said = "Run this in the run directory; `model` is its folder with the weights."
    lines = ["from transformers import pipeline", ""]
    model_type = (run.model_config or {}).get("model_type")
    if model_type == "hf_transfer":
        said += (
            " The model's class is not one of transformers' own: it needs `pip install hf-transfer-learning`, and"
            " `register()` before anything is loaded."
        )
        lines = ["import hf_transfer", *lines, "hf_transfer.register()"]
    elif model_type == "timm_wrapper":
        said += " The backbone is timm's: it needs `pip install timm`, nothing of ours."
    lines += [f'classifier = pipeline("{TASK}", model={json.dumps(place)})', 'print(classifier("image.jpg"))']
    return "\n\n".join(filter(None, ["## How to use", said.strip(), code_block("\n".join(lines), "python")]))


def _results(run: SavedRun) -> str:
    if not run.splits:
        return ""
    columns: list[tuple[str, str, Callable[[object], str]]] = [
        ("Images", "n", count),
        ("Accuracy", "accuracy", number),
        ("95 % interval", "accuracy_ci95", interval),
        ("Majority baseline", "majority_baseline", number),
        ("Balanced accuracy", "balanced_accuracy", number),
        ("Macro F1", "macro_f1", number),
        ("Top-5 accuracy", "top5_accuracy", number),
        ("NLL", "nll", number),
        ("ECE", "ece", number),
    ]
    columns = [column for column in columns if column[1] != "top5_accuracy" or _any_has(run.splits, column[1])]
    rows = [[escape(split), *(shown(found.get(key)) for _, key, shown in columns)] for split, found in run.splits.items()]
    parts = [
        "## Results",
        table(["Split", *(title for title, _, _ in columns)], rows),
        "The interval is Wilson's for the accuracy. The majority baseline is the accuracy of always answering the most "
        "frequent class. NLL is the negative log likelihood in nats per image; ECE the expected calibration error, "
        "with 15 equal-width bins of the top probability. Every split, train too, was evaluated without augmentation.",
        _per_class(run),
    ]
    if (run.path / CONFUSION_MATRIX).is_file():
        split = plotted_split(run.path)
        where = f" on the {split} split" if split else ""
        parts.append(f"### Confusion matrix\n\n![Confusion matrix{where}]({CONFUSION_MATRIX.as_posix()})")
    return "\n\n".join(filter(None, parts))


def _per_class(run: SavedRun) -> str:
    split = run.headline_split
    found = run.splits[split].get("per_class") if split is not None else None
    if not isinstance(found, Mapping) or not found:
        return ""
    classes = [(name, scores) for name, scores in found.items() if isinstance(scores, Mapping)]
    said = ""
    if len(classes) > MAX_CLASSES_LISTED:
        scored = [item for item in classes if finite(item[1].get("f1")) is not None]
        scored.sort(key=lambda item: float(item[1]["f1"]))
        classes = scored[:_CLASSES_SHOWN_OF_MANY]
        said = f"The {len(classes)} classes with the lowest F1, of {len(found)}; metrics.json has all of them."
    rows = [
        [escape(name), *(number(scores.get(key)) for key in ("precision", "recall", "f1")), count(scores.get("n"))]
        for name, scores in classes
    ]
    header = ["Class", "Precision", "Recall", "F1", "Images"]
    return "\n\n".join(filter(None, [f"### Classes ({split} split)", said, table(header, rows)]))


def _data(run: SavedRun) -> str:
    found = run.environment.get("class_counts")
    counts = dict(found) if isinstance(found, Mapping) else {}
    parts = ["## Data", f"Source: {_data_link(run)}."]
    splits = dict.fromkeys([*counts, *run.splits])
    rows = [[escape(name), *figures] for name, *figures in data_rows(run, counts, splits)]
    if rows:
        header = ["Split", "Images", "Smallest class", "Largest class", "Evaluated", "Skipped"]
        parts.append(table(header, rows))
    parts += [_skipped(run), _selection(run), _duplicates(run), _class_counts(run, counts)]
    return "\n\n".join(filter(None, parts))


def _skipped(run: SavedRun) -> str:
    skipped = {split: int(found["skipped"]) for split, found in run.splits.items() if finite(found.get("skipped")) is not None}
    if not skipped:
        return ""
    some = {split: images for split, images in skipped.items() if images}
    if not some:
        return "No image of the evaluated splits was skipped."
    total = sum(some.values())
    each = ", ".join(f"{escape(split)} {images:,}" for split, images in some.items())
    return f"Images that could not be read and were skipped: {total:,} ({each})."


def _selection(run: SavedRun) -> str:
    if run.evaluates_only:
        return f"Nothing was trained here.{_seen(run)}{_label_map(run)}"
    logged = {row.split for row in run.history}
    if "validation" not in run.splits and "validation" not in logged:
        return "There is no validation split: nothing was selected by a score on images held out from training."
    monitor = run.section("evaluation").get("monitor")
    watched = sorted((set(map(str, monitor)) if isinstance(monitor, list) else set()) | (logged - {"train", "validation"}))
    said = (
        "Selection (of the weights that are kept, and wherever a score ended training or a phase of it) read the "
        "validation split only."
    )
    if watched:
        names = ", ".join(map(escape, watched))
        return f"{said} During training these splits were watched as well, without a say in it: {names}."
    return said + (" The test split was not watched during training." if "test" in run.splits else "")


def _seen(run: SavedRun) -> str:
    """Return which of the images were training images of the checkpoint, as far as that is known."""
    if "seen_in_training" not in run.environment:
        return ""
    seen = run.environment["seen_in_training"]
    if seen is None:
        return (
            " Whether the checkpoint was trained on some of these images cannot be said: its training data has changed since."
        )
    return "".join(
        f" **{count(images)} of the {count(run.splits.get(split, {}).get('n'))} images of {escape(split)} were training "
        "images of this checkpoint**: its figures there say how well it remembers."
        for split, images in seen.items()
    )


def _label_map(run: SavedRun) -> str:
    if not run.section("evaluation").get("label_map"):
        return ""
    said = " The checkpoint's classes stand for those of the data set as `evaluation.label_map` in the recipe says."
    lists = [found.get("unmapped_classes") for found in run.splits.values()]
    unmapped = dict.fromkeys(name for names in lists if isinstance(names, list) for name in names)
    if unmapped:
        said += f" None stands for {', '.join(map(escape, unmapped))}: images of these classes count as wrong."
    return said


def _duplicates(run: SavedRun) -> str:
    found = run.environment.get("duplicates_across_splits")
    if not isinstance(found, Sequence) or isinstance(found, str):
        return ""
    if not found:
        return "No image stands in more than one split, byte for byte."
    return f"Images that stand in more than one split, byte for byte: {count(len(found))}; environment.json lists them."


def _class_counts(run: SavedRun, counts: Mapping[str, Mapping[str, Any]]) -> str:
    names = _class_names(run)
    if not counts or not names:
        return ""
    if len(names) > MAX_CLASSES_LISTED:
        return f"The {len(names)} classes and the images of each are listed in environment.json."
    rows = [[escape(name), *(count(found.get(name)) for found in counts.values())] for name in names]
    return "### Images of each class\n\n" + table(["Class", *map(escape, counts)], rows)


def _training(run: SavedRun) -> str:
    if run.evaluates_only:
        return ""
    model = run.section("model")
    revision = run.environment.get("backbone_revision") or model.get("revision")
    lines = [f"- Backbone: {_backbone_link(run)}" + (f", revision {code(revision)}" if revision else "")]
    if "pretrained" in model:
        lines.append(f"- Starts from: {'pretrained' if model['pretrained'] else 'random'} weights")
    for title, name in (
        ("Head", "head"),
        ("Strategy", "strategy"),
        ("Augmentation", "augment"),
        ("Loss", "loss"),
        ("Weight averaging (EMA)", "ema"),
        ("Early stopping", "early_stopping"),
    ):
        settings = _settings(model.get("head") if name == "head" else run.section(name))
        lines += [f"- {title}: {settings}"] if settings else []
    if "seed" in run.recipe:
        lines.append(f"- Seed: {code(run.recipe['seed'])}")
    parts = ["## Training procedure", "\n".join(lines), _phases(run)]
    arguments = public(run.section("training"))
    if arguments:
        rows = [[code(key), code(_json_text(value))] for key, value in arguments.items()]
        parts.append("Training arguments that the recipe sets (fields of `transformers.TrainingArguments`):")
        parts.append(table(["Argument", "Value"], rows, left=2))
    if (run.path / CURVES).is_file():
        parts.append(f"![Loss, accuracy and learning rates during training]({CURVES.as_posix()})")
    return "\n\n".join(filter(None, parts))


def _phases(run: SavedRun) -> str:
    """Return the table of the phases: the trainable parameters that the run counted, the steps that it logged."""
    rows = [[escape(name), *figures] for name, *figures in phase_rows(run)]
    if not rows:
        return ""
    header = ["Phase", "Trainable parameters", "Of all", "Steps", "Until epoch"]
    if not any(span.name for span in phase_spans(run.history)):
        header, rows = header[:3], [row[:3] for row in rows]
    return table(header, rows)


def _reference(run: SavedRun) -> str:
    reference = run.section("reference")
    rows = []
    for key, value in reference.items():
        published = finite(value)
        if published is None:
            continue
        measured = _measured(run, key)
        difference = NOTHING if measured is None else f"{measured - published:+.4f}"
        rows.append([escape(key.replace("_", " ")), number(published), number(measured), difference])
    if not rows:
        return ""
    source = reference.get("source")
    said = f"The reference is {escape(public_text(str(source)))}." if source else ""
    header = ["Figure", "Reference", "This run", "Difference"]
    return "\n\n".join(filter(None, ["## Reference and measured figures", said, table(header, rows)]))


def _measured(run: SavedRun, key: str) -> float | None:
    """Return the run's own figure for a key such as `test_accuracy`: a split, then one of its metrics."""
    for split, found in run.splits.items():
        if key.startswith(f"{split}_"):
            value = finite(found.get(key[len(split) + 1 :]))
            if value is not None:
                return value
    return None


def _environment(run: SavedRun) -> str:
    cost, environment = run.cost, run.environment
    rows = [
        ("Device", cost.get("device") or environment.get("device")),
        ("Precision", cost.get("precision")),
        ("Training time", duration(cost.get("train_seconds"))),
        ("Total time", duration(cost.get("total_seconds"))),
        ("Images per second", number(cost.get("images_per_second"), 1)),
        ("Peak memory", megabytes(cost.get("peak_memory_mb"))),
        ("Parameters", count(cost.get("parameters"))),
        ("Python", environment.get("python")),
        ("Platform", environment.get("platform")),
    ]
    versions = environment.get("versions")
    rows += list(versions.items()) if isinstance(versions, Mapping) else []
    rows += [
        ("Git commit", environment.get("git_commit")),
        ("Data fingerprint", environment.get("data_fingerprint")),
    ]
    shown = [[escape(name), escape(public_text(str(value)))] for name, value in rows if value not in (None, "", NOTHING)]
    return "## Cost and environment\n\n" + table(["", ""], shown, left=2) if shown else ""


def _recipe(run: SavedRun) -> str:
    recipe = public(run.recipe)
    said = "The resolved recipe, every default filled in."
    if recipe != run.recipe:
        said += " What belongs to the machine it ran on is cut."
    # The same JSON, with nothing in it that a careless reader could take for a tag.
    text = json.dumps(recipe, indent=2, ensure_ascii=False).replace("<", "\\u003c")
    return f"## Recipe\n\n{said}\n\n{code_block(text, 'json')}"


# --- what the sections are made of ---


def _backbone_link(run: SavedRun) -> str:
    found = hub_id(run.environment.get("backbone_hub_id"))
    name = run.section("model").get("backbone") or run.environment.get("backbone")
    if found:
        return f"[{escape(found)}](https://huggingface.co/{found})"
    return code(public_text(str(name))) if name else "a backbone"


def _data_link(run: SavedRun) -> str:
    found = dataset_hub_id(run)
    return f"[{escape(found)}](https://huggingface.co/datasets/{found})" if found else code(data_name(run))


def _class_names(run: SavedRun) -> list[str]:
    names = run.environment.get("class_names")
    if not isinstance(names, list):
        names = next((found["per_class"] for found in run.splits.values() if found.get("per_class")), [])
    return [str(name) for name in names]


def _settings(section: object) -> str:
    """Return the settings of a recipe section in one line; those that are off (null, or an empty list) are left out."""
    if not isinstance(section, Mapping):
        return ""
    items = {key: value for key, value in public(dict(section)).items() if value is not None and value != []}
    return ", ".join(f"{escape(key.replace('_', ' '))} {code(_json_text(value))}" for key, value in items.items())


def _json_text(value: object) -> str:
    """Return a value as the recipe writes it, texts without their quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _any_has(splits: Mapping[str, Mapping[str, Any]], key: str) -> bool:
    return any(finite(found.get(key)) is not None for found in splits.values())
