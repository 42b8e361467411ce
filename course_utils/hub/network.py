"""What in the environment or the network stands between this machine and a hub (pitfall variable-in-the-way)."""

import os
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
NO_HUB = (
    "what came is no answer of a hub: a login page of your network stands before it (open any page in a browser), or "
    "the address (endpoint=, HF_ENDPOINT) is not a hub"
)


def culprit(address: str, error: object = "") -> str:
    """The variables that may be why a connection to an address failed, to be put behind the error; "" for none."""
    found = []
    for name in CERTIFICATES:
        missing = os.environ.get(name) and not Path(os.environ[name]).exists()
        if missing or (os.environ.get(name) and "certificate" in str(error).lower()):
            found.append(f"{name} names {os.environ[name]}{', which is not there' if missing else ''}")
    url, proxies = urlsplit(address), getproxies_environment()
    kind = next((kind for kind in (url.scheme, "all") if proxies.get(kind)), None)
    if kind and not proxy_bypass_environment(url.netloc, proxies):
        value = proxies[kind]
        name = next(name for name in os.environ if name.lower() == f"{kind}_proxy" and os.environ[name] == value)
        found.append(f"{name} sends it to {'a proxy' if '@' in value else value}")  # before an @ stands a password
    return f"; {', '.join(found)}: mend or unset it" if found else ""
