"""Kinds of small change: where a module has them, and the module's text with one of them made.  Writes no file.

Python: operators of cosmic-ray, and more of them below for what it lacks; C: rules of universalmutator, in c.rules.
Left out is what alters no behaviour: annotations, the texts of messages, what only a type checker reads.
"""

import ast
import contextlib
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.boolean_replacer import AddNot
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.tree import NodeOrLeaf
from universalmutator.mutator import mutants_regexp

RULES = Path(__file__).with_name("c.rules")

COMPARISONS = ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")
ARITHMETIC = (
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul"),
    *("BitAnd_BitOr", "BitOr_BitAnd", "LShift_RShift", "RShift_LShift"),
)
OTHERS = (
    *("ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_USub_UAdd", "NumberReplacer"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop"),
)


def code_of(node: NodeOrLeaf) -> str:
    """A node's text without the space before it."""
    return node.get_code(include_prefix=False)


class Rewrite(Operator):
    """Puts another text in a node's place; `examples` are what `check` tries."""

    cases: tuple[tuple[str, str], ...]

    def texts(self, node: NodeOrLeaf) -> list[str]:
        """What may take the place of `node`; nothing, if it is of no interest."""
        raise NotImplementedError

    def mutation_positions(self, node):
        """One position for each text, as cosmic-ray wants them."""
        return [(node.start_pos, node.end_pos)] * len(self.texts(node))

    def mutate(self, node, index):
        """The node that takes its place."""
        return parso.parse(node.get_first_leaf().prefix + self.texts(node)[index])

    @classmethod
    def examples(cls):
        """The first change of each case."""
        return tuple(Example(before, after) for before, after in cls.cases)


class DropStatement(Rewrite):
    """Calls, raises, returns, jumps and deletions are left out, and assignments to what outlives the function."""

    cases = (
        ("f(1)\n", "pass\n"),
        ("if x:\n    raise E\n", "if x:\n    pass\n"),
        ("def f():\n    return 1\n", "def f():\n    pass\n"),
        ("for x in y:\n    break\n", "for x in y:\n    pass\n"),
        ("self.x = 1\n", "pass\n"),
        ("x += 1\n", "pass\n"),
        ("del x\n", "pass\n"),
        ("x = 1\n", "x = 1\n"),
        ("def __init__(self):\n    self.x = 1\n", "def __init__(self):\n    self.x = 1\n"),
        ("'text'\n", "'text'\n"),
    )

    def texts(self, node):
        if node.parent is None or node.parent.type != "simple_stmt":
            return []
        if node.type == "expr_stmt":
            # A name that is never bound fails at once: nothing to be learnt.
            target, sign = node.children[:2]
            function = node.search_ancestor("funcdef")
            first = function is not None and function.name.value == "__init__"
            lasting = target.type not in ("name", "testlist_star_expr") and not first
            dropped = sign.type != "annassign" and (lasting or sign.value != "=")
        elif node.type == "keyword":
            dropped = node.value in ("raise", "return", "break", "continue")
        else:
            dropped = node.type in ("atom_expr", "raise_stmt", "return_stmt", "del_stmt")
        return ["pass"] if dropped else []


class DropWith(Rewrite):
    """What a block is done under, such as a lock, is left out."""

    cases = (("with a:\n    f()\n", "if True:\n    f()\n"), ("with a as b:\n    c\n", "with a as b:\n    c\n"))

    def texts(self, node):
        if node.type != "with_stmt" or node.children[2] != ":" or node.children[1].type == "with_item":
            return []
        return ["if True:" + node.children[-1].get_code()]


class NarrowExcept(Rewrite):
    """A class of exceptions is no longer caught."""

    cases = (
        ("try: f()\nexcept E: pass\n", "try: f()\nexcept (): pass\n"),
        ("try: f()\nexcept (E, a.F) as e: pass\n", "try: f()\nexcept (a.F,) as e: pass\n"),
    )

    def texts(self, node):
        if node.type != "except_clause":
            return []
        caught, rest = node.children[1], "".join(child.get_code() for child in node.children[2:])
        if caught.type != "atom":
            return [f"except (){rest}"]
        classes = [code_of(child) for child in caught.children[1].children[::2]]
        others = [[*classes[:index], *classes[index + 1 :]] for index in range(len(classes))]
        return [f"except ({', '.join(kept)},){rest}" for kept in others]


class DropArgument(Rewrite):
    """An argument with a name is not given."""

    cases = (("f(a, b=1)\n", "f(a)\n"), ("f(b=1)\n", "f()\n"), ("f(a)\n", "f(a)\n"))

    def texts(self, node):
        if node.type != "trailer" or node.children[0] != "(":
            return []
        inner = node.children[1]
        arguments = inner.children[::2] if inner.type == "arglist" else [inner]
        named = [each for each in arguments if each.type == "argument" and each.children[1] == "="]
        return [f"({', '.join(code_of(each) for each in arguments if each is not left)})" for left in named]


class DropOrder(Rewrite):
    """Nothing is sorted, or turned round."""

    cases = (("sorted(a, key=f)\n", "list(a)\n"), ("x = reversed(a)\n", "x = list(a)\n"))

    def texts(self, node):
        if node.type != "atom_expr" or code_of(node.children[0]) not in ("sorted", "reversed"):
            return []
        inner = node.children[1].children[1]
        kept = inner.children[0] if inner.type == "arglist" else inner
        return [f"list({code_of(kept)}){''.join(child.get_code() for child in node.children[2:])}"]


class Exchange(Rewrite):
    """The opposite function or relation."""

    pairs = (("min", "max"), ("any", "all"), ("in", "not in"))
    cases = (
        ("max(a)\n", "min(a)\n"),
        ("a in b\n", "a not in b\n"),
        ("a not in b\n", "a in b\n"),
        ("for a in b: pass\n", "for a in b: pass\n"),
    )

    def texts(self, node):
        called = node.type == "name" and node.parent.type == "atom_expr" and node.parent.children[0] is node
        related = node.type in ("keyword", "comp_op") and node.parent is not None and node.parent.type == "comparison"
        words = " ".join(code_of(node).split()) if called or related else ""
        return [there for pair in self.pairs for here, there in (pair, pair[::-1]) if here == words]


class Negate(AddNot):
    """The opposite of a condition that no other kind turns round."""

    def mutation_positions(self, node):
        """As cosmic-ray has them."""
        positions = list(super().mutation_positions(node))
        turned = positions and node.children[2 if node.type == "test" else 1].type in ("comparison", "not_test")
        return [] if turned else positions


OWN = (DropStatement, DropWith, NarrowExcept, DropArgument, DropOrder, Exchange)
OPERATORS = (
    *(OperatorProvider()[f"ReplaceComparisonOperator_{name}"] for name in COMPARISONS),
    *(OperatorProvider()[f"ReplaceBinaryOperator_{name}"] for name in ARITHMETIC),
    *(OperatorProvider()[name] for name in OTHERS),
    Negate,
    *OWN,
)


def check() -> None:
    """Whether each kind of our own does what its cases say; an AssertionError if not."""
    for kind in OWN:
        for before, after in kind.cases:
            made = mutate_code(before, kind(), 0) or before
            assert made == after, f"{kind.__name__}: {before!r} became {made!r} instead of {after!r}"


def changes_of(module: str, text: str) -> list[Callable[[], str]]:
    """Each makes one change to `text` and returns the whole; it may turn out to be none, or not to be a program."""
    return list(_of_python(text) if module.endswith(".py") else _of_c(text))


def _of_c(text: str) -> Iterator[Callable[[], str]]:
    lines = text.splitlines(keepends=True)
    # It says which rules it uses.
    with contextlib.redirect_stdout(io.StringIO()):
        found = mutants_regexp(lines, [str(RULES)], ignorePatterns=[], ignoreStringOnly=True)
    for number, line, *_ in found:
        yield partial("".join, [*lines[: number - 1], line, *lines[number:]])


def _of_python(text: str) -> Iterator[Callable[[], str]]:
    tree, silent = parso.parse(text), list(_silent(text))
    for kind in OPERATORS:
        occurrence = -1
        for node in ast_nodes(tree):
            # The * or / between parameters.
            sign = node.type == "operator" and node.parent.type in ("parameters", "param", "lambdef")
            for index, (start, end) in enumerate(kind().mutation_positions(node)):
                occurrence += 1
                # A number has two changes, one up and one down.
                twice = index and kind.__name__ == "NumberReplacer"
                if not twice and not sign and not any(a <= start and end <= b for a, b in silent):
                    yield partial(mutate_code, text, kind(), occurrence)


def _silent(text: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where changes alter no behaviour: from and to, as line from 1 and column from 0."""
    lines = text.splitlines()

    def place(line: int, column_bytes: int) -> tuple[int, int]:
        return line, len(lines[line - 1].encode()[:column_bytes].decode())

    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.arg() | ast.AnnAssign():
                part = node.annotation
            case ast.FunctionDef(decorator_list=[ast.Name("overload")]) | ast.JoinedStr():
                part = node
            case ast.If(test=ast.Name("TYPE_CHECKING")) | ast.Assign(targets=[ast.Name("__all__")]):
                part = node
            case ast.FunctionDef():
                part = node.returns
            case _:
                part = None
        if part is not None:
            yield place(part.lineno, part.col_offset), place(part.end_lineno, part.end_col_offset)
