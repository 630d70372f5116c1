"""The optimisation of the synthetic images: the LightningModule and what it wires."""
