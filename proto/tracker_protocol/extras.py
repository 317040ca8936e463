"""The distribution's extras, for code that checks what is installed without importing it."""

DAEMON_PACKAGES = frozenset(
    {
        "dotenv",
        "msgspec",
        "numpy",
        "platformdirs",
        "pydantic",
        "rich",
        "structlog",
        "tomli",
        "typer",
    }
)
"""The packages of the extra ``daemon``, by the names that are imported; ``tomli`` only before Python 3.11."""

BACKEND_PACKAGES = {"mlflow": "mlflow", "wandb": "wandb"}
"""The package that each built-in backend needs, if it needs one; the extra has the backend's name."""
