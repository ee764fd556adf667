"""Our protobuf subset is Envoy's: every field number, wire type and enum value, against envoy_data_plane."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from protos.gen import accesslog_pb2, extproc_pb2

ROOT = Path(__file__).resolve().parent.parent
CORE = "envoy.config.core.v3"
EXT_PROC = "envoy.service.ext_proc.v3"
ACCESS = "envoy.data.accesslog.v3"
ACCESS_SERVICE = "envoy.service.accesslog.v3"

# Message name -> (module of envoy_data_plane, class name there).
ORACLE = {
    "gw.extproc.HeaderValue": (CORE, "HeaderValue"),
    "gw.extproc.HeaderMap": (CORE, "HeaderMap"),
    "gw.extproc.HeaderValueOption": (CORE, "HeaderValueOption"),
    "gw.extproc.Metadata": (CORE, "Metadata"),
    "gw.extproc.ProcessingMode": ("envoy.extensions.filters.http.ext_proc.v3", "ProcessingMode"),
    "gw.extproc.HttpHeaders": (EXT_PROC, "HttpHeaders"),
    "gw.extproc.HttpBody": (EXT_PROC, "HttpBody"),
    "gw.extproc.HttpTrailers": (EXT_PROC, "HttpTrailers"),
    "gw.extproc.ProcessingRequest": (EXT_PROC, "ProcessingRequest"),
    "gw.extproc.HeaderMutation": (EXT_PROC, "HeaderMutation"),
    "gw.extproc.BodyMutation": (EXT_PROC, "BodyMutation"),
    "gw.extproc.CommonResponse": (EXT_PROC, "CommonResponse"),
    "gw.extproc.HeadersResponse": (EXT_PROC, "HeadersResponse"),
    "gw.extproc.BodyResponse": (EXT_PROC, "BodyResponse"),
    "gw.extproc.TrailersResponse": (EXT_PROC, "TrailersResponse"),
    "gw.extproc.HttpStatus": ("envoy.type.v3", "HttpStatus"),
    "gw.extproc.ImmediateResponse": (EXT_PROC, "ImmediateResponse"),
    "gw.extproc.ProcessingResponse": (EXT_PROC, "ProcessingResponse"),
    "gw.accesslog.Metadata": (CORE, "Metadata"),
    "gw.accesslog.ResponseFlags": (ACCESS, "ResponseFlags"),
    "gw.accesslog.AccessLogCommon": (ACCESS, "AccessLogCommon"),
    "gw.accesslog.HTTPRequestProperties": (ACCESS, "HttpRequestProperties"),
    "gw.accesslog.HTTPResponseProperties": (ACCESS, "HttpResponseProperties"),
    "gw.accesslog.HTTPAccessLogEntry": (ACCESS, "HttpAccessLogEntry"),
    "gw.accesslog.StreamAccessLogsMessage": (ACCESS_SERVICE, "StreamAccessLogsMessage"),
    "gw.accesslog.StreamAccessLogsMessage.Identifier": (ACCESS_SERVICE, "StreamAccessLogsMessageIdentifier"),
    "gw.accesslog.StreamAccessLogsMessage.HTTPAccessLogEntries": (
        ACCESS_SERVICE,
        "StreamAccessLogsMessageHttpAccessLogEntries",
    ),
    "gw.accesslog.StreamAccessLogsResponse": (ACCESS_SERVICE, "StreamAccessLogsResponse"),
}
TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_MESSAGE: "message",
}
SAME_ON_THE_WIRE = {("int32", "enum")}


def messages(parents: Any) -> list[Descriptor]:
    found = []
    for message in parents:
        if not message.GetOptions().map_entry:
            found += [message, *messages(message.nested_types)]
    return found


OURS = {
    message.full_name: message
    for module in (extproc_pb2, accesslog_pb2)
    for message in messages(module.DESCRIPTOR.message_types_by_name.values())
}


def oracle_fields(full_name: str) -> dict[str, Any]:
    module, name = ORACLE[full_name]
    cls = getattr(importlib.import_module(f"envoy_data_plane.{module}"), name)
    return {field.name: field.metadata["betterproto"] for field in dataclasses.fields(cls)}


def test_every_message_has_an_oracle() -> None:
    assert set(OURS) == set(ORACLE)


@pytest.mark.parametrize("full_name", sorted(ORACLE))
def test_fields_have_envoys_numbers_and_wire_types(full_name: str) -> None:
    theirs = oracle_fields(full_name)
    for field in OURS[full_name].fields:
        assert field.name in theirs, f"{full_name}.{field.name} is no field of Envoy's"
        meta = theirs[field.name]
        assert field.number == meta.number, f"{full_name}.{field.name}"
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            assert meta.map_meta is not None
            continue
        assert field.is_repeated == meta.repeated, f"{full_name}.{field.name}"
        ours, envoys = TYPES[field.type], str(meta.proto_type).rpartition(".")[2]
        assert ours == envoys or (ours, envoys) in SAME_ON_THE_WIRE, f"{full_name}.{field.name}: {ours}, not {envoys}"
        assert (field.containing_oneof.name if field.containing_oneof else None) == meta.group


@pytest.mark.parametrize(
    ("ours", "module", "name"),
    [
        (extproc_pb2.CommonResponse.ResponseStatus, EXT_PROC, "CommonResponseResponseStatus"),
        (extproc_pb2.HeaderValueOption.HeaderAppendAction, CORE, "HeaderValueOptionHeaderAppendAction"),
        (
            extproc_pb2.ProcessingMode.HeaderSendMode,
            "envoy.extensions.filters.http.ext_proc.v3",
            "ProcessingModeHeaderSendMode",
        ),
        (
            extproc_pb2.ProcessingMode.BodySendMode,
            "envoy.extensions.filters.http.ext_proc.v3",
            "ProcessingModeBodySendMode",
        ),
    ],
)
def test_enums_have_envoys_values(ours: Any, module: str, name: str) -> None:
    theirs = getattr(importlib.import_module(f"envoy_data_plane.{module}"), name)
    for label, value in ours.items():
        assert theirs(value).name == label


def test_a_message_of_envoys_own_types_is_read_by_ours() -> None:
    module = importlib.import_module(f"envoy_data_plane.{EXT_PROC}")
    core = importlib.import_module(f"envoy_data_plane.{CORE}")
    headers = core.HeaderMap(headers=[core.HeaderValue(key=":path", raw_value=b"/v1")])
    theirs = module.ProcessingRequest(request_headers=module.HttpHeaders(headers=headers, end_of_stream=True))
    ours = extproc_pb2.ProcessingRequest.FromString(bytes(theirs))
    assert ours.request_headers.headers.headers[0].raw_value == b"/v1"
    assert ours.request_headers.end_of_stream


def test_generated_stubs_are_those_of_the_proto_files(tmp_path: Path) -> None:
    protos = sorted((ROOT / "protos").glob("*.proto"))
    pytest.importorskip("grpc_tools")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}"]
    subprocess.run([*command, f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", *map(str, protos)], check=True)
    for generated in tmp_path.iterdir():
        assert generated.read_text() == (ROOT / "protos" / "gen" / generated.name).read_text(), "run `make protos`"
