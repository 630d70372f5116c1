"""Context sets made of real data: what a synthetic context set is compared with.

A builder is one file here that puts a function into ``REGISTERED``: ``build(z, y, ipc, seed) -> Coreset``, from the
clean training embeddings z (N, D) and their labels y (N,). Builders see training data only.
"""
