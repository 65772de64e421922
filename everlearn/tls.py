"""TLS to an upstream: whom its clients trust, and what to say when they do not."""

import ssl

from everlearn.config import Upstream
from everlearn.errors import ConfigError


def tls_context(upstream: Upstream) -> ssl.SSLContext:
    """Trusts `tls_ca_file` alone if that is set, else what the system trusts, which $SSL_CERT_FILE
    replaces. ConfigError if the file holds no certificate."""
    try:
        return ssl.create_default_context(cafile=upstream.tls_ca_file)
    except OSError as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else "no certificate in it"
        raise ConfigError(f"tls_ca_file {upstream.tls_ca_file}: {reason}") from error


def verify(upstream: Upstream) -> ssl.SSLContext | bool:
    """The same for httpx."""
    return True if upstream.tls_ca_file is None else tls_context(upstream)


def reason(error: OSError) -> str:
    """Why no connection was made, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {error.reason}"
    return error.strerror or type(error).__name__
