"""What a failed TLS handshake was about, in a sentence that names the setting to mend."""

import ssl
from collections.abc import Iterator

# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL's x509_vfy.h
_WRONG_NAMES = (62, 64)
# What a record looks like that is none (SSL_R_WRONG_VERSION_NUMBER and its like of OpenSSL's sslerr.h)
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")


def tls_problem(error: BaseException, *, url: str, ca_file: str) -> str | None:
    """What kept ``error``, or what it came of, from a verified connection; None where that was something else.

    ``url`` and ``ca_file`` are the names of the settings that say where to connect and whom to trust.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = f"{url} must name the host as the certificate does" if _is_another_host(cause) else _trust(ca_file)
            return f"the server's certificate was refused: {cause.verify_message.rstrip('.')}; {hint}"
        reason = getattr(cause, "reason", None)  # of errors that OpenSSL raised; others of the same class have none
        if isinstance(cause, ssl.SSLError) and reason in _NO_TLS:
            return f"the server does not speak TLS there ({reason}), as {url} wants it to"
    return None


def _trust(ca_file: str) -> str:
    return f"{ca_file} must name a file with the certificate of its CA"


def _is_another_host(error: ssl.SSLCertVerificationError) -> bool:
    return error.verify_code in _WRONG_NAMES


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that it was raised from or while handling, nearest first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
