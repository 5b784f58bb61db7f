"""Full-text search of the results, in a database of its own beside theirs (docs/search.md)."""
