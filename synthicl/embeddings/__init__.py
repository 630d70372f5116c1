"""Real images through a frozen backbone: computed once, kept on disk, labelled."""
