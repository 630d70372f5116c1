"""Lightning callbacks: TabICL on held-out embeddings, pictures, what a run costs, the artefact at the end."""
