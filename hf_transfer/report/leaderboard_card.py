"""The card of a leaderboard on the Hub: verdict, table with links to its models, what it rests on, how to repeat it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError, listed
from ..metrics.headline import ACCURACY, Headline
from ..metrics.verdict_words import cost_words
from .card_metadata import TASK, backbone_licence, check_metadata, data_name, dataset_hub_id, hub_id
from .card_seal import sealed
from .card_usage import class_names, data_link
from .formats import NOTHING, count, duration, finite, megabytes, number
from .leaderboard import Leaderboard, Row, Table
from .leaderboard_table import SELECTION_TITLE, columns, facts, selection_words, selectors
from .markdown import code, code_block, escape, paragraph, table
from .redaction import public_text
from .run_tables import class_counts, environment_table
from .saved_run import SavedRun, read_object
from .temperatures import ABOUT, over_runs
from .watched import watched_test

ROWS = "leaderboard.csv"
"""The file that the Hub's viewer shows, and `datasets.load_dataset` gives."""

_TOLD_ELSEWHERE = ("Backbone revision", "Backbone licence", "Data fingerprint")
_MISSING_NAMED = 10
_ADDRESS = re.compile(r"https?://[\w.:/%@-]+")

# What each column of the table means, as docs/statistics.md says it.
_DEFINITIONS = {
    "Accuracy": "the share of test images that are right, the mean over seeds.",
    "95 % interval": "after the accuracy: where it lies over fresh images and fresh seeds (with one seed: over fresh images, "
    "for that network).",
    "Between seeds": "the standard deviation of the seeds' accuracies.",
    "Validation": "the mean validation accuracy, by which the leader is chosen where it is known.",
    "Beside the leader": "the difference of test accuracies; its interval is not adjusted for the number of comparisons.",
    "p": "the larger p-value of two tests on the same test images: could another choice of images explain the difference "
    "(sign-flip permutation; McNemar's for one seed a side), and, with several seeds, could another choice of images and seeds "
    "(t test with their crossed variance)? Each is adjusted for all comparisons with the leader.",
    "Tied": "the leader, and all that are not significantly worse (p below 0.05). That does not prove them equal.",
    "Training": "the time of the longest run. Features of a frozen backbone are computed once for all that share them.",
    "Latency": "the milliseconds of one image, the median.",
    "Trained": "the parameters that ever trained at once.",
    "Trials": "the settings that each run was chosen from, on validation.",
    "ImageNet": "the published ImageNet accuracy of the backbone, a baseline that costs nothing.",
    "Published": "the figure that others published for this experiment; below the table is where.",
}
# What is different where images may have several labels.
_LABEL_DEFINITIONS = {
    "mAP": "the mean average precision of the classes on the test images, the mean over seeds.",
    "95 % interval": "after mAP: where it lies over fresh images (drawn again 1,000 times) and fresh seeds (with one seed: "
    "over fresh images, for that network).",
    "Between seeds": "the standard deviation of the seeds' mAP.",
    "Validation": "the mean mAP on validation, by which the leader is chosen where it is known.",
    "Beside the leader": "the difference of test mAPs; its interval is not adjusted for the number of comparisons.",
    "p": "the larger p-value of two t tests on the same test images: is the difference more than another choice of images "
    "would make it (its spread over images that are drawn again), and, with several seeds, more than another choice of images "
    "and seeds? Each is adjusted for all comparisons with the leader.",
}


@dataclass(frozen=True)
class ModelLink:
    """Where the model of a run is on the Hub.

    Args:
        repo_id: OWNER/NAME.
        revision: its branch, or `refs/pr/N`.
        commit: the commit that holds it.
        url: its page.
        private: whether only those may see it who have been given the right.
    """

    repo_id: str
    revision: str
    commit: str
    url: str
    private: bool


def model_link(run: Path) -> ModelLink | None:
    """Return where hub.json says that the model of a run was published, None where there is none that says it."""
    try:
        found = read_object(run / "hub.json")
        link = ModelLink(**{field.name: found[field.name] for field in fields(ModelLink)})
    except (RunDirectoryError, KeyError):
        return None
    return link if hub_id(link.repo_id) and _ADDRESS.fullmatch(str(link.url)) else None


