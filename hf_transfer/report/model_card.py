"""README.md of a run: the model card, its metadata readable by the Hub, its figures those of metrics.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..recipe.monitored import monitored
from ..run_directory import replacing
from .artefacts import artefacts_section
from .card_limits import limits_section
from .card_metadata import TIMM, WRAPPER, backbone_licence, base_model_id, card_data, hub_id
from .card_seal import is_unedited, seal_of, sealed
from .card_usage import class_names, data_link, intended_use_section, usage_section
from .formats import NOTHING, count, finite, interval, number
from .licences import LICENCES, OTHER
from .markdown import code, code_block, escape, paragraph, table
from .names import plain
from .plots import (
    CONFUSION_MATRIX,
    CURVES,
    EXPLANATIONS,
    PRECISION_RECALL,
    RELIABILITY,
    TEMPERATURES,
    plotted_split,
)
from .redaction import public, public_text
from .run_tables import (
    LABELS_EXPLAINED,
    Table,
    calibration_table,
    class_counts_table,
    class_table,
    cost_table,
    data_table,
    environment_table,
    phases_table,
    robustness_tables,
    scaling_helps,
    settings_table,
    shifts_table,
    speed_table,
    splits_table,
)
from .saved_run import SavedRun, read_object
from .temperatures import ABOUT, learned_temperatures
from .watched import watched_test

MAX_CLASSES_LISTED = 50
_MAX_CLASSES_OPEN = 20  # a longer list of image counts is folded
_CLASSES_SHOWN_OF_MANY = 25
_NO_SCALING = 0.005  # a temperature this near to 1 does nothing

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


def write_model_card(run_dir: Path, *, repo_id: str | None = None, revision: str | None = None) -> None:
    """Write README.md, the model card, from the files of a run directory.

    Everything in it was saved by the run; what the files lack, the card leaves out. Class names and descriptions are
    shown as text, never as Markdown or HTML. Paths of the machine are cut to their last part, tokens are removed.

    Args:
        run_dir: a run directory with at least recipe.json and metrics.json. Pictures are linked if they are there
            already, so `write_plots` comes first.
        repo_id: the repository on the Hub that the card is written for; by default it is for the run directory itself.
        revision: the branch that holds the model, where it is not the main one.

    Raises:
        RunDirectoryError: a file is missing or damaged.
    """
    _write(run_dir, model_card_text(run_dir, repo_id=repo_id, revision=revision))


def refresh_model_card(run_dir: Path) -> bool:
    """Write the card anew; return False where it tells less than the run by now, because somebody has edited it.

    Args:
        run_dir: a run directory with a card.

    Raises:
        RunDirectoryError: a file is missing or damaged.
    """
    there = (Path(run_dir) / "README.md").read_text(encoding="utf-8")
    text = model_card_text(run_dir)
    if not is_unedited(there):
        return seal_of(there) == seal_of(text)
    if text != there:
        _write(run_dir, text)
    return True


def _write(run_dir: Path, text: str) -> None:
    with replacing(Path(run_dir) / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def model_card_text(run_dir: Path, *, repo_id: str | None = None, revision: str | None = None, images: bool = True) -> str:
    """Return the text of the model card; see `write_model_card`.

    A card for the Hub names only files that are published there: model, recipe, metrics, environment, history and plots.

    Args:
        run_dir: as in `write_model_card`.
        repo_id: likewise.
        revision: likewise.
        images: whether it may show pictures with images of the data set in them.
    """
    run = SavedRun.read(run_dir)
    name = _name(run, repo_id)
    sections = [
        f"# {escape(name)}",
        _summary(run),
        usage_section(run, repo_id, revision),
        intended_use_section(run),
        _results(run, images=images),
        limits_section(run, published=repo_id is not None),
        _data(run),
        _training(run),
        _temperatures(run),
        _reference(run),
        "" if repo_id else artefacts_section(run.path),
        _licence(run),
        _environment(run),
        _recipe(run),
    ]
    return _card(run, name, sections)


def training_card_text(
    run_dir: Path,
    *,
    repo_id: str,
    step: int,
    steps: int,
    validation: Mapping[str, float] | None,
    revision: str | None = None,
) -> str:
    """Return the card of a model that is pushed while its training goes on: no figure in it is final.

    Args:
        run_dir: a run directory with at least recipe.json; metrics.json is not there yet.
        repo_id: the repository on the Hub.
        step: optimizer steps done.
        steps: optimizer steps of the whole training.
        validation: metric to its last value on the validation split, None where it was not evaluated yet.
        revision: the branch that holds the model, where it is not the main one.

    Raises:
        RunDirectoryError: a file is missing or damaged.
    """
    path = Path(run_dir)
    environment = path / "environment.json"
    recipe = read_object(path / "recipe.json")
    found = SavedRun(path, recipe, read_object(environment) if environment.is_file() else {}, {}, None, [])
    run = replace(found, model_config={"model_type": _expected_model_type(found)})
    name = _name(run, repo_id)
    figures = {key: shown for key, value in (validation or {}).items() if (shown := number(value)) != NOTHING}
    said = ", ".join(f"{escape(key.replace('_', ' ').replace(' f1', ' F1'))} {value}" for key, value in figures.items())
    warning = [
        f"**Training is in progress: step {step:,} of {steps:,}.** The next push replaces this model.",
        f"Last figures on the validation split: {said}." if said else "The validation split was not evaluated yet.",
        _no_test_figure_yet(run),
    ]
    sections = [
        f"# {escape(name)}",
        " ".join(warning),
        _summary(run),
        usage_section(run, repo_id, revision),
        _training(run, finished=False),  # no picture is published yet
        _licence(run),
        _recipe(run),
    ]
    return _card(run, name, sections)


def _no_test_figure_yet(run: SavedRun) -> str:
    names = run.section("evaluation").get("monitor")
    watched = [name for name in map(str, names if isinstance(names, list) else []) if monitored(name).is_test]
    if watched:
        shown = ", ".join(map(escape, watched))
        return f"Test images are scored while training ({shown}); the test figure is that of its end, and does not exist yet."
    return "No test figure exists: the test split is read once, when training is over."


def _name(run: SavedRun, repo_id: str | None) -> str:
    return plain((repo_id or run.path.resolve().name).rpartition("/")[2])


def _card(run: SavedRun, name: str, sections: Sequence[str]) -> str:
    text = "\n\n".join(section for section in sections if section)
    # A lone surrogate, which JSON can hold, is no character that a file can.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return sealed(f"---\n{card_data(run, name).to_yaml()}\n---\n\n{text}\n")


def _expected_model_type(run: SavedRun) -> str:
    """Return which model type a run will save, as far as its recipe tells: the wrapper's, timm's, or one of transformers."""
    model = run.section("model")
    head = model.get("head")
    kind = str(model.get("backbone")).partition(":")[0]
    if kind in ("torchvision", "scratch") or (isinstance(head, Mapping) and head.get("hidden")):
        return WRAPPER
    of_timm = kind in ("timm", "package") or str(base_model_id(run)).startswith("timm/")
    return TIMM if of_timm else "transformers"


# --- sections, in the order of the card ---


def _summary(run: SavedRun) -> str:
    backbone, data = _backbone_link(run), data_link(run)
    n_classes = len(class_names(run))
    classes = f"{n_classes} classes of " if n_classes else ""
    if run.evaluates_only:
        said = f"{backbone}, evaluated as it is on the {classes}{data}; nothing was trained."
    else:
        strategy = str(run.section("strategy").get("name") or "")
        how = _STRATEGIES.get(strategy) or (f"the strategy {code(strategy)}" if strategy else "training")
        start = ", from random weights" if run.section("model").get("pretrained") is False else ""
        several = " An image may show several of them, or none." if run.multi_label else ""
        said = f"An image classifier for the {classes}{data}: {backbone}, adapted by {how}{start}.{several}"
    split = run.headline_split
    if split is not None and finite(run.splits[split].get(run.headline.key)) is not None:
        said += f" {_headline(run, split)}"
    parts = [said]
    if split == "validation":
        parts.append(_no_test_split(run))
    if watched := watched_test(run.metrics):
        parts.append(escape(watched))
    description = run.recipe.get("description")
    if description:
        parts.append(paragraph(public_text(str(description))))
    return "\n\n".join(parts)


def _headline(run: SavedRun, split: str) -> str:
    found, headline = run.splits[split], run.headline
    details = {
        "95 % interval {}": interval(found.get(headline.interval)),
        "{} images": count(found.get("n")),
        f"{headline.baseline_words} gives {{}}": number(found.get(headline.baseline)),
    }
    known = "; ".join(words.format(figure) for words, figure in details.items() if figure != NOTHING)
    value = number(found[headline.key])
    return f"Its {headline.name} on the {split} split is **{value}**{f' ({known})' if known else ''}."


def _no_test_split(run: SavedRun) -> str:
    if run.evaluates_only:
        return "The run evaluated no test split: the figures of this card are those of the validation split."
    return (
        "The run evaluated no test split: the figures of this card are those of the validation split, "
        "which was also used for selection, so they are likely to be a little too good."
    )


_CLASSES_EXPLAINED = (
    "The interval is Wilson's for the accuracy. Baseline is the accuracy of always answering the most frequent class, "
    "Balanced the mean recall of the classes. NLL is the negative log likelihood in nats per image; ECE the expected "
    "calibration error, with 15 equal-width bins of the top probability."
)


def _results(run: SavedRun, *, images: bool) -> str:
    if not run.splits:
        return ""
    parts = [
        "## Results",
        _markdown(splits_table(run)),
        f"{LABELS_EXPLAINED if run.multi_label else _CLASSES_EXPLAINED} Every split, train too, was evaluated without "
        "augmentation.",
    ]
    if shifts := shifts_table(run):
        parts += ["### Further test sets", _markdown(shifts)]
    for split, corrupted in robustness_tables(run):
        parts += [
            f"### Under corruption ({escape(split)})",
            _markdown(corrupted),
            f"{'Mean average precision' if run.multi_label else 'Accuracy'}, with its 95 % interval, on the same images "
            "corrupted at severity 1 (mild) to 5.",
        ]
    drawn = plotted_split(run.path)
    where = f" on the {drawn} split" if drawn else ""
    parts += [
        _per_class(run),
        _picture(run, "Every threshold", PRECISION_RECALL, f"Precision-recall curve of each class{where}"),
        _picture(run, "Confusion matrix", CONFUSION_MATRIX, f"Confusion matrix{where}: a row for each true class"),
        _calibration(run, where),
        _explanations(run) if images else "",
    ]
    return "\n\n".join(filter(None, parts))


def _per_class(run: SavedRun) -> str:
    split = run.headline_split
    found = run.splits[split].get("per_class") if split is not None else None
    if not isinstance(found, Mapping) or not found:
        return ""
    classes = {name: scores for name, scores in found.items() if isinstance(scores, Mapping)}
    said = _thresholds(run)
    if len(classes) > MAX_CLASSES_LISTED:
        key, title = ("average_precision", "average precision") if run.multi_label else ("f1", "F1")
        scored = [name for name, scores in classes.items() if finite(scores.get(key)) is not None]
        scored.sort(key=lambda name: float(classes[name][key]))
        classes = {name: classes[name] for name in scored[:_CLASSES_SHOWN_OF_MANY]}
        more = f"The {len(classes)} classes with the lowest {title}, of {len(found)}; metrics.json has all of them."
        said = f"{said} {more}".strip()
    heading = f"### Classes ({split} split)"
    return "\n\n".join(filter(None, [heading, said, _markdown(class_table(classes))]))


def _thresholds(run: SavedRun) -> str:
    """Return from which probability a class is said, as far as the run says; empty where an image has one label."""
    if not run.multi_label:
        return ""
    by = run.metrics.get("thresholds_by")
    known = {"validation": "the one with its best F1 on the validation split", "checkpoint": "which the checkpoint states"}
    how = known.get(str(by), "") if finite(by) is None else f"{by:g} for all"
    return (
        f"A class is said where its probability reaches its threshold{f', {how}' if how else ''}; Images counts those that "
        "show the class."
    )


def _calibration(run: SavedRun, where: str) -> str:
    found, folded = calibration_table(run), finite(run.metrics.get("temperature"))
    if run.multi_label:
        picture = _image(run, RELIABILITY, f"Reliability diagram{where}: how often a class is there against its probability")
        asked = (
            "Is a class that was given 80 % there 8 times in 10? Every class of every image is one answer. Where a bar ends "
            "below its dot, the model is surer than it is right."
        )
        return f"### Calibration\n\n{asked}\n\n{picture}" if picture else ""
    picture = _image(run, RELIABILITY, f"Reliability diagram{where}: accuracy against confidence")
    if not (found or folded or picture):
        return ""
    parts = ["### Calibration", "Does a prediction made with 80 % confidence come true 8 times in 10?"]
    if picture:
        parts[-1] += " Where a bar ends below its dot, the model is surer than it is right; whiskers are 95 % intervals."
        parts.append(picture)
    if folded:
        parts.append(
            f"The logits of this model are divided already by {number(folded, 3)}, the temperature that fitted the validation "
            "split best when it was saved."
        )
    if found and abs(found[0] - 1) >= _NO_SCALING:
        temperature, figures = found
        helps = scaling_helps(run, "test")
        on_test = "" if helps is None else f" On the test split it {'lowers' if helps else 'raises'} the NLL."
        parts += [
            f"Dividing the logits{' once more' if folded else ''} by a temperature of {number(temperature, 3)} would fit the "
            "validation split best (Guo et al. 2017). It would change no answer, only how sure the model says it is. The "
            f"figures of the validation split itself flatter it a little.{on_test}",
            _markdown(figures),
        ]
    return "\n\n".join(parts)


def _explanations(run: SavedRun) -> str:
    if not (run.path / EXPLANATIONS).is_file():
        return ""
    picture = _image(run, EXPLANATIONS, "Test images, each beside a map of what spoke for the class that the model named")
    link = f"[{picture}]({EXPLANATIONS.as_posix()})"
    if run.multi_label:
        return (
            f"### Where the model looks\n\n{link}\n\nA row for each class: test images that show it and of which it was said, "
            "then, in red, images where it was missed or said though not there. Right of each image is the map of what spoke "
            "for the class of the row; a ring marks its largest value. A map shows where the evidence was, not that it is a "
            "good reason."
        )
    return "\n\n".join(
        [
            "### Where the model looks",
            link,
            "A row for each class: test images that were recognised, then, in red, mistakes of which the model was surest. "
            "Right of each image is the map of what spoke for the class that the model named; a ring marks its largest value. "
            "A map shows where the evidence was, not that it is a good reason.",
        ]
    )


def _picture(run: SavedRun, heading: str, path: Path, description: str) -> str:
    image = _image(run, path, description)
    return f"### {heading}\n\n{image}" if image else ""


def _image(run: SavedRun, path: Path, description: str) -> str:
    return f"![{description}]({path.as_posix()})" if (run.path / path).is_file() else ""


def _data(run: SavedRun) -> str:
    parts = ["## Data", f"Source: {data_link(run)}.{_drawn(run)}"]
    if splits := data_table(run):
        parts.append(_markdown(splits))
    if counts := class_counts_table(run):
        shown = _markdown(counts)
        if len(counts.rows) > MAX_CLASSES_LISTED:
            shown = f"The {len(counts.rows)} classes and the images of each are listed in environment.json."
        elif len(counts.rows) > _MAX_CLASSES_OPEN:
            shown = _folded(f"All {len(counts.rows)} classes", shown)
        parts += ["### Images of each class", shown]
    return "\n\n".join(parts)


def _drawn(run: SavedRun) -> str:
    """Return how the splits came about, as far as the recipe says."""
    data = run.section("data")
    drawn = {split: finite(data.get(f"{split}_fraction")) for split in ("validation", "test")}
    parts = [f"{100 * fraction:g} % for {split}" for split, fraction in drawn.items() if fraction]
    if run.evaluates_only or not parts:
        return ""
    said = f" Splits that the source does not have were drawn from its images, class by class, {' and '.join(parts)}"
    said += f" (split seed {data.get('split_seed', 0)})."
    most = {split: finite(data.get(f"max_{split}_samples")) for split in ("train", "validation", "test")}
    limits = [f"{split} {count(images)}" for split, images in most.items() if images]
    return said + (f" Of each split no more were used than: {', '.join(limits)}." if limits else "")


def _training(run: SavedRun, *, finished: bool = True) -> str:
    if run.evaluates_only:
        return ""
    model = run.section("model")
    revision = run.environment.get("backbone_revision") or model.get("revision")
    said = f"Backbone: {_backbone_link(run)}" + (f", revision {code(revision)}" if revision else "")
    if "pretrained" in model:
        said += f"; training started from {'pretrained' if model['pretrained'] else 'random'} weights"
    parts = ["## Training procedure", f"{said}."]
    if phases := phases_table(run):
        parts.append(_markdown(phases))
    recipe = public(run.recipe)
    settings = settings_table(run, {key: value for key, value in recipe.items() if key != "training"})
    if settings:
        parts.append(_markdown(settings, ["Setting", "Value"]))
    if finished:
        parts.append(_image(run, CURVES, f"Loss, {run.headline.name} and learning rates during training"))
    if arguments := public(run.section("training")):
        rows = [[code(key), code(_json_text(value))] for key, value in arguments.items()]
        summary = f"{len(rows)} training arguments (fields of <code>transformers.TrainingArguments</code>)"
        parts.append(_folded(summary, table(["Argument", "Value"], rows, left=2)))
    return "\n\n".join(filter(None, parts))


def _temperatures(run: SavedRun) -> str:
    found = learned_temperatures(run.metrics)
    if found is None:
        return ""
    picture = _image(run, TEMPERATURES, "Learned temperature of each attention layer")
    return "\n\n".join(filter(None, ["## Learned temperatures", f"Of the attention, {found.words}. {ABOUT}", picture]))


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


def _licence(run: SavedRun) -> str:
    found = backbone_licence(run)
    if run.section("model").get("pretrained") is False:
        said = "Training started from random weights, so no licence of a backbone applies; choose one before publishing."
    elif found is None:
        said = (
            f"The licence of the backbone ({_backbone_link(run)}) is not known. Look it up before publishing: it may forbid "
            "passing on models that were made from it."
        )
    else:
        given = code(public_text(str(run.environment["backbone_license"])))
        named = given if found.identifier == OTHER else f"{escape(LICENCES[found.identifier])} ({code(found.identifier)})"
        read = f" Its terms: <{found.link}>." if found.link else ""
        said = f"The weights of the backbone ({_backbone_link(run)}) are published under this licence: {named}.{read}"
    return f"## Licence\n\n{said} The images of the training data have terms of their own."


def _environment(run: SavedRun) -> str:
    cost, environment, speed = cost_table(run), environment_table(run), speed_table(run)
    known = {row[0] for row in cost.rows} if cost else set()
    parts = [_markdown(cost, ["Fact", "Value"])] if cost else []
    if rows := [row for row in environment.rows if row[0] not in known] if environment else []:
        parts.append(_folded("Versions and fingerprints", _markdown(Table([], rows, left=2), ["Fact", "Value"])))
    if speed:
        parts += ["### Speed", _markdown(speed, ["Figure", "Value"])]
    return "\n\n".join(["## Cost and environment", *parts]) if parts else ""


def _recipe(run: SavedRun) -> str:
    recipe = public(run.recipe)
    said = (
        "The resolved recipe, every default of ours filled in; training arguments that it does not list have the defaults of "
        "the transformers version above."
    )
    if recipe != run.recipe:
        said += " What belongs to the machine it ran on is cut."
    # The same JSON, with nothing in it that a careless reader could take for a tag.
    text = json.dumps(recipe, indent=2, ensure_ascii=False).replace("<", "\\u003c")
    return f"## Recipe\n\n{said}\n\n{_folded('recipe.json', code_block(text, 'json'))}"


# --- what the sections are made of ---


def _markdown(found: Table, header: Sequence[str] | None = None) -> str:
    """Return a table of a run as Markdown; a line break in a cell is kept."""
    rows = [["<br>".join(map(escape, cell.split("\n"))) for cell in row] for row in found.rows]
    return table(header or [escape(title) for title in found.header], rows, left=found.left)


def _folded(summary: str, content: str) -> str:
    return f"<details>\n<summary>{summary}</summary>\n\n{content}\n\n</details>"


def _backbone_link(run: SavedRun) -> str:
    found = hub_id(run.environment.get("backbone_hub_id"))
    name = run.section("model").get("backbone") or run.environment.get("backbone")
    if found:
        return f"[{escape(found)}](https://huggingface.co/{found})"
    return code(public_text(str(name))) if name else "a backbone"


def _json_text(value: object) -> str:
    """Return a value as the recipe writes it, texts without their quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
