"""What in the environment or the network stands between this machine and a hub (pitfall variable-in-the-way)."""

import os
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "SSLKEYLOGFILE")
NO_HUB = (
    "what came is no answer of a hub: a login page of your network stands before it (open any page in a browser), or "
    "the address (endpoint=, HF_ENDPOINT) is not a hub"
)


def culprit(address: str, error: object = "") -> str:
    """The variables that may be why a connection to an address failed, to be put behind the error; "" for none."""
    found = []
    doubted = "certificate" in str(error).lower()
    for name in filter(os.environ.get, CERTIFICATES):
        parts = os.environ[name].split(os.pathsep) if name == "SSL_CERT_DIR" else [os.environ[name]]
        missing = not any(Path(part).exists() for part in parts)
        wrong = missing or (name in ("SSL_CERT_FILE", "PIP_CERT") and Path(parts[0]).is_dir())
        if name == "SSLKEYLOGFILE":  # Python writes into it at every connection
            missing, wrong = False, not os.access(Path(parts[0]).absolute().parent, os.W_OK) or Path(parts[0]).is_dir()
        if wrong or (doubted and name != "SSLKEYLOGFILE"):
            what = ", which is not there" if missing else ", which is no file to use" if wrong else ""
            found.append(f"{name} names {os.environ[name]}{what}")
    if doubted and not found:
        return "; a proxy or the network puts its own certificate there: set SSL_CERT_FILE to the file that holds it"
    url, proxies = urlsplit(address), getproxies_environment()
    kind = next((kind for kind in (url.scheme, "all") if proxies.get(kind)), None)
    if kind and not proxy_bypass_environment(url.netloc, proxies):
        value = proxies[kind]
        name = next(name for name in os.environ if name.lower() == f"{kind}_proxy" and os.environ[name] == value)
        found.append(f"{name} sends it to {'a proxy' if '@' in value else value}")  # before an @ stands a password
    return f"; {', '.join(found)}: mend or unset it" if found else ""
