"""Realistic sample records of all five key types. The same seed yields the same records.

The people and companies are invented. Their tax ids have valid check digits, so one may exist by chance.
"""

import random
from collections.abc import Iterator
from itertools import count as count_from
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from vsync.directory import DirectoryEntry, compute_cid
from vsync.records import ACCOUNT_TYPES, KEY_TYPES
from vsync.v1 import cid_pb2

# Invented participants.
ISPBS = ("10203040", "20304050", "30405060", "40506070")
_AREA_CODES = (11, 19, 21, 27, 31, 41, 47, 48, 51, 61, 62, 71, 81, 85, 91, 92)
_FIRST_NAMES = (
    *("Ana", "Antônio", "Beatriz", "Bruno", "Camila", "Carlos", "Débora", "Eduardo", "Fernanda", "Gabriel", "Helena"),
    *("Isabela", "João", "José", "Júlia", "Larissa", "Luís", "Márcia", "Maria", "Mateus", "Otávio", "Rafael", "Sônia"),
)
_LAST_NAMES = (
    *("Almeida", "Araújo", "Barbosa", "Cardoso", "Carvalho", "Costa", "Dias", "Ferreira", "Gomes", "Gonçalves"),
    *("Lima", "Lopes", "Martins", "Melo", "Oliveira", "Pereira", "Ribeiro", "Rocha", "Santos", "Silva", "Souza"),
)
_TRADES = ("Padaria", "Farmácia", "Oficina", "Mercado", "Transportes", "Construções", "Livraria", "Café")
_MAIL_DOMAINS = ("example.com", "example.net", "example.org", "correio.example")
_ASCII = str.maketrans("áâãçéêíóôõú", "aaaceeiooou")
_ALPHANUMERIC = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Owner(NamedTuple):
    """A person or a company with one account at one participant."""

    serial: int
    tax_id: str
    name: str
    trade_name: str
    ispb: str
    branch: str | None
    account_number: str
    account_type: str


def entries(count: int, seed: int = 0) -> Iterator[cid_pb2.CidRecord]:
    """Yields `count` records without duplicate keys or CIDs. A smaller count yields the first of the same records.

    The CID of each record is computed from its dict_request_id.
    """
    return islice(_all_entries(random.Random(f"vsync sample {seed}")), count)


def _all_entries(rng: random.Random) -> Iterator[cid_pb2.CidRecord]:
    scatter = _Scatter(rng)
    for serial in count_from():
        owner = _company(serial, rng, scatter) if _below(rng, 5) == 0 else _person(serial, rng, scatter)
        for key_type, key in _keys(owner, rng, scatter):
            yield record(owner, key_type, key, UUID(int=rng.getrandbits(128), version=4))


class _Scatter:
    """Maps 0, 1, 2, ... to numbers that look random and do not repeat: the serial times a prime, modulo a range."""

    _PRIME = 179_424_673

    def __init__(self, rng: random.Random) -> None:
        self._offset = rng.getrandbits(48)

    def __call__(self, serial: int, modulus: int) -> int:
        return (serial * self._PRIME + self._offset) % modulus


def _below(rng: random.Random, limit: int) -> int:
    # random() and getrandbits() return the same values in every Python version; choice() and randrange() may not.
    return int(rng.random() * limit)


def _choose(rng: random.Random, values: tuple[str, ...]) -> str:
    return values[_below(rng, len(values))]


def _person(serial: int, rng: random.Random, scatter: _Scatter) -> Owner:
    name = f"{_choose(rng, _FIRST_NAMES)} {_choose(rng, _LAST_NAMES)} {_choose(rng, _LAST_NAMES)}"
    tax_id = with_check_digits(f"{scatter(serial, 10**9):09d}", max_weight=11)
    return _account(
        serial, rng, tax_id=tax_id, name=name, trade_name="", types=("CACC", "CACC", "SVGS", "TRAN", "SLRY")
    )


