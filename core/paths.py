"""Where this installation keeps its files."""

import os
from pathlib import Path

APP_NAME = "heablcoin-cloud"
DATABASE_ENV = "HEABLCOIN_CLOUD_DATABASE"
MEMORY = ":memory:"


def data_dir() -> Path:
    """The platform's per-user data directory for this application (not created here)."""
    from platformdirs import user_data_path

    return user_data_path(APP_NAME, appauthor=False)


def config_dir() -> Path:
    """The platform's per-user configuration directory for this application (not created here)."""
    from platformdirs import user_config_path

    return user_config_path(APP_NAME, appauthor=False)


def database_path() -> str:
    """The database every process of this user shares: `HEABLCOIN_CLOUD_DATABASE` when set, else the data directory."""
    chosen = os.environ.get(DATABASE_ENV, "").strip()
    if chosen == MEMORY:
        return MEMORY
    return str(Path(chosen).expanduser()) if chosen else str(data_dir() / "cloud.db")
