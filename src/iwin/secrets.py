"""What must not be written down: keys that name a secret, and the user in a URL.

Everything that leaves a run goes through `redact`: saved configurations, checkpoints, provenance, messages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

HIDDEN = "***"
# The words of a key that make it a secret's. Of plurals only strings are hidden: a model may have num_tokens=16.
SINGULAR = {"token", "key", "secret", "password", "passwd", "passphrase", "apikey", "credential"}
PLURAL = {"tokens", "keys", "secrets", "passwords", "credentials"}
LEAST_LENGTH = 4  # of a secret that is looked for in other texts: shorter ones stand in them by chance

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# scheme://user:password@host. A password may hold a slash, which it must not: then no port follows the colon.
_USER_INFO = re.compile(r"(?<=://)(?:[^/\s?#]*@|[^/\s@:]+:(?!\d*(?:[/?#\s]|$))[^\s@]*@)")
_VALUE = r"""(?:\$\{[^}]*\}|"[^"\n]*"|'[^'\n]*'|[^\s,;&"'}\])]+)"""
_ASSIGNED = re.compile(rf"(?<![\w.-])(?P<name>[A-Za-z_][\w.@/-]*)=(?P<value>{_VALUE})")  # also in a URL's query
# As in YAML, JSON and Python: at the beginning of a line, or in braces.
_MAPPED = re.compile(
    rf"""(?m)(?:^[ \t-]*|[{{,]\s*)(?P<q>["']?)(?P<name>[A-Za-z_][\w-]*)(?P=q):[ \t]*(?P<value>{_VALUE})"""
)
_OVERRIDE = re.compile(r"(?s)[+~]*(?P<name>[A-Za-z_][\w.@/-]*)=(?P<value>.*)")


def names_secret(name: str, value: object = "") -> bool:
    """Whether `value` is hidden under the key `name`, which may be dotted: api_key, hf_token, logger.wandb.apiKey.

    Truth values and None tell nothing and stay. A number is hidden where a part of the name ends in a secret's
    word, as password; but not key_dim=16.
    """
    if value is None or isinstance(value, bool):
        return False
    for part in re.split(r"[./@]", name):
        words = [word.lower() for word in _WORD.findall(part)]
        if isinstance(value, int | float):
            if words and words[-1] in SINGULAR:
                return True
        elif not (SINGULAR | PLURAL).isdisjoint(words):
            return True
    return False


def redact(value: Any, known: Iterable[str] = ()) -> Any:
    """`value` (plain data, or a text) with every secret in it as ***; dicts, lists and tuples are copied.

    Hidden are the values of keys that name a secret, at any depth and in texts (`key=value`, `key: value`), the
    user in URLs, and the secrets in `known` (see `secrets_in`) wherever they stand in a text.
    """
    known = sorted(known, key=len, reverse=True)
    if isinstance(value, str):
        return _in_text(value, known)
    if isinstance(value, Mapping):
        return {key: _under(str(key), item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact(item, known) for item in value)
    return value


def secrets_in(value: Any, under: str = "") -> set[str]:
    """The secrets in `value` (plain data, overrides or other texts), to be looked for where a message may repeat them.

    under: the dotted key that `value` stands under.
    """
    found: set[str] = set()
    if isinstance(value, Mapping):
        found = set().union(*(secrets_in(item, f"{under}.{key}") for key, item in value.items()))
    elif isinstance(value, list | tuple):
        found = set().union(*(secrets_in(item, under) for item in value))
    elif names_secret(under, value):
        found = {str(value)}
    elif isinstance(value, str):
        override = _OVERRIDE.fullmatch(value)
        if override and names_secret(override["name"], _number_or_text(override["value"])):
            found.add(override["value"])
        for pattern in (_ASSIGNED, _MAPPED):
            pairs = ((match["name"], match["value"]) for match in pattern.finditer(value))
            found |= {text for name, text in pairs if names_secret(name, _number_or_text(text))}
        found |= {match[0].rstrip("@").partition(":")[2] for match in _USER_INFO.finditer(value)}
    stripped = {text.strip("\"' ") for text in found}
    return {text for text in stripped if len(text) >= LEAST_LENGTH and text != HIDDEN}


class RedactedStream:
    """A text stream that hides secrets in whatever is written to it, and is the given one in all else.

    known: secrets besides those that show by their key or place; may grow while the stream is in use.
    """

    def __init__(self, stream: TextIO, known: set[str]) -> None:
        self._stream, self._known = stream, known

    def write(self, text: str) -> int:
        self._stream.write(redact(text, self._known))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def redacted_output(known: set[str]) -> Iterator[None]:
    """Hide secrets in all that Python writes to stdout and stderr meanwhile; see RedactedStream."""
    streams = (cast(TextIO, RedactedStream(stream, known)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(next(streams)), redirect_stderr(next(streams)):
        yield


def _under(name: str, value: Any, known: list[str]) -> Any:
    """What stands under the key `name`: in lists and mappings under a secret's key, each value is one."""
    if isinstance(value, Mapping):
        return {key: _under(f"{name}.{key}", item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_under(name, item, known) for item in value)
    return HIDDEN if value != "" and names_secret(name, value) else redact(value, known)


def _in_text(text: str, known: list[str]) -> str:
    for secret in known:
        text = text.replace(secret, HIDDEN)
    text = _USER_INFO.sub(f"{HIDDEN}@", text)
    override = _OVERRIDE.fullmatch(text)
    if override and "\n" not in text and names_secret(override["name"], _number_or_text(override["value"])):
        return text[: override.start("value")] + HIDDEN
    for pattern in (_ASSIGNED, _MAPPED):
        text = pattern.sub(_hide_value, text)
    return text


def _hide_value(match: re.Match[str]) -> str:
    if not names_secret(match["name"], _number_or_text(match["value"])):
        return match[0]
    start, end = match.start("value") - match.start(), match.end("value") - match.start()
    quote = match["value"][0] if match["value"][0] in "\"'" else ""
    return f"{match[0][:start]}{quote}{HIDDEN}{quote}{match[0][end:]}"


def _number_or_text(text: str) -> object:
    """A value as written in a text, as far as `names_secret` tells kinds apart."""
    if text.lower() in ("", "null", "none", "true", "false", HIDDEN) or text.startswith("${"):  # where it is read
        return None
    return float(text) if re.fullmatch(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", text, re.IGNORECASE) else text
