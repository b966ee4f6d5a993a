"""Recipes of `wavbench pretrain`."""
