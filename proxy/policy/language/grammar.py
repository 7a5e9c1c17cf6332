"""Parses text into a syntax tree: the grammar of expressions, and the messages for text that does not match it."""

from __future__ import annotations

import functools
import re

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

from proxy.policy.language.errors import ExpressionError
from proxy.policy.language.tree import (
    MAX_CHARACTERS,
    Call,
    Comparison,
    Literal,
    Logic,
    Membership,
    Node,
    Not,
    Path,
    Range,
    Spot,
)
from proxy.settings import suggest

MAX_DEPTH = 64  # of parentheses, `not` and calls

# Loosest binding first: or, xor, and, not (Cloudflare Rules language, operator precedence).
GRAMMAR = r"""
?start: disjunction
?disjunction: exclusive (_OR exclusive)*
?exclusive: conjunction (_XOR conjunction)*
?conjunction: negation (_AND negation)*
?negation: NOT negation -> inverse
         | test
?test: operand OP operand -> comparison
     | operand IN "{" item* "}" -> member
     | operand IN LIST -> member_of_list
     | operand
     | "(" disjunction ")" -> group
?operand: literal | path | call
call: NAME "(" [disjunction ("," disjunction)*] ")"
path: NAME step*
step: "[" "*" "]" -> each
    | "[" (STRING | RAW) "]" -> key
    | "[" NUMBER "]" -> index
    | SUFFIX -> suffix
item: literal | literal ".." literal
literal: STRING | RAW | ADDRESS | NUMBER | FLAG

_OR.2: /or(?![\w.])|\|\|/
_XOR.2: /xor(?![\w.])|\^\^/
_AND.2: /and(?![\w.])|&&/
NOT.2: /not(?![\w.])|!(?!=)/
IN.2: /in(?![\w.])/
OP.2: /==|!=|<=|>=|<|>|~|(?:eq|ne|le|lt|ge|gt|contains|matches|wildcard|strict\s+wildcard)(?![\w.])/
FLAG.2: /(?:true|false)(?![\w.])/
NAME: /[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*/
SUFFIX: /\.[A-Za-z_]\w*/
RAW.3: /r"[^"]*"|r#"(?:(?!"#)[\s\S])*"#|r##"(?:(?!"##)[\s\S])*"##/
STRING: /"(?:[^"\\]|\\[\s\S])*"/
ADDRESS.3: /(?:(?:[0-9A-Fa-f:]*:)?\d+\.\d+\.\d+\.\d+|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*)(?:\/\d+)?/
NUMBER.2: /-?\d+(?:\.\d+)?/
LIST: /\$[A-Za-z_][\w.-]*/
%ignore /\s+/
"""

SYMBOLS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "~": "matches"}
WORDS = (
    "and", "or", "xor", "not", "in", "eq", "ne", "lt", "le", "gt", "ge", "contains", "matches", "wildcard",
)  # fmt: skip
_GROUPS = {  # descriptions in messages
    "a condition": {"NOT", "NAME", "LPAR", "FLAG", "RAW", "STRING", "ADDRESS", "NUMBER"},
    "a field or a value": {"NAME", "FLAG", "RAW", "STRING", "ADDRESS", "NUMBER"},
    "a value": {"FLAG", "RAW", "STRING", "ADDRESS", "NUMBER"},
    "a key in quotes": {"RAW", "STRING"},
}
_LOGIC = {"disjunction": "or", "exclusive": "xor", "conjunction": "and"}
_EXPECTED = {
    "_OR": "'or'", "_XOR": "'xor'", "_AND": "'and'", "NOT": "'not'", "IN": "'in'", "OP": "a comparison such as '=='",
    "FLAG": "'true' or 'false'", "NAME": "a field", "SUFFIX": "'.name'", "RAW": "a text", "STRING": "a text",
    "ADDRESS": "an address", "NUMBER": "a number", "LIST": "a list such as '$office'", "LPAR": "'('", "RPAR": "')'",
    "LBRACE": "'{'", "RBRACE": "'}'", "LSQB": "'['", "RSQB": "']'", "STAR": "'*'", "COMMA": "','", "__ANON_0": "'..'",
    "$END": "the end",
}  # fmt: skip
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{2}|[\s\S])")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"'}


def parse(text: str) -> Node:
    """The tree of an expression. ExpressionError: the position of the first error, and what was expected there."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"longer than {MAX_CHARACTERS:,} characters ({len(text):,})")
    if not text.strip():
        raise ExpressionError("an expression is expected (found nothing)")
    try:
        tree = _parser().parse(text)
    except UnexpectedCharacters as error:
        raise _bad_character(text, error) from None
    except UnexpectedEOF as error:
        raise ExpressionError(f"{_wanted(set(error.expected))} (found the end)", *_end(text)) from None
    except UnexpectedToken as error:
        raise _unexpected(text, error) from None
    return _Reader().node(tree, 0)


@functools.cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", lexer="contextual", propagate_positions=True, maybe_placeholders=False)


class _Reader:
    """Turns Lark's tree into ours."""

    def node(self, tree: Tree[Token] | Token, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"nested more than {MAX_DEPTH} deep", *_spot(tree))
        assert isinstance(tree, Tree)
        at, kind, parts = _spot(tree), str(tree.data), tree.children
        if word := _LOGIC.get(kind):
            return Logic(at, word, tuple(self.node(part, depth + 1) for part in parts))
        if kind == "group":
            return self.node(parts[0], depth + 1)
        if kind == "inverse":
            return Not(at, self.node(parts[1], depth + 1))
        if kind == "literal":
            return _literal(parts[0])
        if kind == "path":
            return _path(at, parts)
        if kind == "call":
            return Call(at, str(parts[0]), tuple(self.node(part, depth + 1) for part in parts[1:]))
        left = self.node(parts[0], depth + 1)
        if kind == "comparison":
            operator = " ".join(str(parts[1]).split())
            right = self.node(parts[2], depth + 1)
            return Comparison(at, SYMBOLS.get(operator, operator), _spot(parts[1]), left, right)
        if kind == "member_of_list":
            return Membership(at, left, list_name=str(parts[2])[1:], list_at=_spot(parts[2]))
        return Membership(at, left, tuple(_item(part) for part in parts[2:]))


