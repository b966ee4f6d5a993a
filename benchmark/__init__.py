"""Scores in, claims out."""
