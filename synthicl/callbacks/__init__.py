"""Lightning callbacks: TabICL on held-out embeddings, pictures, the estimate at the start, the artefact at the end."""
