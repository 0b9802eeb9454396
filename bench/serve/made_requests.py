"""Requests made by chance from a JSON schema: most parts fit it, and some are damaged."""

import json
import random
from typing import Any

NAMES = ("movie", "movie@1", "tiny:spam", "topics", "names", "stars", "pair", "summary", "talk", "tiny", "none", "../x")
ODD: tuple[Any, ...] = (None, True, -1, 0, 1, 1e308, 10**30, "", "\x00", "\ud800", [], {}, [[]], {"": None}, "9" * 999)


class Makes:
    """Makes values.

    Args:
        schemas: that others refer to, by name.
        chance: decides.
    """

    def __init__(self, schemas: dict[str, Any], chance: random.Random) -> None:
        self.schemas, self.chance = schemas, chance

    def name(self) -> str:
        """Most often that of a stored prompt."""
        return self.chance.choice(NAMES) if self.chance.random() < 0.9 else self.text() or "x"

    def text(self) -> str:
        """A short text of letters of many kinds."""
        letters = 'ab 01{}<>"\\\n\u00e9\u4e2d\U0001f600'
        return "".join(self.chance.choices(letters, k=self.chance.randrange(12)))

    def body(self, schema: Any) -> bytes:
        """A body, sometimes cut or changed at a byte."""
        raw = json.dumps(self.value(schema)).encode()
        if raw and self.chance.random() < 0.05:
            cut = self.chance.randrange(len(raw))
            raw = raw[:cut] + self.chance.choice([b"", b"\xff", b"}", raw[:cut]]) + raw[cut + 1 :]
        return raw

    def value(self, schema: Any, depth: int = 0, field: str = "") -> Any:
        """A value of a schema, or seldom an odd one."""
        chance = self.chance
        if chance.random() < 0.04 or depth > 8:
            return chance.choice(ODD)
        if "$ref" in schema:
            return self.value(self.schemas[schema["$ref"].rpartition("/")[2]], depth, field)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self.value(chance.choice(schema[choice]), depth + 1, field)
        if "const" in schema or "enum" in schema:
            return schema.get("const", chance.choice(schema.get("enum", [None])))
        low, high = int(schema.get("minimum", 0)), int(schema.get("maximum", 20))
        items = schema.get("items", {})
        makes = {
            "string": lambda: self.name() if field in ("model", "prompt", "name", "alias") else self.text(),
            "integer": lambda: chance.randint(low, max(low, min(high, 50))),
            "number": chance.random,
            "array": lambda: [self.value(items, depth + 1, field) for _ in range(chance.randrange(4))],
            "boolean": lambda: chance.random() < 0.5,
            "null": lambda: None,
            "object": lambda: self._object(schema, depth),
        }
        return makes[schema.get("type", "object")]()

    def _object(self, schema: Any, depth: int) -> dict[str, Any]:
        needed, made = schema.get("required", []), dict[str, Any]()
        for name, part in schema.get("properties", {}).items():
            if self.chance.random() < (0.97 if name in needed else 0.25):
                made[name] = self.value(part, depth + 1, name)
        more = schema.get("additionalProperties")
        if more and not schema.get("properties"):
            for _ in range(self.chance.randrange(3)):
                key = self.chance.choice(["text", "a", "b", "movie", self.text()])
                made[key] = self.value(more, depth + 1) if isinstance(more, dict) else self.text()
        if self.chance.random() < 0.03:
            made[self.text()] = self.chance.choice(ODD)
        return made
