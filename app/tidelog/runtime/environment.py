"""The `.env` beside the authors' folders: variables for their files, read before any of these runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from dotenv import dotenv_values

from tidelog.errors import DeclarationError
from tidelog.settings import PREFIX

logger = logging.getLogger("tidelog.environment")

FILE = ".env"


def read_environment(root: Path) -> None:
    """Set what the file says and the environment doesn't: that goes first, as with Motia and with containers.

    The server's own settings (TIDELOG_...) are not among it, as they are read before; a warning names them. Raises
    DeclarationError if there is a file that can't be read.
    """
    file = root / FILE
    if not file.is_file():
        return
    try:
        found = dotenv_values(file)
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{file} can't be read: {error}") from None
    for name, value in found.items():
        if name.upper().startswith(PREFIX):
            logger.warning("%s: %s is a setting of the server's: set it in the environment", file, name)
        elif value is not None:  # a name without "="
            os.environ.setdefault(name, value)
