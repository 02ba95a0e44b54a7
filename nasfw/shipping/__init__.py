"""Networks of a run as files that work without nasfw."""
