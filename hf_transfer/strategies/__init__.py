"""Strategies: how a backbone is adapted, as data."""
