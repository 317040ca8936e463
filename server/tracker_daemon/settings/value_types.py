"""The types of the settings: how a value is parsed, from any of its three forms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from tracker_daemon.rules.rank_selection import RankSet, ReporterRules
from tracker_daemon.settings.directories import absolute
from tracker_daemon.settings.listen_address import normalised
from tracker_daemon.settings.metric_settings import comma_separated, without_blanks
from tracker_protocol import limits


def split(value: object) -> object:
    """Split a text with commas, or a list of such texts, into items."""
    text = comma_separated(value)
    return [item.strip() for item in text.split(",") if item.strip()] if isinstance(text, str) else value


def listen_addresses(addresses: list[str]) -> list[str]:
    """Return at least one address, each in gRPC's form."""
    if not addresses:
        msg = "a daemon listens at one address at least, such as '127.0.0.1:0'"
        raise ValueError(msg)
    return [normalised(address) for address in addresses]


def rank_set(text: str) -> str:
    """Check a set of ranks."""
    return str(RankSet.parse(text))


def reporter_rules(text: str) -> str:
    """Check rules on reporters."""
    return str(ReporterRules.parse(text))


def lower(value: object) -> object:
    """Return a word in lower case."""
    return value.strip().lower() if isinstance(value, str) else value


AbsolutePath = Annotated[Path, AfterValidator(absolute)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ByteCount = Annotated[int, Field(gt=0)]
Addresses = Annotated[list[str], BeforeValidator(split), AfterValidator(listen_addresses)]
Globs = Annotated[str, BeforeValidator(comma_separated), AfterValidator(without_blanks)]
Names = Annotated[list[str], BeforeValidator(split)]
CommaSeparated = Annotated[str, BeforeValidator(comma_separated)]
Ranks = Annotated[str, BeforeValidator(comma_separated), AfterValidator(rank_set)]
Reporters = Annotated[str, BeforeValidator(comma_separated), AfterValidator(reporter_rules)]
Token = Annotated[SecretStr, Field(min_length=limits.TOKEN_MIN_CHARACTERS)]
