"""Lists of convolutions as fairseq writes them in its settings, without running them."""

import ast

MOST_LAYERS = 100  # alike in a row; more are no model


def layer_list(text: str) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each layer, from the Python expression that fairseq keeps them as.

    Lists, tuples, whole numbers, sums of lists and multiples of a list are understood; nothing is executed.

    Raises:
        ValueError: anything else is in it.
    """

    def value(node: ast.expr):
        match node:
            case ast.Constant(value=int() as number):
                return number
            case ast.List(elts=parts):
                return [value(part) for part in parts]
            case ast.Tuple(elts=parts):
                return tuple(value(part) for part in parts)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=ast.List() as left, op=ast.Mult(), right=ast.Constant(value=int() as times)):
                if times <= MOST_LAYERS:
                    return value(left) * times
        raise ValueError

    try:
        layers = value(ast.parse(text.strip(), mode="eval").body)
        if not layers or any(len(layer) != 3 or min(layer) < 1 for layer in layers):
            raise ValueError
    except (SyntaxError, TypeError, ValueError, AttributeError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} is no list of (channels, kernel, stride)") from None
    return layers
