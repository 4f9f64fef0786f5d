"""Trains the packs that ship: fetch → prepare → teach → train → calibrate → export → evaluate. models/README.md walks through it."""
