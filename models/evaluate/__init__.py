"""Evaluation of packs with Bellis: depth, compute and quality on held-out audio."""
