"""What every room uses: errors, files, randomness, memory, devices, statistics. Knows nothing of images or TabICL."""
