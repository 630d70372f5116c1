"""Drawing: tables, figures and the page that shows them. What they say comes from the studies."""
