"""Classifiers fitted on a context set and scored on embeddings they have not seen.

A probe is one file here that puts a `Probe` factory into ``REGISTERED``.
"""
