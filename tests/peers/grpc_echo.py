"""A gRPC echo server and client on grpcio, without generated code: messages are bytes.

    grpc_echo.py server PORT
    grpc_echo.py client TARGET [HTTP_PROXY]

The client checks every kind of call, trailers, and a long message, prints what it checked, and
exits with 0 only if all of it held.
"""

import sys
from concurrent import futures

import grpc

SERVICE = "weft.test.Echo"


class Echo(grpc.GenericRpcHandler):
    """Four kinds of call; `sum` fails on purpose."""

    def service(self, call):
        return {
            f"/{SERVICE}/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            f"/{SERVICE}/Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            f"/{SERVICE}/Split": grpc.unary_stream_rpc_method_handler(self.split),
            f"/{SERVICE}/Join": grpc.stream_unary_rpc_method_handler(self.join),
            f"/{SERVICE}/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
        }.get(call.method)

    @staticmethod
    def unary(request, context):
        context.set_trailing_metadata((("x-length", str(len(request))),))
        return request

    @staticmethod
    def chat(requests, context):
        yield from requests

    @staticmethod
    def split(request, context):
        for byte in request:
            yield bytes([byte])

    @staticmethod
    def join(requests, context):
        return b"".join(requests)

    @staticmethod
    def fail(request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked: 100% wrong")


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


def call(target, proxy):
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 1 if proxy else 0)]
    if proxy:
        options.append(("grpc.http_proxy", proxy))
    with grpc.insecure_channel(target, options=options) as channel:
        unary = channel.unary_unary(f"/{SERVICE}/Unary")
        answer, details = unary.with_call(b"hello", timeout=30, metadata=(("x-from", "grpcio"),))
        assert answer == b"hello", answer
        assert dict(details.trailing_metadata())["x-length"] == "5", details.trailing_metadata()
        print("unary with trailing metadata")
        long = bytes(range(256)) * 8192
        assert unary(long, timeout=60) == long
        print("a message of 2 MiB")
        chat = channel.stream_stream(f"/{SERVICE}/Chat")
        sent = [str(number).encode() for number in range(100)]
        assert list(chat(iter(sent), timeout=30)) == sent
        print("100 messages both ways")
        split = channel.unary_stream(f"/{SERVICE}/Split")
        assert b"".join(split(b"abcdef", timeout=30)) == b"abcdef"
        join = channel.stream_unary(f"/{SERVICE}/Join")
        assert join(iter(sent), timeout=30) == b"".join(sent)
        print("streams one way")
        try:
            channel.unary_unary(f"/{SERVICE}/Fail")(b"", timeout=30)
            raise AssertionError("it did not fail")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
            assert error.details() == "as asked: 100% wrong", error.details()
        print("a failure with its message")


if sys.argv[1] == "server":
    serve(int(sys.argv[2]))
else:
    call(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
