"""Push while a run still trains: the model of each checkpoint, and the checkpoint itself if that is asked for."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from ..report.model_card import training_card_text
from ..report.redaction import public
from ..report.saved_run import read_object
from ..run_directory import RunDirectory
from ..training.checkpoints import mark_complete
from .hub import (
    LAST_CHECKPOINT,
    Destination,
    Repository,
    Stated,
    as_json,
    environment_content,
    model_files,
    reaching_the_hub,
    repository_id,
)

_METRICS = ("accuracy", "mean_average_precision", "macro_f1", "loss")
Save = Literal["every_save", "checkpoint", "all_checkpoints"]


class PushCallback(TrainerCallback):
    """Push at each save, in the background: training neither waits for the network nor fails with it.

    While one push is under way, further saves are passed over, as the Trainer does. What is pushed is a copy by hard links, so
    that a checkpoint may be removed meanwhile. To be used on the main process only.

    Args:
        run: the run directory.
        destination: where to push.
        save: what besides the model; `hub.strategy` of the recipe.
        save_processor: writes the image processor into a folder.

    Attributes:
        replaced: what the repository's card said of its model before the first push.
    """

    def __init__(
        self, run: RunDirectory, destination: Destination, save: Save, save_processor: Callable[[Path], object]
    ) -> None:
        self.run = run
        self.destination = destination
        self.save = save
        self.save_processor = save_processor
        self._stage = run.staged
        self._repository: Repository | None = None
        self._thread: threading.Thread | None = None
        self.replaced: Stated | None = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Begin to push the checkpoint that was just written."""
        if self._thread is not None and self._thread.is_alive():
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        try:
            self.clear()
            _copy_by_links(checkpoint, self._stage / "checkpoint")
        except OSError as error:
            print(f"warning: step {state.global_step} could not be pushed: {error}. Training goes on", file=sys.stderr)
            return
        measured = [entry for entry in state.log_history if "eval_loss" in entry][-1:]
        validation = {name: entry[f"eval_{name}"] for entry in measured for name in _METRICS if f"eval_{name}" in entry}
        arguments = (state.global_step, state.max_steps, validation or None)
        # A daemon: a run that is stopped waits for no more than the requests under way, and what has no commit changes nothing.
        self._thread = threading.Thread(target=self._push, args=arguments, name="push", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the push that is under way, and clear up."""
        if self._thread is not None:
            self._thread.join()
        self.clear()

    def clear(self) -> None:
        """Remove the copy that is pushed, also where a push is under way that nobody waits for."""
        shutil.rmtree(self._stage, ignore_errors=True)

    def _push(self, step: int, steps: int, validation: dict[str, float] | None) -> None:
        try:
            with reaching_the_hub(self.run, self.destination):
                is_first = self._repository is None
                if self._repository is None:
                    self._repository = Repository.open(repository_id(self.run.root, self.destination), self.destination)
                head = self._repository.look()
                if is_first:
                    self.replaced = self._repository.stated(head)
                    _warn(self._repository, self.replaced)
                content = self._content(self._repository, step, steps, validation)
                self._repository.commit(head, content, f"Training in progress, step {step}")
        except UserError as error:
            reason = str(error).partition(" Nothing of the run is lost")[0].rstrip(".")
            print(f"warning: step {step}: {reason}. Training goes on", file=sys.stderr)

    def _content(
        self, repository: Repository, step: int, steps: int, validation: dict[str, float] | None
    ) -> dict[str, Path | bytes]:
        checkpoint, model = self._stage / "checkpoint", self._stage / "model"
        state = checkpoint / "trainer_state.json"  # holds the path of the best checkpoint
        facts = as_json(public(read_object(state)))
        state.unlink()  # the link, never what it links to
        state.write_bytes(facts)
        mark_complete(checkpoint)
        model.mkdir(exist_ok=True)
        self.save_processor(model)
        weights = {name: path for name, path in model_files(checkpoint).items() if _is_of_a_model(name)}
        card = training_card_text(
            self.run.root,
            repo_id=repository.repo_id,
            step=step,
            steps=steps,
            validation=validation,
            revision=self.destination.revision,
        )
        content: dict[str, Path | bytes] = {
            **model_files(model),
            **weights,
            "README.md": card.encode(),
            "recipe.json": as_json(public(read_object(self.run.recipe))),
            "environment.json": environment_content(self.run),
        }
        if self.save == "every_save":
            return content
        folder = LAST_CHECKPOINT if self.save == "checkpoint" else f"checkpoint-{step}"
        files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != "training_args.bin")
        return content | {f"{folder}/{path.relative_to(checkpoint).as_posix()}": path for path in files}


def _warn(repository: Repository, there: Stated | None) -> None:
    """Say what the first push of a training replaces."""
    if there is not None:
        print(
            f"warning: {repository.repo_id} holds a model with {there.headline.name} {there.value:.4f} on {there.where}; the "
            f"models of this training replace it from now on. The other stays at revision {there.commit}",
            file=sys.stderr,
        )


def _is_of_a_model(name: str) -> bool:
    return name == "config.json" or (name.startswith("model") and ".safetensors" in name)


def _copy_by_links(source: Path, target: Path) -> None:
    """Copy a folder without copying its bytes, where the file system permits."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    shutil.copytree(source, target, copy_function=link)
