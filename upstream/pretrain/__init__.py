"""Pretraining objectives: one file each, found by its name."""