def leaderboard_card_text(
    root: Path,
    board: Leaderboard,
    *,
    repo_id: str,
    revision: str | None = None,
    places: Mapping[str, str],
    report: bool = False,
) -> str:
    """Return the text of the card, for the dataset repository that the leaderboard is published in.

    Names and descriptions are shown as text, never as Markdown or HTML; paths of the machine are cut to their last part,
    tokens are removed.

    Args:
        root: the folder of the runs, with study.json where it is a study's.
        board: their leaderboard, with one table or more.
        repo_id: OWNER/NAME.
        revision: the branch, where it is not the main one.
        places: run, as the leaderboard names it, to the folder that its files are published in.
        report: whether report.html is published, too.
    """
    study = read_object(root / "study.json") if (root / "study.json").is_file() else None
    runs = {name: SavedRun.read(root / name) for found in board.tables for row in found.rows.values() for name in row.runs}
    name = repo_id.rpartition("/")[2]
    description = (study or {}).get("description")
    sections = [
        f"# {escape(name)}: a leaderboard",
        paragraph(public_text(str(description))) if description else "",
        *(_comparison(found, root, several=len(board.tables) > 1) for found in board.tables),
        _not_compared(root, board, study),
        _fronts(board),
        _temperatures(board, runs),
        _measured_on(board, runs),
        _backbones(board, runs),
        _reading(board),
        _repeating(repo_id, revision, study, places, runs),
        _environment(runs),
        _files(study, report=report),
    ]
    text = "\n\n".join(section for section in sections if section).encode("utf-8", "replace").decode("utf-8")
    return sealed(f"---\n{_metadata(name)}\n---\n\n{text}\n")


def check_leaderboard_metadata(text: str) -> list[str]:
    """Return what the Hub, its viewer or `datasets` would refuse in the metadata of the card, each in words.

    Args:
        text: a whole card, which somebody may have edited.
    """
    problems = check_metadata(text)
    if problems:
        return problems
    from huggingface_hub import DatasetCard

    try:
        found: dict[str, Any] = DatasetCard(text).data.to_dict()
    except (KeyError, TypeError, ValueError) as error:
        return [f"huggingface_hub cannot read it: {error}"]
    return list(_dataset_problems(found))


def _dataset_problems(found: Mapping[str, Any]) -> Iterator[str]:
    tasks, configs = found.get("task_categories", []), found.get("configs", [])
    if not isinstance(tasks, str) and not (isinstance(tasks, list) and all(isinstance(task, str) for task in tasks)):
        yield f"task_categories: expected a list of texts, found {json.dumps(tasks, default=str)}"
    if not isinstance(configs, list):
        yield f"configs: expected a list, found {json.dumps(configs, default=str)}"
        return
    for place, config in enumerate(configs):
        if not isinstance(config, Mapping) or not isinstance(config.get("config_name"), str):
            yield f"configs[{place}]: expected an object with config_name, found {json.dumps(config, default=str)}"
        elif not isinstance(config.get("data_files", []), (str, list)):
            shown = json.dumps(config["data_files"], default=str)
            yield f"configs[{place}].data_files: expected a file or a list, found {shown}"


def _metadata(name: str) -> str:
    from huggingface_hub import DatasetCardData

    return DatasetCardData(
        pretty_name=f"{name}: a leaderboard",
        task_categories=[TASK],
        size_categories=["n<1K"],
        tags=["leaderboard", "transfer-learning", "hf-transfer-learning"],
        configs=[{"config_name": "default", "data_files": ROWS}],
    ).to_yaml()


# --- sections, in the order of the card ---


