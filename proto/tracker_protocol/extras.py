"""What the extra ``daemon`` brings, for those who must know whether it is installed without importing it."""

DAEMON_PACKAGES = frozenset(
    {
        "dotenv",
        "msgspec",
        "numpy",
        "platformdirs",
        "pydantic",
        "pydantic_settings",
        "rich",
        "structlog",
        "tomli",
        "typer",
    }
)
"""By the names that are imported; ``tomli`` only before Python 3.11."""
