"""`make eval-cache`: what the semantic cache hits, what it hits wrongly, and how long it looks."""
