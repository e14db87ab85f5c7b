"""Explanations: where a model looks, and whether that is true."""