def _item(tree: Tree[Token] | Token) -> Literal | Range:
    assert isinstance(tree, Tree)
    values = [_literal(part.children[0]) for part in tree.children if isinstance(part, Tree)]
    return values[0] if len(values) == 1 else Range(values[0].at, *values)


def _literal(token: Tree[Token] | Token) -> Literal:
    assert isinstance(token, Token)
    at, text = _spot(token), str(token)
    if token.type == "ADDRESS":
        return Literal(at, text, is_address=True)
    if token.type == "NUMBER":
        return Literal(at, float(text) if "." in text else int(text))
    if token.type == "FLAG":
        return Literal(at, text == "true")
    return Literal(at, _text(token))


def _text(token: Token) -> str:
    """The value of a quoted text."""
    text = str(token)
    if text.startswith("r"):
        return text[text.index('"') + 1 : text.rindex('"')]

    def meaning(escape: re.Match[str]) -> str:
        name = escape[1]
        if name.startswith("x") and len(name) == 3:
            return chr(int(name[1:], 16))
        if name not in _ESCAPES:
            message = f"unknown escape '\\{name}': write '\\\\{name}' for a backslash, or a raw text r\"…\""
            raise ExpressionError(message, *_spot(token))
        return _ESCAPES[name]

    return _ESCAPE.sub(meaning, text[1:-1])


def _path(at: Spot, parts: list[Tree[Token] | Token]) -> Path:
    steps: list[str | int | None] = []
    shown = str(parts[0])
    for step in parts[1:]:
        assert isinstance(step, Tree)
        if step.data == "each":
            steps.append(None)
            shown += "[*]"
            continue
        token = step.children[0]
        assert isinstance(token, Token)
        if step.data == "suffix":
            steps.append(str(token))
            shown += str(token)
        elif step.data == "index":
            if not str(token).isdigit():
                raise ExpressionError(f"expected an index from 0 (found {token})", *_spot(token))
            steps.append(int(token))
            shown += f"[{token}]"
        else:
            name = _text(token)
            if name.startswith("."):
                raise ExpressionError(f"a key does not begin with a dot (found {name!r})", *_spot(token))
            steps.append(name)
            shown += f'["{name}"]'
    return Path(at, str(parts[0]), tuple(steps), shown)


def _spot(part: Tree[Token] | Token) -> Spot:
    if isinstance(part, Token):
        return Spot(part.line or 1, part.column or 1, part.start_pos or 0, part.end_pos or 0)
    meta = part.meta
    return Spot(meta.line, meta.column, meta.start_pos, meta.end_pos) if not meta.empty else Spot(1, 1)


def _end(text: str) -> Spot:
    """The position after the last character that is not blank."""
    stripped = text.rstrip()
    return Spot(stripped.count("\n") + 1, len(stripped) - (stripped.rfind("\n") + 1) + 1)


def _wanted(names: set[str]) -> str:
    """A list such as `expected a field or '('`."""
    wanted = []
    for description, group in _GROUPS.items():
        if group <= names:
            wanted.append(description)
            names = names - group
    wanted += sorted({_EXPECTED.get(name, name) for name in names})
    if len(wanted) == 1:
        return f"expected {wanted[0]}"
    return f"expected {', '.join(wanted[:-1])} or {wanted[-1]}"


def _unexpected(text: str, error: UnexpectedToken) -> ExpressionError:
    token = error.token
    expected = set(error.accepts or error.expected or ())
    if token.type == "$END":
        return ExpressionError(f"{_wanted(expected)} (found the end)", *_end(text))
    found = " ".join(str(token).split())  # a quoted text may be of several lines, a message is of one
    near = ""
    if token.type == "NAME" and expected & {"_AND", "_OR", "OP", "IN"}:
        near = suggest(found.lower(), WORDS)
        near = near if "mean" in near else ""
    return ExpressionError(f"{_wanted(expected)} (found '{found[:40]}'){near}", *_spot(token))


def _bad_character(text: str, error: UnexpectedCharacters) -> ExpressionError:
    rest = text[error.pos_in_stream :]
    expected = set(error.allowed or ())
    at = Spot(error.line, error.column)
    hints = {
        '"': "a text that does not end: the closing '\"' is missing",
        "'": "write a text in double quotes",
        "=": "'=' is not a comparison; did you mean '=='?",
        "&": "'&' is not an operator; did you mean '&&'?",
        "|": "'|' is not an operator; did you mean '||'?",
        "^": "'^' is not an operator; did you mean '^^'?",
    }
    if rest[:1] == '"' and not expected & {"STRING", "RAW"}:
        hints.pop('"')
    if message := hints.get(rest[:1]):
        return ExpressionError(message, *at)
    if word := re.match(r"[A-Za-z_][\w.]*", rest):
        near = suggest(word[0].lower(), WORDS) if expected & {"_AND", "_OR", "OP", "IN"} else ""
        near = near if "mean" in near else ""
        return ExpressionError(f"{_wanted(expected)} (found '{word[0][:40]}'){near}", *at)
    return ExpressionError(f"{_wanted(expected)} (found {rest[0]!r})", *at)
