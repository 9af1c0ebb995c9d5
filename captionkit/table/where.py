"""`--where` and `--recaption-where`: which rows of a table, in the words of SQL's WHERE.

Read by a parser of its own into an Arrow expression. Nothing is handed to a database, so that no condition, whoever
wrote it, can read a file or call a function that is not listed here.

    condition   = all { "or" all }
    all         = one { "and" one }
    one         = "not" one | "(" condition ")" | value test
    test        = ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
                | "is" ["not"] "null" | ["not"] "in" "(" constant { "," constant } ")" | ["not"] "like" 'pattern'
    value       = column | "quoted column" | constant | "length" "(" column ")" | "lower" "(" column ")"
    constant    = 12 | -1.2 | 'text' ('' within stands for ') | true | false
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import date, datetime, timezone
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from captionkit.errors import UsageError

MAX_DEPTH = 50
"""Parentheses and `not`s within each other."""
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])
    |(?P<text>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")+")|(?P<word>[^\W\d]\w*)|(?P<sign><>|<=|>=|==|!=|[=<>(),]))""",
    re.VERBOSE,
)
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne, "<>": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_FUNCTIONS = {"length": "utf8_length", "lower": "utf8_lower"}


class Condition(NamedTuple):
    """Which rows are wanted, and the columns that tell."""

    expression: pc.Expression
    columns: tuple[str, ...]

    def filter(self, rows: pa.Table) -> pa.Table:
        """The rows for which it holds; as in SQL, not those for which it is null."""
        return rows.filter(self.expression)


def parse_where(text: str, schema: pa.Schema, option: str = "--where") -> Condition:
    """Read a condition on rows of this schema.

    Args:
        option: Where the user wrote it, for what is said of mistakes.

    Raises:
        UsageError: it is none, names a column that there is not, or compares what cannot be compared.
    """
    parser = _Parser(text, schema, option)
    condition = Condition(parser.condition(), tuple(dict.fromkeys(parser.columns)))
    if parser.token.kind != "end":
        raise parser.wrong("and, or, or the end")
    try:
        condition.filter(schema.empty_table())
    except pa.ArrowException as err:
        raise UsageError(f"{option} {text}: {' '.join(str(err).split())}") from err
    return condition


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Value(NamedTuple):
    """One side of a comparison. kind: the column's type, None of a constant."""

    expression: Any
    kind: pa.DataType | None
    constant: Any = None


