"""A probe by gRPC's health protocol on grpcio, without generated code.

    grpc_probe.py TARGET SERVICE

Exits with 0 if the call was answered, whatever the answer says; the server of the tests says the
question back.
"""

import sys

import grpc

target, service = sys.argv[1], sys.argv[2].encode()
with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        check(b"\x0a" + bytes([len(service)]) + service, timeout=30)
    except grpc.RpcError as error:
        print(error.code(), error.details())
        sys.exit(1)
print("answered")
