"""The keys in Redis."""

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from vsyncd.cache.encoding import CID, ID, KEY, RedisKeys, key_digest, storage_format_id


def test_keys_hide_their_digest_and_differ_by_kind_and_secret() -> None:
    keys = RedisKeys("vsync", format_id="1", one_slot=False)
    digest = key_digest("12345678901", "12345678")
    distinct = {keys.record(kind, digest, secret) for kind in (CID, KEY, ID) for secret in (b"1", b"2")}
    assert len(distinct) == 6
    assert all(digest.hex().encode() not in key for key in distinct)
    assert RedisKeys("vsync", format_id="1", one_slot=True).record(CID, digest, b"1").startswith(b"{vsync}:cid:")


def message(*fields: str) -> Descriptor:
    """A message with these string fields."""
    described = DescriptorProto(name="Message")
    for number, name in enumerate(fields, 1):
        described.field.add(name=name, number=number, type=FieldDescriptorProto.TYPE_STRING)
    pool = DescriptorPool()
    pool.AddSerializedFile(FileDescriptorProto(name="f.proto", message_type=[described]).SerializeToString())
    found: Descriptor = pool.FindMessageTypeByName("Message")
    return found


def test_releases_with_different_record_formats_use_different_keys() -> None:
    assert storage_format_id(message("a")) == storage_format_id(message("a"))
    one, other = (
        RedisKeys("vsync", format_id=storage_format_id(message(*fields)), one_slot=False) for fields in ("a", "ab")
    )
    assert one.watermark != other.watermark
    assert one.record(CID, bytes(32), b"s") != other.record(CID, bytes(32), b"s")
