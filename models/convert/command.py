"""How the commands of this package end."""

import sys

from .checkpoint import ConvertError


def run(main):
    """Runs a command; an error that a user can remedy is one line."""
    try:
        main()
    except (ConvertError, OSError) as error:
        sys.exit(f"error: {error}")
