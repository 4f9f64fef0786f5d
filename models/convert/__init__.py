"""Converts a Hugging Face checkpoint (HuBERT, wav2vec 2.0, WavLM, DistilHuBERT) into a windowed Bellis pack.

    python -m models.convert CHECKPOINT OUT --heads-audio DIR

docs/convert.md explains it. PyTorch is only needed for `pytorch_model.bin` and for the tests.
"""
