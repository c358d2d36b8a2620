# SPDX-License-Identifier: Apache-2.0
"""What may be scored by each data set of reasoning-gym: every scorer was read, and no other one is called.

Scorers of nine data sets evaluate the answer (``eval``, sympy's ``parse_expr``). They see only answers of a small
grammar of their own: a syntax tree of nothing but the nodes, names and sizes listed here. No other text reaches them.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

MAX_LENGTH = 4_000  # of an answer that is evaluated
MAX_NESTING = 40
MAX_DIGITS = 40
MAX_EXPONENT = 1_000  # also of powers of powers together

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """How answers of a data set are treated.

    Attributes:
        accepts: whether the answer may be scored; what it refuses is wrong.
        evaluates: the scorer evaluates the answer, so it runs confined.
        reference: None if the entry can be scored against, else why not. Some scorers evaluate parts of the entry.
    """

    accepts: Callable[[str, Entry], bool] = field(default=lambda answer, entry: True)
    evaluates: bool = False
    reference: Callable[[Entry], str | None] = field(default=lambda entry: None)


def arithmetic(text: str) -> bool:
    """Numbers, ``+ - * /`` and brackets."""
    return bool(re.fullmatch(r"[\d+\-*/() ]+", text, re.ASCII)) and _expression(
        text, frozenset(), frozenset(), powers=False
    )


def value(text: str) -> Fraction | None:
    """What a text of arithmetic amounts to, exactly; None for none, also for a division by zero."""

    def of(node: ast.AST) -> Fraction:
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                return _OPERATIONS[type(op)](of(left), of(right))
            case ast.UnaryOp(op=op, operand=operand):
                return -of(operand) if isinstance(op, ast.USub) else of(operand)
            case ast.Constant(value=int() as number):
                return Fraction(number)
        raise ValueError(ast.dump(node))

    try:
        return of(ast.parse(text.strip(), mode="eval").body) if arithmetic(text) else None
    except ZeroDivisionError:
        return None


def formula(text: str, names: frozenset[str], functions: frozenset[str]) -> bool:
    """Arithmetic with powers, these names, and calls of these functions with one argument."""
    characters = re.fullmatch(r"[\w.,+\-*/() ]+", text, re.ASCII) and not re.search(r"[eE][+-]?\d{3}", text)
    return bool(characters) and _expression(text, names, functions, powers=True)


def literal(text: str, strings: str) -> bool:
    """A list or tuple of such, of integers, and of strings that match the pattern ``strings``."""
    tree = _tree(text)
    return isinstance(tree, ast.List | ast.Tuple) and _is_literal(tree, re.compile(strings, re.ASCII))


def _is_literal(node: ast.AST, strings: re.Pattern[str]) -> bool:
    match node:
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return all(_is_literal(part, strings) for part in parts)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)):
            return type(value) is int
        case ast.Constant(value=value):
            return type(value) is int or (type(value) is str and bool(strings.fullmatch(value)))
    return False


def _tree(text: str) -> ast.expr | None:
    """Python's syntax tree of an expression, None if it is none or too large to be one of an answer."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    # Numbers in other notations, and runs of signs, nest without brackets.
    if len(text) > MAX_LENGTH or deepest > MAX_NESTING or re.search(rf"\d{{{MAX_DIGITS + 1}}}|\d_|[-+~\s]{{20}}", text):
        return None
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _expression(text: str, names: frozenset[str], functions: frozenset[str], powers: bool) -> bool:
    def allowed(node: ast.AST, raised: float) -> bool:
        match node:
            case ast.BinOp(left=base, op=ast.Pow(), right=exponent) if powers:
                size = _exponent(exponent)
                if size is None:  # of names: nothing is computed
                    return allowed(base, raised) and allowed(exponent, raised)
                return raised * size <= MAX_EXPONENT and allowed(base, raised * max(size, 1.0))
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
                return allowed(left, raised) and allowed(right, raised)
            case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
                return allowed(operand, raised)
            case ast.Constant(value=value):
                return type(value) is int or (type(value) is float and (value == 0 or 1e-30 < value < 1e30))
            case ast.Name(id=name):
                return name in names
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
                return name in functions and allowed(argument, raised)
            case ast.Call(func=ast.Name(id="Integral"), args=[argument, ast.Name(id=name)], keywords=[]):
                return "Integral" in functions and name in names and allowed(argument, raised)
        return False

    tree = _tree(text)
    try:
        return tree is not None and allowed(tree, 1.0)
    except RecursionError:  # a sum of thousands of terms is as deep as it is long
        return False


def _exponent(node: ast.AST) -> float | None:
    """Size of an exponent that is a number; infinite if it would have to be computed; None if it has names."""
    if any(isinstance(part, ast.Name) for part in ast.walk(node)):
        return None
    match node:
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _exponent(operand)
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.BinOp(left=ast.Constant(value=int() as value), op=ast.Div(), right=ast.Constant(value=int())):
            return float(value)
    return float("inf")


_OPERATIONS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS = frozenset(
    "exp log ln sqrt sin cos tan cot sec csc asin acos atan acot asec acsc sinh cosh tanh coth asinh acosh atanh "
    "Abs sign".split()
)


def _countdown(answer: str, entry: Entry) -> bool:
    """Not what misses the target by a rounding error: its scorer takes 900.008 for 900."""
    found, target = value(answer), Fraction(str(entry["metadata"]["target"]))
    if found is None:
        return arithmetic(answer)
    return found == target or abs(found - target) > abs(target) / 10_000 + Fraction(1, 10_000)


