"""Commands of the command line besides run, show and plugins; each module has a ``typer.Typer``."""
