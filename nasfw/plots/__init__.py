"""Pictures of a run, drawn with matplotlib, an optional extra."""
