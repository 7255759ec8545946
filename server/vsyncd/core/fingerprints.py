"""Fingerprints of requests: two requests with one request id must have the same content."""

from hashlib import blake2b


def fingerprint(*values: object) -> bytes:
    """Returns a 16-byte digest of a request's validated fields, given as plain values whose repr is their content."""
    return blake2b(repr(values).encode(), digest_size=16, person=b"vsyncd request").digest()
