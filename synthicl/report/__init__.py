"""From rows of results to tables, cards and figures."""