class _Parser:
    def __init__(self, text: str, schema: pa.Schema, option: str) -> None:
        self.text, self.schema, self.option = text, schema, option
        self.columns: list[str] = []
        self._at = 0
        self._depth = 0
        self.token = self._next()

    def _next(self) -> _Token:
        rest = self.text[self._at :]
        if not rest.strip():
            return _Token("end", "", len(self.text))
        match = _TOKEN.match(self.text, self._at)
        if match is None:
            raise UsageError(f"{self.option} {self.text}: not understood from here on: {rest.strip()[:40]}")
        self._at = match.end()
        kind = str(match.lastgroup)
        return _Token(kind, match[kind], match.start(kind))

    def wrong(self, expected: str) -> UsageError:
        actual = self.token.text or "the end"
        return UsageError(
            f"{self.option} {self.text}: {expected} is expected at position {self.token.at + 1}, not {actual}"
        )

    def _take(self, *texts: str) -> str | None:
        """The token, if it is one of these words or signs; then the next one is looked at."""
        text = self.token.text.lower() if self.token.kind in ("word", "sign") else None
        if text not in texts:
            return None
        self.token = self._next()
        return text

    def _need(self, text: str) -> None:
        if self._take(text) is None:
            raise self.wrong(text)

    def condition(self) -> Any:
        condition = self._all()
        while self._take("or"):
            condition = condition | self._all()
        return condition

    def _all(self) -> Any:
        condition = self._one()
        while self._take("and"):
            condition = condition & self._one()
        return condition

    def _one(self) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UsageError(f"{self.option}: more than {MAX_DEPTH} parentheses within each other")
        try:
            if self._take("not"):
                return ~self._one()
            if self._take("("):
                condition = self.condition()
                self._need(")")
                return condition
            return self._test(self._value())
        finally:
            self._depth -= 1

    def _test(self, left: _Value) -> Any:
        sign = self._take(*_COMPARISONS)
        if sign is not None:
            right = self._value()
            if left.kind is None and right.kind is None:
                raise UsageError(f"{self.option} {self.text}: two constants are compared, and no column")
            return _COMPARISONS[sign](self._as(left, right.kind), self._as(right, left.kind))
        if left.kind is None:
            raise self.wrong("a comparison")
        if self._take("is"):
            negated = self._take("not")
            self._need("null")
            return left.expression.is_valid() if negated else left.expression.is_null()
        negated = self._take("not")
        if self._take("in"):
            self._need("(")
            condition = left.expression == self._as(self._constant(), left.kind)
            while self._take(","):
                condition = condition | (left.expression == self._as(self._constant(), left.kind))
            self._need(")")
        elif self._take("like"):
            pattern = self._constant().constant
            if not isinstance(pattern, str):
                raise UsageError(f"{self.option} {self.text}: like needs a pattern in single quotes")
            condition = pc.match_like(left.expression, pattern)
        else:
            raise self.wrong("a comparison, is null, in or like")
        return ~condition if negated else condition

    def _value(self) -> _Value:
        token = self.token
        if token.kind == "quoted":
            self.token = self._next()
            return self._column(token.text[1:-1].replace('""', '"'))
        if token.kind != "word" or token.text.lower() in ("true", "false"):
            return self._constant()
        self.token = self._next()
        name = token.text
        if name.lower() in _FUNCTIONS and self._take("("):
            inner = self._value()
            self._need(")")
            if inner.kind is None or not (pa.types.is_string(inner.kind) or pa.types.is_large_string(inner.kind)):
                raise UsageError(f"{self.option} {self.text}: {name} is of a column of text")
            kind = pa.int32() if name.lower() == "length" else inner.kind
            return _Value(getattr(pc, _FUNCTIONS[name.lower()])(inner.expression), kind)
        return self._column(name)

    def _column(self, name: str) -> _Value:
        if name not in self.schema.names:
            raise UsageError(
                f"{self.option} {self.text}: there is no column {name}; there are: {', '.join(self.schema.names)}. "
                "Text stands in single quotes"
            )
        self.columns.append(name)
        return _Value(pc.field(name), self.schema.field(name).type)

    def _constant(self) -> _Value:
        token = self.token
        value: Any
        if token.kind == "number":
            value = int(token.text) if re.fullmatch(r"[+-]?\d+", token.text) else float(token.text)
        elif token.kind == "text":
            value = token.text[1:-1].replace("''", "'")
        elif token.kind == "word" and token.text.lower() in ("true", "false"):
            value = token.text.lower() == "true"
        else:
            raise self.wrong("a column or a constant")
        self.token = self._next()
        return _Value(None, None, value)

    def _as(self, value: _Value, kind: pa.DataType | None) -> Any:
        """One side of a comparison with a value of this type: a constant becomes a moment where a moment is wanted.

        Raises:
            UsageError: a constant that cannot be one.
        """
        if value.kind is not None:
            return value.expression
        constant = value.constant
        if kind is not None and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            try:
                moment = datetime.fromisoformat(str(constant).replace("Z", "+00:00"))
            except ValueError as err:
                raise UsageError(
                    f"{self.option}: {constant!r} is no moment; write '2026-01-31' or '2026-01-31T12:00'"
                ) from err
            if pa.types.is_date(kind):
                return pc.scalar(pa.scalar(date(moment.year, moment.month, moment.day), kind))
            if moment.tzinfo is None and kind.tz is not None:
                moment = moment.replace(tzinfo=timezone.utc)
            return pc.scalar(pa.scalar(moment, kind))
        if isinstance(constant, int) and abs(constant) >= 2**63:
            raise UsageError(f"{self.option}: {constant} is too large")
        return pc.scalar(constant)
