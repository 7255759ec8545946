"""Shadow evaluations: the results of a candidate and of the primary system, and whether they diverge."""
