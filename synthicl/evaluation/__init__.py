"""Evaluation protocols: from context sets and probes to rows of results."""
