"""Evaluation: inference, predictions file, labels matched by name."""
