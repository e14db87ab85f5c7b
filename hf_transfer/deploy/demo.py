"""A small web page that classifies an image, here or as a Space of the Hub."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..backbones.backbone import Backbone
from ..data.images import decode_rgb
from ..errors import RunDirectoryError, UserError, listed, require
from ..evaluation.labels import model_class_names
from ..evaluation.predictions import Predictions
from ..evaluation.thresholds import model_thresholds
from ..run_directory import replacing
from .destination import check_destination
from .predict import Classifier

if TYPE_CHECKING:
    import gradio as gr

_EXAMPLES = 6
_SWEEP_SECONDS, _SECONDS_KEPT = 300, 3600  # how often uploaded files are looked over, and how old they may be
_LARGEST_FILE = "64mb"

_NONE = "none of the classes"

_SPACE_APP = '''"""Classify an image; see README.md."""

import gradio as gr
from transformers import pipeline
{register}
classifier = pipeline("image-classification", model="model")


{classify}

gr.Interface(
    classify,
    gr.Image(type="filepath", image_mode=None, label="Image"),
    gr.Label(num_top_classes={top_k}, label="Classes"),
    examples={examples},
    cache_examples=False,
    live=True,
    flagging_mode="never",
    title={title},
    description={line},
    analytics_enabled=False,
).launch()
'''


_ONE_CLASS = '''def classify(path):
    """Return the most probable classes of an image file with their probabilities."""
    # The most probable last: where two classes have one name, its probability is kept.
    return {{answer["label"]: answer["score"] for answer in classifier(path, top_k={top_k})[::-1]}} if path else None
'''

_SEVERAL_CLASSES = '''config = classifier.model.config
thresholds = {{config.id2label[label]: threshold for label, threshold in enumerate({thresholds})}}


def classify(path):
    """Return the classes of an image file that reach their thresholds, with their probabilities."""
    if not path:
        return None
    answers = classifier(path, function_to_apply="sigmoid", top_k=len(thresholds))
    said = {{answer["label"]: answer["score"] for answer in answers if answer["score"] >= thresholds[answer["label"]]}}
    return said or "{none}"
'''


@dataclass(frozen=True)
class About:
    """What a page says of a model.

    Args:
        title: the name of its card, or of the model.
        line: the first paragraph of its card, or its classes.
        examples: images to try: of a run, the first test image of each class, six classes at most.
        license: identifier of the licence that the card names.
    """

    title: str
    line: str
    examples: tuple[Path, ...] = ()
    license: str | None = None


def about(name: str, class_names: list[str]) -> About:
    """Return what is known of a model: its card and, of a run, test images that are still where they were.

    Args:
        name: as for `predict.load_model`.
        class_names: of the model.
    """
    path = Path(name).expanduser()
    own = About(
        re.split(r"[/:]", name.rstrip("/"))[-1], f"An image classifier for {len(class_names)} classes: {listed(class_names)}."
    )
    if not path.is_dir():
        return own
    root = path.resolve()
    run = root.parent if root.name == "model" and (root.parent / "recipe.json").is_file() else root
    title, line, licence = _card(run / "README.md")
    return About(title or run.name, line or own.line, _test_images(run / "predictions" / "test.parquet"), licence)


def _card(path: Path) -> tuple[str, str, str | None]:
    """Return the first heading of a model card, the first paragraph after it, and its licence, as far as it has them."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "", "", None
    header = re.match(r"---\n.*?\n---\n", text, flags=re.DOTALL)
    body = text[header.end() :] if header else text
    licence = re.search(r"^license: *(\S+)$", header[0], flags=re.MULTILINE) if header else None
    heading = re.search(r"^# +(.+)$", body, flags=re.MULTILINE)
    first = re.split(r"\n\s*\n", body[heading.end() :].strip())[0] if heading else ""
    line = "" if first.startswith(("#", "```", "|", "<")) else " ".join(first.split())
    return heading[1].strip() if heading else "", line, licence[1] if licence else None


def _test_images(path: Path) -> tuple[Path, ...]:
    try:
        saved = Predictions.read(path)
    except RunDirectoryError:  # the page does without
        return ()
    first: dict[int, Path] = {}
    for labels, file in zip(saved.labels, saved.paths, strict=True):
        shown = np.flatnonzero(labels).tolist() if saved.multi_label else [int(labels)]
        new = [label for label in shown if label not in first]
        if new and file is not None and Path(file).is_file():
            first[new[0]] = Path(file)
    return tuple(first[label] for label in sorted(first))[:_EXAMPLES]


