"""The `hf-transfer` command. Answers `--help` and plain `check` without importing torch."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence

from .access_tokens import without_tokens
from .commands import (
    check,
    compare,
    data,
    demo,
    evaluate,
    explain,
    export,
    features,
    fetch,
    find_lr,
    predict,
    push,
    quantize,
    recipes,
    report,
    run,
    study,
)
from .errors import UserError, message_of
from .termination import STATUS, Terminated

# In the order of --help.
COMMANDS = (
    run,
    compare,
    study,
    fetch,
    data,
    check,
    find_lr,
    recipes,
    features,
    evaluate,
    predict,
    explain,
    report,
    export,
    quantize,
    demo,
    push,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 2 the user's mistake, 1 anything else (with its traceback)."""
    options = _parse(_parser(), arguments)
    return _guarded(options.function, options)


def run_main(arguments: Sequence[str] | None = None) -> int:
    """Run one recipe, as `hf_transfer/run.py` does."""
    parser = argparse.ArgumentParser(prog="run.py", description="Run one recipe.")
    run.add_run_arguments(parser)
    options = _parse(parser, arguments)
    return _guarded(run.run_recipe, options)


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, accepting `key=value` overrides before and after options (argparse takes them in one place only)."""
    options, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(options, "overrides")]
    if unknown:
        parser.error(without_tokens(f"unrecognized arguments: {' '.join(unknown)}"))
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _guarded(function: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    try:
        _refuse_namesake()
        status = function(options)
        sys.stdout.flush()
        return status
    except UserError as error:
        # Under a launcher one process speaks for all.
        if int(os.environ.get("RANK", "0")) == 0 or error.of_this_process:
            print(f"error: {without_tokens(message_of(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        terminated = isinstance(interrupt, Terminated)
        if int(os.environ.get("RANK", "0")) == 0:
            goes_on = "; a run that has begun continues with --resume" if hasattr(options, "resume") else ""
            print(("terminated" if terminated else "interrupted") + goes_on, file=sys.stderr)
        return STATUS if terminated else 130
    except BrokenPipeError:  # whoever reads the output has seen enough, as in `hf-transfer predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that closing it at exit fails no more
        return 1


def _refuse_namesake() -> None:
    """Stop when the other distribution that installs a package called hf_transfer is present: it overwrites our files."""
    try:
        importlib.metadata.distribution("hf_transfer")
    except importlib.metadata.PackageNotFoundError:
        return
    raise UserError(
        "the distribution 'hf_transfer' (a retired download accelerator) is installed beside 'hf-transfer-learning', and both "
        "install a package called hf_transfer. Run: pip uninstall -y hf_transfer && pip install --force-reinstall --no-deps "
        "hf-transfer-learning"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-transfer",
        description="Which pretrained backbone, and which way of adapting it, works best on your images, at what cost.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("hf-transfer-learning")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
