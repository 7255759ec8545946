"""Callers cannot append an entry that looks like one of vsyncd's own."""

import pytest
from vsyncd.domains.audit.messages import ReservedActions

RESERVED = ReservedActions(["vsync.v1.CidService", "payments.v2.PaymentService"])


@pytest.mark.parametrize(
    "action",
    [
        "vsync.v1.CidService/CreateCid",
        "vsync.notes.v1.NoteService/CreateNote",
        "payments.v2.PaymentService/StorePayment",
        "payments.v2.other",
        "Vsync.V1.CidService/CreateCid",
        "  vsync.v1.CidService/CreateCid",
        "\u3000\uff56sync.v1.CidService/CreateCid",
        "vsync\u2024v1.CidService/CreateCid",
        "vs\u200bync.v1.CidService/CreateCid",
        "v\u017fync.v1.CidService/CreateCid",
        "\u202dvsync.v1.CidService/CreateCid",
        "vsync\ufe0f.v1.CidService/CreateCid",
        "vsync .v1.CidService/CreateCid",
        "\nvsync.access/METHOD_DENIED",
    ],
)
def test_the_methods_of_every_served_package_are_reserved(action: str) -> None:
    assert action in RESERVED


@pytest.mark.parametrize("action", ["pix.key.claimed", "vsyncd.restored", "payments.v1.paid", "my vsync.v1"])
def test_any_other_action_is_not(action: str) -> None:
    assert action not in RESERVED