def build_demo(classifier: Classifier, what: About, *, top_k: int = 5) -> gr.Blocks:
    """Return a page that shows the most probable classes of an image as soon as it is there.

    Where an image may show several classes, it shows those that reach their thresholds, or says that none does.

    An uploaded file is decoded as it came, by what `predict` decodes with, so both give the same probabilities. The page asks
    no other server for anything, and counts nobody's visits.

    Args:
        classifier: the model.
        what: title, a line about the model, examples.
        top_k: how many classes are shown; all of them where there are fewer.

    Raises:
        UserError: when gradio is not installed.
    """
    require("gradio", "demo-ui", "the demo page")
    import gradio as gr

    def classify(path: str | None) -> dict[str, float] | str | None:
        if path is None:
            return None
        try:
            pixels = classifier.preprocessing(decode_rgb(Path(path).read_bytes()))
        except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
            raise gr.Error(f"This file cannot be read as an image: {error}", print_exception=False) from None
        (row,) = classifier.predictions([path], pixels[None], top_k)
        # Two of ImageNet's classes may have one name: the more probable one is shown.
        return dict(reversed(list(zip(row.classes, row.probabilities, strict=True)))) or _NONE

    shown = top_k if classifier.thresholds is None else len(classifier.class_names)

    with gr.Blocks(
        title=what.title, analytics_enabled=False, delete_cache=(_SWEEP_SECONDS, _SECONDS_KEPT), fill_width=False
    ) as page:
        gr.Markdown(f"# {what.title}\n\n{what.line}")
        with gr.Row(equal_height=True):
            # Without a mode of its own the component hands over the file as it was uploaded.
            image = gr.Image(type="filepath", image_mode=None, label="Image", height=360)
            label = gr.Label(num_top_classes=shown, label="Classes")
        image.change(classify, image, label, api_name="classify", show_progress="minimal")
        if what.examples:
            gr.Examples([[str(path)] for path in what.examples], image, label="Images of the test split", cache_examples=False)
    return page


def serve(page: gr.Blocks, *, host: str = "127.0.0.1", port: int | None = None) -> str:
    """Serve a page in threads of this process, until `page.close()`, and return its address.

    Args:
        page: from `build_demo`.
        host: the address to listen at; other machines see the page only where this is not the default.
        port: the port; None takes the first free one from 7860.

    Raises:
        UserError: when it cannot be served there.
    """
    import gradio as gr

    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            inbrowser=False,
            quiet=True,
            show_error=True,
            max_file_size=_LARGEST_FILE,
            share=False,
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=[],
            theme=gr.themes.Soft(primary_hue="indigo", font=["ui-sans-serif", "system-ui", "sans-serif"]),
        )
    except (OSError, ValueError) as error:
        where = f"{host}:{port}" if port else host
        raise UserError(f"the page cannot be served at {where}: {str(error).splitlines()[0]}") from None
    return address


def check_space(directory: Path) -> None:
    """Refuse a folder for a Space that holds something or cannot be written.

    Raises:
        UserError: saying which.
    """
    check_destination(directory / "app.py", "--export")
    if directory.is_dir() and any(directory.iterdir()):
        raise UserError(
            f"--export: expected a new or empty folder, found something in {directory.resolve()}; nothing was touched"
        )


def export_space(backbone: Backbone, what: About, directory: Path, *, top_k: int = 5) -> None:
    """Write what a Space of the Hub needs: app.py, requirements.txt, README.md with its header, the model, the examples.

    Args:
        backbone: the model.
        what: title, a line about the model, examples.
        directory: a new or empty folder.
        top_k: how many classes the page shows.

    Raises:
        UserError: when gradio is not installed, something is in the folder, or nothing can be written there.
    """
    require("gradio", "demo-ui", "the demo page")
    import gradio as gr

    check_space(directory)
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    own_class = backbone.model.config.model_type == "hf_transfer"
    with replacing(directory) as space:
        space.mkdir()
        backbone.save(space / "model")
        examples = [_copied(path, space / "examples", number) for number, path in enumerate(what.examples, start=1)]
        thresholds = model_thresholds(backbone.model.config)
        several = thresholds is not None
        classes = len(model_class_names(backbone.model.config))
        shown = classes if several else min(top_k, classes)
        classify = _SEVERAL_CLASSES if several else _ONE_CLASS
        stated = [] if thresholds is None else thresholds.tolist()
        app = _SPACE_APP.format(
            classify=classify.format(top_k=shown, thresholds=stated, none=_NONE),
            register="\nfrom hf_transfer import register\n\nregister()" if own_class else "",
            top_k=shown,
            examples=repr([f"examples/{name}" for name in examples] or None),
            title=repr(what.title),
            line=repr(what.line),
        )
        (space / "app.py").write_text(app, encoding="utf-8")
        packages = [
            "torch",
            "torchvision",
            "transformers",
            *(["timm"] if backbone.model.config.model_type == "timm_wrapper" else []),
        ]
        packages += ["hf-transfer-learning"] if own_class else []
        packages += ["onnxruntime"] if getattr(backbone.model.config, "library", None) == "onnx" else []
        (space / "requirements.txt").write_text("".join(f"{name}\n" for name in packages), encoding="utf-8")
        header = {"title": what.title, "sdk": "gradio", "sdk_version": gr.__version__, "app_file": "app.py", "pinned": False}
        provenance = backbone.provenance
        licence = what.license or provenance.license
        header |= {"license": licence} if licence else {}
        header |= {"models": [provenance.hub_id]} if provenance.hub_id else {}
        # JSON is YAML.
        lines = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in header.items())
        (space / "README.md").write_text(f"---\n{lines}---\n\n# {what.title}\n\n{what.line}\n", encoding="utf-8")


def _copied(path: Path, folder: Path, number: int) -> str:
    folder.mkdir(exist_ok=True)
    name = f"{number}{path.suffix.lower()}"
    shutil.copyfile(path, folder / name)
    return name
