"""Small slips in a function, one at a time: what a check of it must notice."""

import ast
from collections.abc import Iterator
from copy import deepcopy

WORDING = "the wording of the error is the learner's"
"""Why no check notices a slip in the text of an error."""
SWAPS: dict[type, tuple[type, ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Mult,),
    ast.Div: (ast.Mult,),
}
SIMPLE = (ast.Assign, ast.AugAssign, ast.Expr, ast.Return, ast.Raise, ast.Continue, ast.Break)


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """(what was changed, the changed source) for each slip in the bodies of the functions in `source`."""
    for place, node in enumerate(_inside(ast.parse(source))):
        for number in range(len(_changes(node))):
            tree = ast.parse(source)
            changed = _inside(tree)[place]
            before = ast.unparse(changed)
            _changes(changed)[number]()
            after = ast.unparse(ast.fix_missing_locations(changed))
            yield f"{node.lineno}:{node.col_offset} {before} → {after}", ast.unparse(tree)


def _inside(tree: ast.AST) -> list[ast.AST]:
    """The nodes of the functions' bodies, docstrings left out."""
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            nested = (ast.FunctionDef,)  # walked for themselves
            statements = [statement for statement in body if not isinstance(statement, nested)]
            found += [node for each in statements for node in ast.walk(each) if hasattr(node, "lineno")]
    return found


def _changes(node: ast.AST) -> list:
    """What can be done to a node, as calls that do it in place."""
    found = []
    if isinstance(node, ast.Compare):
        found += [lambda swap=swap: node.ops.__setitem__(0, swap()) for swap in SWAPS[type(node.ops[0])]]
    elif isinstance(node, ast.BoolOp | ast.BinOp):
        found += [lambda swap=swap: setattr(node, "op", swap()) for swap in SWAPS.get(type(node.op), ())]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        found += [lambda: setattr(node, "operand", ast.UnaryOp(ast.Not(), deepcopy(node.operand)))]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        found += [lambda: setattr(node, "value", not node.value)]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        found += [lambda step=step: setattr(node, "value", node.value + step) for step in (1, -1)]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        found += [lambda: setattr(node, "value", f"{node.value}X")]
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        found += [lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))]
    if isinstance(node, SIMPLE):
        found += [lambda: _become_pass(node)]
    return found


def _become_pass(node: ast.AST) -> None:
    node.__class__ = ast.Pass
    node._fields = ()
