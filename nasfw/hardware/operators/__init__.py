"""What each torch operation is in ONNX: one small function each, found in ``RULES`` by the operation.

Such a function gets the graph, the operation's result as far as shapes go, and the operation's arguments;
it returns the names of the results in the graph. Whatever it does not name as an argument is refused.
A complex tensor is a real one with a last axis of two, so axes are counted from the front.
"""

from nasfw.hardware.operators import elements, layers, pooling, shapes, spectra
from nasfw.hardware.operators.graph import Constant, Graph, Inconvertible, Node, Symbol, empty
from nasfw.hardware.operators.rules import RULES

__all__ = ["RULES", "Constant", "Graph", "Inconvertible", "Node", "Symbol", "empty"]
__all__ += ["elements", "layers", "pooling", "shapes", "spectra"]
