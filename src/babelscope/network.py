"""Whether the Hugging Face hub can be asked at all: without a network its libraries try again for minutes."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

PATIENCE = 3.0
"""seconds in which a machine of the hub must answer the knock"""


def hub_answers() -> bool:
    """Whether the hub's address is known and takes a connection.

    Behind a proxy only the proxy knows that, so it is assumed.
    Without an answer, what is asked for is looked up in the cache alone, which takes no time.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    if getproxies():
        return True
    place = urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        with socket.create_connection((place.hostname or "", port), timeout=PATIENCE):
            return True
    except OSError:
        return False