def _comparison(found: Table, root: Path, *, several: bool) -> str:
    """Return the verdict, the table with a link for each published model, and what makes it less than it looks."""
    header, *lines = [[_said(cell) for cell in line] for line in columns(found)]
    links = [_links(found.rows[standing.name], root) for standing in found.verdict.standings]
    if any(links):
        header = [header[0], "Models, by seed", *header[1:]]
        lines = [[line[0], _linked(of_row), *line[1:]] for line, of_row in zip(lines, links, strict=True)]
    remarks = [*found.verdict.notes, *found.warnings]
    parts = [
        f"## On {_said(found.data)}" if several else "",
        f"**{_said(found.verdict.words)}**",
        table(header, lines),
        f"{_said(facts(found))} {_who_may_see([link for of_row in links for _, link in of_row])}",
        "\n".join(f"- {_said(remark)}" for remark in remarks),
    ]
    if found.selection is not None:
        header, *lines = [[_said(cell) for cell in line] for line in selectors(found.selection)]
        words = selection_words(found.selection, found.verdict.headline.name)
        parts += [f"### {SELECTION_TITLE}", _said(words), table(header, lines)]
    return "\n\n".join(filter(None, parts))


def _links(row: Row, root: Path) -> list[tuple[int, ModelLink]]:
    """Return where the models of a candidate are on the Hub, each with its seed."""
    found = [(seed, model_link(root / run)) for seed, run in zip(row.seeds, row.runs, strict=True)]
    return [(seed, link) for seed, link in found if link is not None]


def _linked(links: Sequence[tuple[int, ModelLink]]) -> str:
    return " ".join(f"[{seed}]({link.url})" for seed, link in links) or NOTHING


def _who_may_see(links: Sequence[ModelLink]) -> str:
    if not links:
        return "None of the models is published."
    private = sum(link.private for link in links)
    return f"{len(links)} {'model is' if len(links) == 1 else 'models are'} linked, {private or 'none'} of them private."


def _not_compared(root: Path, board: Leaderboard, study: Mapping[str, Any] | None) -> str:
    """Return which cells, or runs, are in no table, and why."""
    compared = {Path(run).name for found in board.tables for row in found.rows.values() for run in row.runs}
    parts = []
    cells = (study or {}).get("cells")
    if isinstance(cells, Mapping):
        left_out = {Path(name).name for name in board.left_out}
        missing = [name for name in cells if name not in compared | left_out]
        if missing:
            named = escape(listed(missing, _MISSING_NAMED))
            has = "has" if len(missing) == 1 else "have"
            parts.append(f"Of the {len(cells)} cells of the study {len(missing)} {has} no finished run: {named}.")
        if missing and (root / "funnel.json").is_file():
            parts[-1] += " A funnel lets only the backbones be fine-tuned whose frozen features did best."
    elif board.unfinished:
        parts.append(f"Not finished: {_said(listed(list(board.unfinished), _MISSING_NAMED))}.")
    if board.left_out:
        reasons = "; ".join(f"{_said(name)}: {_said(why)}" for name, why in board.left_out.items())
        parts.append(f"Left out: {reasons}.")
    return "\n\n".join(parts)


def _fronts(board: Leaderboard) -> str:
    """Return who is on the Pareto front of accuracy and each cost, in words."""
    parts = []
    for found in board.tables:
        accuracy = {standing.name: standing.accuracy for standing in found.verdict.standings}
        fronts: dict[str, list[str]] = {}
        for cost, names in found.verdict.cost_front.items():
            shown = [
                f"{_said(name)} ({_amount(cost, found.rows[name].costs[cost])}, {number(accuracy[name])})" for name in names
            ]
            if shown and len(found.rows) > 1:
                fronts[cost] = shown
        lines = [f"- {cost_words(cost)}: {', then '.join(shown)}" for cost, shown in fronts.items()]
        if lines and len(board.tables) > 1:
            lines.insert(0, f"On {_said(found.data)}:\n")
        parts.append("\n".join(lines))
    if not any(parts):
        return ""
    said = (
        "The Pareto fronts: for each cost, cheapest first, the candidates that are more accurate than all that cost less. "
        "Accuracies are those of the table, without their intervals."
    )
    heading = "## Accuracy against cost"
    if any(found.verdict.headline != ACCURACY for found in board.tables):
        heading = "## Figures against cost"
        said = (
            "The Pareto fronts: for each cost, cheapest first, the candidates that reach more than all that cost less. Figures "
            "are the first of the table, without their intervals."
        )
    return "\n\n".join(filter(None, [heading, said, *parts]))


def _amount(cost: str, value: float | None) -> str:
    if cost.endswith("_seconds"):
        return duration(value)
    if cost.endswith("_ms"):
        return f"{number(value, 1)} ms"
    return megabytes(value) if cost.endswith("_mb") else count(value)


