"""The list of names whose values are secrets: for the configuration, the command and texts.

* Names with password, secret, credential, auth or the like, and those that end in token: always.
* Names that end in key: after ``api``, ``access``, ``private`` and such; else if the value looks like a key.
* Tokens of texts (``pad_token``) and their numbers (``max_tokens``) are no secrets.

Only texts are secrets: numbers, booleans and None never are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

MASK = "****"
_ALWAYS = re.compile(
    r"passw|passphrase|passcode|secret|credential|apikey|(?:^|_)(?:pwd|auth|authorization|bearer)(?:_|$)"
)
_LAST = r"(?:_(?:id|file|path|value|env|url))?$"
_TOKEN = re.compile(rf"(?:^|_)tokens?{_LAST}")
_KEY = re.compile(rf"(?:^|_|\b)keys?{_LAST}")
_KEY_OF = re.compile(
    rf"(?:^|_)(?:api|access|private|auth|ssh|signing|encryption|service|account)_?keys?{_LAST}"
)
_TOKEN_OF_TEXT = re.compile(
    r"(?:^|_)(?:pad|padding|eos|bos|sos|unk|sep|cls|mask|image|audio|video|stop|start|end|special|next|first"
    r"|last|prompt|class|per|max|min|num|n|total|new)_tokens?(?:_|$)"
)
_RUN = re.compile(r"[A-Za-z0-9]{16,}")
_PREFIX = re.compile(
    r"sk-|sk_|pk_|rk_|hf_|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|ASIA|AIza|ya29\.|wandb_v1_|eyJ|npm_"
    r"|pypi-|dop_v1_|SG\.|nvapi-|r8_|gsk_|-----BEGIN|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")

_NAMED = re.compile(r"""(?<![\w.-])([\w.-]{1,256})\\*["']?\s*[=:]\s*""")
_NAMED_VALUE = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\S+""")
_OPTION = re.compile(r"(?<!\S)(-[\w.-]{1,256})\s+")
_OPTION_VALUE = re.compile(r"\S+")
_JUDGED_BY = 256
"""The number of characters by which a value behind a name in a text is judged."""
_BEARER = re.compile(r"\b(bearer|basic)\s+\S+", re.IGNORECASE)
_USER_INFORMATION = re.compile(r"(?<=://)(?:[^\s/@:]*:\S*|[^\s/]*)(?=@)")


def is_secret_name(name: str) -> bool:
    """Return True if each text of this name is a secret."""
    words = _words(name)
    if _ALWAYS.search(words) or _KEY_OF.search(words):
        return True
    return _TOKEN.search(words) is not None and _TOKEN_OF_TEXT.search(words) is None


def is_secret(name: str, text: str) -> bool:
    """Return True if ``text`` is a secret, as the value of this name."""
    return is_secret_name(name) or (_KEY.search(_words(name)) is not None and _looks_like_a_key(text))


def mask_secrets(text: str) -> str:
    """Replace secrets in ``text`` by ``****``: values behind a secret's name, and users in URLs."""
    text = _USER_INFORMATION.sub(MASK, text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    return _masked(_masked(text, _OPTION, _OPTION_VALUE), _NAMED, _NAMED_VALUE)


def mask_arguments(arguments: Iterable[Any]) -> list[Any]:
    """Replace secrets in a command's arguments by ``****``; whatever is no text stays.

    A secret is recognised by the option's name: the value in ``--api-key=…``, and all values after
    ``--api-key`` up to the next option.
    """
    masked: list[Any] = []
    option, first = "", False
    for argument in arguments:
        if not isinstance(argument, str):
            masked.append(argument)
            first = False
            continue
        is_value = option and not argument.startswith("--" if first and is_secret(option, argument) else "-")
        if is_value:
            masked.append(MASK if is_secret(option, argument) else mask_secrets(argument))
            first = False
            continue
        name, equals, value = argument.partition("=")
        option, first = ("", False) if equals or not name.startswith("-") else (name, True)
        secret = bool(equals) and is_secret(name, value)
        masked.append(f"{mask_secrets(name)}={MASK}" if secret else mask_secrets(argument))
    return masked


def _masked(text: str, names: re.Pattern[str], values: re.Pattern[str]) -> str:
    """Mask each secret value behind its name. A value that is no secret may hold further names."""
    kept: list[str] = []
    at = 0
    while (named := names.search(text, at)) is not None:
        begin = named.end()
        piece = values.match(text, begin, begin + _JUDGED_BY)
        secret = piece is not None and is_secret(named[1], piece[0])
        value = values.match(text, begin) if secret else None
        kept.append(text[at:begin] if value is None else f"{text[at:begin]}{MASK}")
        at = begin if value is None else value.end()
    return "".join((*kept, text[at:]))


def _words(name: str) -> str:
    return _SEPARATORS.sub("_", _CAMEL.sub("_", name)).strip("_").lower()


def _looks_like_a_key(text: str) -> bool:
    """Return True if ``text`` has 16 letters and digits in a row, or begins as a known kind of secret."""
    if _PREFIX.match(text.strip("\"' ")):
        return True
    return any(any(map(str.isdigit, run)) and any(map(str.isalpha, run)) for run in _RUN.findall(text))