def _company(serial: int, rng: random.Random, scatter: _Scatter) -> Owner:
    trade = f"{_choose(rng, _TRADES)} {_choose(rng, _LAST_NAMES)}"
    root = f"{scatter(serial, 10**8):08d}"
    if _below(rng, 3) == 0:
        # Since July 2026 a CNPJ may contain letters. These begin with a letter, so they cannot equal a numeric one.
        root = _ALPHANUMERIC[10 + _below(rng, 26)] + _in_base_36(scatter(serial, 36**7), 7)
    tax_id = with_check_digits(f"{root}0001", max_weight=9)
    name = f"{trade} Ltda"
    return _account(serial, rng, tax_id=tax_id, name=name, trade_name=trade, types=("CACC", "CACC", "TRAN"))


def _account(
    serial: int, rng: random.Random, *, tax_id: str, name: str, trade_name: str, types: tuple[str, ...]
) -> Owner:
    account_type = _choose(rng, types)
    return Owner(
        serial=serial,
        tax_id=tax_id,
        name=name,
        trade_name=trade_name,
        ispb=_choose(rng, ISPBS),
        # Payment accounts have no branch.
        branch=None if account_type == "TRAN" else f"{1 + _below(rng, 9999):04d}",
        account_number=f"{_below(rng, 10**10):010d}",
        account_type=account_type,
    )


def _keys(owner: Owner, rng: random.Random, scatter: _Scatter) -> Iterator[tuple[str, str]]:
    """Yields one to four keys: the tax id, a phone number, an e-mail address and a random key (EVP)."""
    kinds = 1 + _below(rng, 15)
    if kinds & 1:
        yield ("CPF" if len(owner.tax_id) == 11 else "CNPJ"), owner.tax_id
    if kinds & 2:
        yield "PHONE", f"+55{_AREA_CODES[_below(rng, len(_AREA_CODES))]}9{scatter(-owner.serial, 10**8):08d}"
    if kinds & 4:
        words = (owner.trade_name or owner.name).lower().translate(_ASCII).split()
        yield "EMAIL", f"{words[0]}.{words[-1]}{owner.serial}@{_choose(rng, _MAIL_DOMAINS)}"
    if kinds & 8:
        yield "EVP", str(UUID(int=rng.getrandbits(128), version=4))


def record(owner: Owner, key_type: str, key: str, request_id: UUID) -> cid_pb2.CidRecord:
    """Returns the record of one key. Its CID is computed with `request_id`."""
    entry = DirectoryEntry(
        key_type=key_type,
        key=key,
        owner_tax_id=owner.tax_id,
        owner_name=owner.name,
        owner_trade_name=owner.trade_name,
        participant=owner.ispb,
        branch=owner.branch,
        account_number=owner.account_number,
        account_type=owner.account_type,
    )
    return cid_pb2.CidRecord(
        cid=compute_cid(entry, request_id),
        key_type=KEY_TYPES.numbers[key_type],
        key_value=key,
        ispb=owner.ispb,
        branch=owner.branch,
        account_number=owner.account_number,
        account_type=ACCOUNT_TYPES.numbers[owner.account_type],
        tax_id=owner.tax_id,
        dict_request_id=str(request_id),
    )


def _in_base_36(number: int, length: int) -> str:
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, 36)
        digits = _ALPHANUMERIC[digit] + digits
    return digits


def with_check_digits(stem: str, *, max_weight: int) -> str:
    """Appends two check digits modulo 11. The weights grow from the right from 2 to `max_weight`, then restart at 2.

    The maximum is 11 for a CPF and 9 for a CNPJ. The value of a letter is its ASCII code minus 48 (Receita Federal,
    Nota Técnica 49/2024).
    """
    for _ in range(2):
        weights = max_weight - 1
        total = sum((ord(sign) - 48) * (2 + place % weights) for place, sign in enumerate(reversed(stem)))
        rest = total % 11
        stem += "0" if rest < 2 else str(11 - rest)
    return stem
