"""Fingerprints of requests: whether two with the same id ask for the same."""

from hashlib import blake2b


def fingerprint(*values: object) -> bytes:
    """16 bytes over the validated fields of a request, given as plain values whose repr is their content."""
    return blake2b(repr(values).encode(), digest_size=16, person=b"vsyncd request").digest()