def _makes_24(answer: str, entry: Entry) -> bool:
    """With the numbers of the task, exactly: its scorer takes any four numbers and rounds."""
    numbers = sorted(map(int, re.findall(r"\d+", answer, re.ASCII)))
    return value(answer) == 24 and numbers == sorted(entry["metadata"]["numbers"])


def _integral(answer: str, entry: Entry) -> bool:
    variable = str(entry["metadata"]["variable"])
    names, functions = frozenset({variable, "C", "pi", "E"}), _FUNCTIONS
    if answer.strip() == str(entry.get("answer")).strip():
        # sympy could not solve some of the problems. From a response, the question would be its own answer.
        functions |= {"Integral"}
    return formula(answer, names, functions)


def _integrand(entry: Entry) -> str | None:
    metadata = entry["metadata"]
    variable = metadata.get("variable")
    if not isinstance(variable, str) or not re.fullmatch(r"[A-Za-z]", variable):
        return f"metadata.variable={variable!r} is not one letter"
    if not formula(str(metadata.get("integrand")), frozenset({variable, "pi", "E"}), _FUNCTIONS):
        return f"metadata.integrand={metadata.get('integrand')!r} is not a formula in {variable}"
    return None


def _polynomial(answer: str, entry: Entry) -> bool:
    # Names that are not letters of the task's own are sympy's: S, N, Q, O, E, I.
    names = frozenset(name for name in entry["metadata"]["variables"] if re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII))
    return formula(answer, names, frozenset())


def _own_polynomial(entry: Entry) -> str | None:
    variables = entry["metadata"].get("variables")
    if not isinstance(variables, list) or not all(isinstance(name, str) for name in variables):
        return f"metadata.variables={variables!r} is not a list of names"
    return None if _polynomial(str(entry["answer"]), entry) else f"answer={entry['answer']!r} is not a polynomial"


def _bitwise(entry: Entry) -> str | None:
    problem = str(entry["metadata"].get("problem"))
    if re.fullmatch(r"(?:0x[0-9a-f]{1,40}|\d{1,40}|[()+\-*&|^~ ]|<<|>>)+", problem, re.ASCII) and "**" not in problem:
        return None
    return f"metadata.problem={problem!r} is not bit arithmetic"


def _numbers(entry: Entry) -> str | None:
    answer = str(entry["answer"])
    return None if literal(answer, r"-?\d+(\.\d+)?(e-?\d+)?") else f"answer={answer!r} is not a list of numbers"


def _finite(answer: str, entry: Entry) -> bool:
    """No NaN, which compares as a right number with some scorers."""
    return not re.search("nan|inf", answer, re.IGNORECASE)


_PLAIN = """
ab acre advanced_geometry aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation boxnet
caesar_cipher calendar_arithmetic chain_sum circuit_logic codeio coin_flip color_cube_rotation count_bits
count_primes course_schedule cryptarithm decimal_arithmetic decimal_chain_sum dice emoji_mystery
family_relationships figlet_font fraction_simplification futoshiki game_of_life gcd graph_color group_anagrams
gsm_symbolic isomorphic_strings jugs kakurasu knight_swap knights_knaves largest_island lcm leg_counting
letter_counting letter_jumble list_functions mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid
needle_haystack number_filtering number_format number_sequence palindrome_generation palindrome_partitioning
path_star polynomial_equations pool_matrix power_function prime_factorization products propositional_logic
quantum_lock ransom_note rearc rectangle_count rotate_matrix rotten_oranges rubiks_cube rush_hour self_reference
sentence_reordering shortest_path simple_equations simple_geometry sokoban spell_backward string_manipulation
string_splitting string_synthesis sudoku survo syllogism time_intervals tower_of_hanoi tsumego word_ladder
word_sequence_reversal word_sorting zebra_puzzles
""".split()


def _plain_or_list(plain: str, strings: str) -> Rule:
    """The scorer compares the text, and evaluates what differs, in case it is a list."""
    pattern = re.compile(plain, re.ASCII)
    return Rule(lambda answer, entry: bool(pattern.fullmatch(answer)) or literal(answer, strings), evaluates=True)


RULES: dict[str, Rule] = {
    **dict.fromkeys(_PLAIN, Rule()),
    # bool() of the text "False" is true: any answer would be right.
    "game_of_life_halting": Rule(lambda answer, entry: answer.strip().lower() == str(entry["answer"]).lower()),
    "complex_arithmetic": Rule(_finite),
    "number_sorting": Rule(_finite, reference=_numbers),
    "bitwise_arithmetic": Rule(reference=_bitwise),
    "countdown": Rule(_countdown, evaluates=True),
    "puzzle24": Rule(_makes_24, evaluates=True),
    "simple_integration": Rule(_integral, evaluates=True, reference=_integrand),
    "intermediate_integration": Rule(_integral, evaluates=True, reference=_integrand),
    "polynomial_multiplication": Rule(_polynomial, evaluates=True, reference=_own_polynomial),
    "binary_matrix": _plain_or_list(r"[\d\s]+", ""),
    "spiral_matrix": _plain_or_list(r"[\d\s]+", ""),
    "n_queens": _plain_or_list(r"[Q_\s]+", "[Q_]"),
    "string_insertion": _plain_or_list(r"[A-E]+", "[A-E]*"),
}
