"""An external authorizer on grpcio, by Envoy's own definitions (the package xds-protos).

    ext_authz.py server PORT

Answers as the request's own field `x-ask` says. What it was told goes to the application in fields
`x-told-*`, as this side reads it.
"""

import sys
from concurrent import futures

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.type.v3 import http_status_pb2
from google.protobuf import unknown_fields
from google.rpc import code_pb2, status_pb2

Option = base_pb2.HeaderValueOption


def field(name, value, **how):
    return Option(header=base_pb2.HeaderValue(key=name, value=value), **how)


def is_known(message):
    """Whether every field of it, however deep, is one of Envoy's."""
    if len(unknown_fields.UnknownFieldSet(message)):
        return False
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
            continue
        parts = [value] if hasattr(value, "ListFields") else value
        if not all(is_known(part) for part in parts):
            return False
    return True


def told(attributes):
    http = attributes.request.http
    source, destination = attributes.source, attributes.destination
    return {
        "method": http.method,
        "path": http.path,
        "host": http.host,
        "scheme": http.scheme,
        "protocol": http.protocol,
        "size": str(http.size),
        "body": http.body or "none",
        "partial": http.headers["x-envoy-auth-partial-body"] or "unsaid",
        "source": source.principal,
        "source-address": source.address.socket_address.address,
        "destination": destination.principal,
        "destination-port": str(destination.address.socket_address.port_value),
        "sni": attributes.tls_session.sni,
        "time": str(attributes.request.time.seconds),
        "pseudo": " ".join(http.headers[name] for name in (":method", ":path", ":authority", ":scheme")),
    }


def denied():
    answer = external_auth_pb2.CheckResponse(status=status_pb2.Status(code=code_pb2.PERMISSION_DENIED))
    answer.denied_response.status.code = http_status_pb2.TooManyRequests
    answer.denied_response.headers.append(field("x-why", "not today"))
    answer.denied_response.body = "come back tomorrow"
    return answer


def agreed(attributes):
    answer = external_auth_pb2.CheckResponse(status=status_pb2.Status(code=code_pb2.OK))
    ok = answer.ok_response
    ok.headers.extend(field(f"x-told-{name}", value) for name, value in told(attributes).items())
    ok.headers.append(field("x-list", "b", append_action=Option.APPEND_IF_EXISTS_OR_ADD, append={"value": True}))
    ok.headers.append(field("x-mine", "no", append_action=Option.ADD_IF_ABSENT))
    ok.headers.append(field("x-user", "joe", append_action=Option.OVERWRITE_IF_EXISTS_OR_ADD))
    ok.headers_to_remove.append("x-secret")
    ok.response_headers_to_add.append(field("x-judged", "yes"))
    answer.dynamic_metadata["anything"] = "for Envoy's own filters"
    return answer


class Authorizer(external_auth_pb2_grpc.AuthorizationServicer):
    def Check(self, request, context):
        if not is_known(request):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a field that Envoy's definitions do not have")
        wish = request.attributes.request.http.headers["x-ask"]
        if wish == "abort":
            context.abort(grpc.StatusCode.UNAVAILABLE, "as asked")
        if wish == "deny":
            return denied()
        if wish == "deny without a word":
            return external_auth_pb2.CheckResponse(status=status_pb2.Status(code=code_pb2.UNAUTHENTICATED))
        return agreed(request.attributes)


server = grpc.server(futures.ThreadPoolExecutor(4))
external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Authorizer(), server)
server.add_insecure_port(f"127.0.0.1:{sys.argv[2]}")
server.start()
print("serving", flush=True)
server.wait_for_termination()