def _temperatures(board: Leaderboard, runs: Mapping[str, SavedRun]) -> str:
    """Return the learned temperatures of each candidate that has some, the mean of its seeds."""
    rows = []
    for row in (row for found in board.tables for row in found.rows.values()):
        learned = over_runs([runs[name].metrics for name in row.runs])
        if learned is not None:
            rows.append([_said(row.name), number(learned[0]), number(learned[1])])
    if not rows:
        return ""
    shown = table(["Candidate", "Mean over the layers", "Standard deviation"], rows)
    return f"## Learned temperatures\n\n{ABOUT}\n\n{shown}"


def _measured_on(board: Leaderboard, runs: Mapping[str, SavedRun]) -> str:
    parts = ["## What it was measured on"]
    for found in board.tables:
        rows = list(found.rows.values())
        first = runs[rows[0].runs[0]]
        sizes = {split: sum(filter(None, map(finite, of.values()))) for split, of in class_counts(first).items()}
        if first.multi_label:  # labels are counted there
            sizes = {split: size for split, of in first.splits.items() if (size := finite(of.get("n"))) is not None}
        classes = len(class_names(first))
        images = ", ".join(f"{count(size)} {escape(split)}" for split, size in sizes.items())
        said = f"- {data_link(first)}: {images or count(found.verdict.images) + ' test'} images"
        said += f" in {count(classes)} classes" if classes else ""
        seeds = sorted({seed for row in rows for seed in row.seeds})
        fingerprint = first.environment.get("data_fingerprint")
        said += f"; seeds {', '.join(map(str, seeds))}; {len(rows)} candidates, {sum(len(row.runs) for row in rows)} runs"
        said += f"; fingerprint of the images {code(fingerprint)}" if fingerprint else ""
        parts.append(f"{said}.{_baselines(rows, classes, found.verdict.headline)}")
    watched = any(watched_test(run.metrics) for run in runs.values())
    read = "also scored while some of the runs trained" if watched else "read once, by the models as they were saved"
    parts.append(
        "The splits are the same for every seed. Settings and epochs were chosen on validation images, where there are any; "
        f"the test images were {read}."
    )
    return "\n\n".join(filter(None, parts))


def _baselines(rows: Sequence[Row], classes: int, headline: Headline) -> str:
    """Return, with a space before it, what accuracy (or mean average precision) costs nothing."""
    known = {row.majority_baseline for row in rows if row.majority_baseline is not None}
    if headline != ACCURACY:
        return f" {headline.name.capitalize()} of {headline.baseline_words} {number(max(known))}." if known else ""
    said = [f"always answering the most frequent class {number(max(known))}"] if known else []
    said += [f"guessing {number(1 / classes)}"] if classes else []
    return f" Accuracy of {', of '.join(said)}." if said else ""


def _backbones(board: Leaderboard, runs: Mapping[str, SavedRun]) -> str:
    rows: dict[str, list[str]] = {}
    for row in (row for found in board.tables for row in found.rows.values()):
        run = runs[row.runs[0]]
        found, licence = hub_id(run.environment.get("backbone_hub_id")), backbone_licence(run)
        name = f"[{escape(found)}](https://huggingface.co/{found})" if found else code(public_text(row.backbone))
        size = NOTHING if row.input_size is None else f"{row.input_size} px"
        revision = run.environment.get("backbone_revision")
        facts_of_it = [escape(row.pretraining or NOTHING), number(row.imagenet_top1), size]
        terms = escape((licence.name or licence.identifier) if licence else NOTHING)
        rows.setdefault(row.backbone, [name, *facts_of_it, terms, code(revision) if revision else NOTHING])
    header = ["Backbone", "Pretrained on", "ImageNet", "Input", "Licence", "Revision"]
    kept = [place for place in range(len(header)) if any(cells[place] != NOTHING for cells in rows.values())]
    shown = table([header[place] for place in kept], [[cells[place] for place in kept] for cells in rows.values()], left=6)
    said = "No licence is stated for these figures; that of a backbone's weights may bind the models that were made from them."
    return f"## Backbones\n\n{shown}\n\n{said}"


