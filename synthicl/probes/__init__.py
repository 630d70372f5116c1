"""Classifiers fitted on a context set and scored on embeddings they have not seen.

A probe is one file here that puts a factory into ``REGISTERED``: ``make(protocol, model_path, device) -> Probe``, from
TabICL's protocol and checkpoint and the device, which other probes leave aside.
"""
