"""What is asked of context sets: a study is a folder here, with what it computes and what it shows."""
