"""`hf-transfer demo`: a web page that classifies images, or what a Space of the Hub needs for it."""

from __future__ import annotations

import argparse

from ..errors import UserError, require
from .predict import MODEL_HELP, REVISION_HELP


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `demo` to the command line."""
    demo = commands.add_parser(
        "demo", help="a web page that classifies images", description="Serve a page that classifies an image, on this machine."
    )
    demo.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    demo.add_argument("--revision", metavar="REV", help=REVISION_HELP)
    demo.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default 127.0.0.1: this machine)"
    )
    demo.add_argument("--port", type=int, metavar="N", help="by default the first free one from 7860")
    demo.add_argument("--top-k", type=int, default=5, metavar="K", help="how many classes to show (default 5)")
    demo.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ...; by default the accelerator if there is one")
    demo.add_argument("--export", metavar="DIR", help="serve nothing; write what a Space of the Hub needs into a new folder")
    demo.set_defaults(function=_demo)


def _demo(options: argparse.Namespace) -> int:
    _check(options)
    require("gradio", "demo-ui", "the demo page")
    from ..deploy.demo import about, build_demo, check_space, export_space, serve
    from ..deploy.destination import expanded
    from ..deploy.predict import Classifier, choose_device, load_model
    from ..evaluation.labels import model_class_names

    space = expanded(options.export) if options.export else None
    if space:
        check_space(space)
    device = choose_device(options.device)
    backbone = load_model(options.model, options.revision)
    what = about(options.model, model_class_names(backbone.model.config))
    if space:
        export_space(backbone, what, space, top_k=options.top_k)
        print(f"{options.export}: a Space, ready to be pushed (hf upload OWNER/NAME {options.export} --repo-type space)")
        return 0
    page = build_demo(Classifier(backbone, device=device), what, top_k=options.top_k)
    address = serve(page, host=options.host, port=options.port)
    print(f"{what.title}: {address} (stop with Ctrl-C)", flush=True)
    page.block_thread()
    return 0


def _check(options: argparse.Namespace) -> None:
    wrong = [] if options.top_k >= 1 else [f"--top-k: expected 1 or more, found {options.top_k}"]
    if options.port is not None and not 1 <= options.port <= 65535:
        wrong.append(f"--port: expected a number from 1 to 65535, found {options.port}")
    if wrong:
        raise UserError("\n".join(wrong))
