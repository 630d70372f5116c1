"""Backbone families: each module states its models in ``REGISTERED`` and imports torch only inside functions."""