def _reading(board: Leaderboard) -> str:
    lines: dict[str, None] = {}
    for found in board.tables:
        definitions = _DEFINITIONS | (_LABEL_DEFINITIONS if found.verdict.headline != ACCURACY else {})
        for title in columns(found)[0]:
            if title in definitions:
                lines[f"- **{escape(title)}**: {definitions[title]}"] = None
    return "\n\n".join(
        [
            "## How to read the figures",
            "\n".join(lines),
            "`docs/statistics.md` of hf-transfer-learning has the formulas, and how often such a verdict is wrong.",
        ]
    )


def _repeating(
    repo_id: str,
    revision: str | None,
    study: Mapping[str, Any] | None,
    places: Mapping[str, str],
    runs: Mapping[str, SavedRun],
) -> str:
    packaged = any(
        str(run.section(part).get(key)).startswith("package:")
        for run in runs.values()
        for part, key in (("data", "source"), ("model", "backbone"))
    )
    at = f" --revision {shlex.quote(revision)}" if revision else ""
    first = shlex.quote(f"{next(iter(places.values()))}/recipe.json")
    file, command = ("study.json", "study") if study is not None else (first, "run")
    lines = [
        f'pip install "hf-transfer-learning{"[demo]" if packaged else ""}"',
        f"hf download {repo_id} {file} --repo-type dataset{at} --local-dir .",
        f"hf-transfer {command} {file}",
    ]
    parts = ["## Repeat it", code_block("\n".join(lines), "bash")]
    if study is None:
        parts.append("So with the recipe of each run.")
    if any(not dataset_hub_id(run) and not data_name(run).startswith("package:") for run in runs.values()):
        key = "base.data.source" if study is not None else "data.source"
        parts.append(f"The images were in a folder of one machine: `{key}=PATH` after the file's name says where yours are.")
    rows = f'load_dataset("{repo_id}", split="train"{f", revision={json.dumps(revision)}" if revision else ""})'
    parts += ["The rows of the table as data:", code_block(f"from datasets import load_dataset\n\nrows = {rows}", "python")]
    return "\n\n".join(parts)


def _environment(runs: Mapping[str, SavedRun]) -> str:
    seconds = [finite(run.cost.get("total_seconds")) for run in runs.values()]
    searches = [read_object(run.path / "tuning.json") for run in runs.values() if (run.path / "tuning.json").is_file()]
    seconds += [finite(found.get("seconds")) for found in searches]
    spent = [value for value in seconds if value is not None]
    devices = _distinct(str(run.cost.get("device") or run.environment.get("device") or "") for run in runs.values())
    rows: dict[str, list[str]] = {}
    for run in runs.values():
        shown = environment_table(run)
        for name, value in shown.rows if shown else ():
            if name not in _TOLD_ELSEWHERE and value not in rows.setdefault(name, []):
                rows[name].append(value)
    parts = ["## Cost and environment"]
    if spent:
        on = f" on {_said(', '.join(devices))}" if devices else ""
        searched = ", searches included" if searches else ""
        parts.append(f"All {count(len(runs))} runs together took {duration(sum(spent))}{on}{searched}.")
    if rows:
        facts_of_all = table(
            ["Fact", "Value"], [[_said(name), _said(", ".join(values))] for name, values in rows.items()], left=2
        )
        parts.append(f"<details>\n<summary>Versions and fingerprints</summary>\n\n{facts_of_all}\n\n</details>")
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _files(study: Mapping[str, Any] | None, *, report: bool) -> str:
    rows = [
        [f"[{ROWS}]({ROWS})", "a line for each candidate, with every figure and the models' names"],
        ["[leaderboard.json](leaderboard.json)", "the same with every comparison, Pareto front and link"],
    ]
    if report:
        rows.append(["report.html", "one page with charts and pictures; download it and open it in a browser"])
    if study is not None:
        rows.append(["[study.json](study.json)", "the study, ready to be carried out"])
    rows.append(["runs/NAME/", "the recipe and the metrics of each run"])
    return "## Files\n\n" + table(["File", "What it is"], rows, left=2)


def _said(text: object) -> str:
    """Return foreign text as Markdown that may leave the machine."""
    return escape(public_text(str(text)))


def _distinct(values: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, values)))
