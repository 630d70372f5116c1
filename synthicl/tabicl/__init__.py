"""The bridge to TabICL: where its checkpoint lies, and what happens between an embedding and its input."""
