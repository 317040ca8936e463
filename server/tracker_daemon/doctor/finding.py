"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """How bad it is."""

    GOOD = "ok"
    NOTE = "note"
    """It works here, and may not do what is wanted."""
    PROBLEM = "problem"
    """It keeps the daemon, or one of its backends, from working."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``advice`` says what to do, "" where there is nothing to do."""

    severity: Severity
    subject: str
    text: str
    advice: str = ""


def good(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(Severity.GOOD, subject, text)


def note(subject: str, text: str, advice: str = "") -> Finding:
    """Worth knowing."""
    return Finding(Severity.NOTE, subject, text, advice)


def problem(subject: str, text: str, advice: str) -> Finding:
    """To be fixed."""
    return Finding(Severity.PROBLEM, subject, text, advice)
