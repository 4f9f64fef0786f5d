"""Trains the bundled packs: fetch → prepare → teach → train → calibrate → export → evaluate. models/README.md describes the steps."""
