"""Labelled image datasets: how they are found on disk, split and read."""
