"""Context sets made of real data: what a synthetic context set is compared with.

A builder is one file here that puts a function into ``REGISTERED``: ``build(train, ipc, seed) -> Coreset``, from the
clean training embeddings with their labels (`LabelledEmbeddings`). Builders see training data only.
"""
