"""Backbones: one adapter per library, five questions each answers."""
