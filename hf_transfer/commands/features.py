"""`hf-transfer features`: what is kept of frozen backbones, and removing it."""

from __future__ import annotations

import argparse
import json

from ..errors import UserError, listed


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `features` to the command line."""
    features = commands.add_parser(
        "features", help="list or clear cached features", description="Features of frozen backbones, kept between runs."
    )
    actions = features.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="what is kept, and how much of the disk it takes")
    listing.add_argument("--json", action="store_true", help="print the list as JSON")
    listing.set_defaults(function=_list_features)
    clearing = actions.add_parser("clear", help="remove cached features")
    clearing.add_argument("keys", nargs="*", metavar="KEY", help="a key, or the beginning of one, as 'list' shows them")
    clearing.add_argument("--all", action="store_true", help="remove everything")
    clearing.set_defaults(function=_clear_features)


def _list_features(options: argparse.Namespace) -> int:
    import dataclasses

    from ..features.store import FeatureStore

    store = FeatureStore()
    spaces = store.stored()
    if options.json:
        print(json.dumps([dataclasses.asdict(space) for space in spaces], indent=2))
        return 0
    width = max((len(space.name) for space in spaces), default=0)
    for space in spaces:
        print(
            f"{space.key[:12]}  {space.name:<{width}}  {space.dtype:<9}{space.rows:>10,} features{space.megabytes:>10.1f} MB"
            f"  {space.created[:10]}"
        )
    print(f"{sum(space.megabytes for space in spaces):.1f} MB in {store.root}")
    return 0


def _clear_features(options: argparse.Namespace) -> int:
    from ..features.store import FeatureStore

    store = FeatureStore()
    known = store.keys()
    if options.all == bool(options.keys):
        raise UserError("features clear: expected keys ('hf-transfer features list' shows them), or --all")
    matches = {asked: [key for key in known if key.startswith(asked)] for asked in options.keys}
    unclear = [f"'{asked}' (found {len(found)})" for asked, found in matches.items() if len(found) != 1]
    if unclear:
        raise UserError(
            f"features clear: expected the beginning of exactly one key each; nothing was removed: {listed(unclear)}"
        )
    keys = known if options.all else sorted({found[0] for found in matches.values()})
    store.clear(keys)
    print(f"removed {len(keys)} of {len(known)} from {store.root}")
    return 0
