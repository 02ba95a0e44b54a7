"""``python -m nasfw`` is the command ``nasfw``."""

from importlib import import_module

if __name__ == "__main__":
    # By name, because no module of the package depends on the command line.
    import_module("nasfw.cli").main()
