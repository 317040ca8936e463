"""Findings of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """The severity of a finding."""

    GOOD = "ok"
    NOTE = "note"
    """It works, but may not do what is wanted."""
    PROBLEM = "problem"
    """The daemon, or one of its backends, cannot work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; ``advice`` says what to do, "" if nothing."""

    severity: Severity
    subject: str
    text: str
    advice: str = ""


def good(subject: str, text: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(Severity.GOOD, subject, text)


def note(subject: str, text: str, advice: str = "") -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(Severity.NOTE, subject, text, advice)


def problem(subject: str, text: str, advice: str) -> Finding:
    """Return a finding that must be fixed."""
    return Finding(Severity.PROBLEM, subject, text, advice)
